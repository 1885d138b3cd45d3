"""What each of LiteLLM's loggers would have put on a span, worked out by the logger itself.

LiteLLM stamps all vocabularies of a logger on one span, within one budget of attributes: of several that share it, each
is cut short. So the one span that is recorded carries the plain vocabulary, and each other logger stamps a twin of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Span, SpanProcessor, _Span

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.vocabularies import Vocabulary, with_room_for
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import OF_AN_ATTEMPT
from litellm_otel_plugin.upstream.access import module, put, take
from litellm_otel_plugin.upstream.identity import promotion_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from litellm_otel_plugin.backends.vocabularies import Vocabularies
    from litellm_otel_plugin.upstream.identity import Identities

# How the data of a span were made, on the data themselves.
MADE_BY = "_litellm_otel_made_by"
LANGFUSES_WORDS = "langfuse"
_LANGFUSES_CONTENT = ("langfuse.observation.input", "langfuse.observation.output")
OPENINFERENCES_WORDS = "openinference"

OPENINFERENCE_KIND = "openinference.span.kind"
_GUARDRAIL, _TOOL = "litellm.guardrail.name", "gen_ai.tool.name"


def with_kind(attributes: Mapping[str, Any]) -> Mapping[str, str]:
    """OpenInference's kind of a span that has none.

    LiteLLM's mapper gives one to model calls alone, and its baggage puts the model's name on every span: Phoenix takes
    each of those for one more model call.
    """
    if OPENINFERENCE_KIND in attributes:
        return {}
    kind = "GUARDRAIL" if _GUARDRAIL in attributes else "TOOL" if _TOOL in attributes else "CHAIN"
    return {OPENINFERENCE_KIND: kind}


@dataclass(eq=False)
class Wording:
    """One way to word a span, and the loggers that share it."""

    vocabulary: Vocabulary
    loggers: list[Any] = field(default_factory=list)

    def attributes(self, role: Any, span: Span, before: Mapping[str, Any], data: Any, end_time_ns: int | None) -> Any:
        """All attributes of a span, as if the logger had been alone with it: those from before, and the logger's."""
        (logger, *_) = self.loggers
        ours = {name: before[name] for name in OF_AN_ATTEMPT if name in before}
        twin = _Span(
            name=span.name,
            context=span.get_span_context(),
            resource=span.resource,
            # Without ours: they would take the places of what LiteLLM fits into the span's limit.
            attributes={name: value for name, value in before.items() if name not in ours},
            kind=span.kind,
            span_processor=SpanProcessor(),
            instrumentation_scope=span.instrumentation_scope,
            limits=span._limits,  # noqa: SLF001 - the SDK tells a span's limits to nobody
        )
        twin.start(start_time=span.start_time)
        logger._emitter.finish_span(role, twin, in_its_view(data, logger), end_time_ns=end_time_ns)  # noqa: SLF001
        return with_room_for(twin._attributes, ours)  # noqa: SLF001 - with the count of what was dropped


class Wordings:
    """All ways to word a span that differ from the plain one."""

    def __init__(self, vocabularies: Vocabularies, identities: Identities, is_wanted: Callable[[Any], bool]) -> None:
        self._vocabularies = vocabularies
        self._identities = identities
        self._is_wanted = is_wanted
        self._plain: Any = None
        self._others: dict[Any, Wording] = {}

    def speak_plainly_through(self, logger: Any, on_finish: Callable[..., None]) -> None:
        """Let this logger record what is recorded, in its own words, and note how the others would have worded it."""
        self._plain = logger
        emitter = logger._emitter  # noqa: SLF001
        finish = emitter.finish_span

        @functools.wraps(finish)
        def finish_span(role: Any, span: Any, data: Any, *, end_time_ns: int | None = None) -> None:
            recorded = isinstance(span, Span) and span.is_recording()
            if recorded:
                with contained("wording a span for each backend"):
                    self._note(role, span, data, end_time_ns)
                with contained("ending a span's copies"):
                    on_finish(role, span, data, end_time_ns=end_time_ns)
            try:
                finish(role, span, data, end_time_ns=end_time_ns)
            finally:
                if recorded:
                    self._vocabularies.forget(span)

        emitter.finish_span = finish_span

    def learn(self, logger: Any) -> Vocabulary | None:
        """How this logger words a span; ``None`` where that is the plain way."""
        key = _wording_key(logger)
        if key == _wording_key(self._plain):
            return None
        wording = self._others.get(key)
        if wording is None:
            names = logger.config.mapper_names
            completing = with_kind if OPENINFERENCES_WORDS in names else None
            promotion = self._identities.learn(logger.config)
            wording = self._others[key] = Wording(Vocabulary("+".join(names), completing, promotion))
        wording.loggers.append(logger)
        return wording.vocabulary

    def vocabulary_of(self, callback_name: str | None) -> Vocabulary | None:
        """In which words a backend that a callback names wants a span; ``None`` for the plain ones."""
        for wording in tuple(self._others.values()):
            if any(logger.callback_name == callback_name for logger in wording.loggers):
                return wording.vocabulary
        return None

    def stamp_for_langfuse(self, span: Any, attributes: Mapping[str, Any]) -> None:
        """Put attributes of Langfuse's on a span, for those alone that speak its words."""
        without_content = {name: value for name, value in attributes.items() if name not in _LANGFUSES_CONTENT}
        if LANGFUSES_WORDS in self._plain.config.mapper_names:
            span.set_attributes(attributes if captures(self._plain) else without_content)
        for wording in tuple(self._others.values()):
            logger = wording.loggers[0]
            if LANGFUSES_WORDS in logger.config.mapper_names:
                visible = attributes if captures(logger) else without_content
                self._vocabularies.add(span, wording.vocabulary, visible)

    def _note(self, role: Any, span: Span, data: Any, end_time_ns: int | None) -> None:
        plain: Mapping[str, Any] | None = None
        for wording in tuple(self._others.values()):
            # One that may see less than the plain words show is never left with those.
            narrower = captures(self._plain) and not captures(wording.loggers[0])
            if not narrower and not any(map(self._is_wanted, wording.loggers)):
                continue
            exchanged = self._vocabularies.exchanged(span, wording.vocabulary)
            if exchanged is None and not isinstance(data, take(seams.SPAN_DATA)):
                # All but a model call are mostly worded alike: no twin where nothing would differ.
                if plain is None:
                    plain = _mapped(self._plain, data)
                if _mapped(wording.loggers[0], in_its_view(data, wording.loggers[0])) == plain:
                    continue
            # Should a wording fail, its backends get the bare span: the plain words can show what they may not see.
            before = dict((span.attributes or {}) if exchanged is None else exchanged)
            self._vocabularies.replace(span, wording.vocabulary, before)
            with contained("wording a span for a backend"):
                worded = wording.attributes(role, span, before, data, end_time_ns)
                self._vocabularies.replace(span, wording.vocabulary, worded)


def in_its_view(data: Any, logger: Any) -> Any:
    """The data of a span as a logger sees them: with or without the content."""
    made_by = getattr(data, MADE_BY, None)
    if made_by is None:
        return data
    own = _view_of(logger)
    wanted = {name: value for name, value in own.items() if name in made_by.keywords}
    if all(made_by.keywords[name] == value for name, value in wanted.items()):
        return data
    return made_by(**wanted)


def remember_how_data_are_made() -> None:
    """Let the data of a call know how to be made anew: what of the content is on them is decided when they are made."""
    take(seams.SPAN_DATA)
    for name in (seams.SPAN_DATA.attribute, "MCPToolCallSpanData", "MCPListToolsSpanData"):
        kind = getattr(module(seams.PAYLOADS_MODULE), name, None)
        if kind is not None:
            _remember(kind)


def _remember(kind: Any) -> None:
    original = kind.from_standard_logging_payload

    @functools.wraps(original)
    def from_standard_logging_payload(*args: Any, **kwargs: Any) -> Any:
        data = original(*args, **kwargs)
        with contained("remembering how a call's data were made"):
            object.__setattr__(data, MADE_BY, functools.partial(original, *args, **kwargs))  # they are frozen
        return data

    kind.from_standard_logging_payload = staticmethod(from_standard_logging_payload)


def show_langfuse_its_root(stamp: Callable[[Any, Mapping[str, Any]], None]) -> None:
    """Let what Langfuse's loggers stamp on the SERVER span go through ``stamp``."""
    original = take(seams.LANGFUSE_ROOT)

    @functools.wraps(original)
    def request_root_span() -> Any:
        root = original()
        return None if root is None else _LangfusesRoot(root, stamp)

    put(seams.LANGFUSE_ROOT, request_root_span)


class _LangfusesRoot:
    """The SERVER span, as Langfuse's loggers are handed it."""

    def __init__(self, span: Any, stamp: Callable[[Any, Mapping[str, Any]], None]) -> None:
        self._span = span
        self._stamp = stamp

    def is_recording(self) -> bool:
        return bool(self._span.is_recording())

    def set_attribute(self, name: str, value: Any) -> None:
        self.set_attributes({name: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        with contained("stamping what Langfuse reads off the root"):
            if attributes and isinstance(self._span, Span):
                self._stamp(self._span, attributes)


def _wording_key(logger: Any) -> tuple[Any, ...]:
    return (tuple(logger.config.mapper_names), *_view_of(logger).values(), promotion_of(logger.config))


def _view_of(logger: Any) -> dict[str, Any]:
    return {"capture_content": captures(logger), "metadata_keys": tuple(logger.config.baggage_metadata_keys)}


def captures(logger: Any) -> bool:
    """Whether a logger puts prompts and answers on spans."""
    # The switches that every callback of LiteLLM's can have: of a folded one, nobody else would look at them.
    hidden = getattr(logger, "turn_off_message_logging", False) is True or not getattr(logger, "message_logging", True)
    return bool(logger.config.capture_span_content) and not hidden


def _mapped(logger: Any, data: Any) -> dict[str, Any]:
    mappers = logger._emitter._mappers  # noqa: SLF001 - the chain that the logger stamps with
    return {name: value for mapper in mappers for name, value in mapper.map(data).items()}
