"""What of a caller's identity each of LiteLLM's loggers puts on every span.

LiteLLM picks it by the configuration of the logger that records, writes it into the baggage, and stamps a span with it
when it starts. The one logger goes by what is configured for the operator's collector; what the others would have put
on a span is noted beside it, and is in nobody's baggage but ours.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage
from opentelemetry.context import Context, attach, create_key, get_current, get_value, set_value
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import get_current_span

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.upstream.access import take

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litellm_otel_plugin.backends.vocabularies import Vocabularies

_OWN = create_key("litellm_otel_plugin_baggage_of_promotions")


@dataclass(frozen=True)
class Promotion:
    """What of a caller's identity one configuration puts on every span."""

    promoted_keys: tuple[str, ...]
    metadata_keys: tuple[str, ...]
    team_metadata_keys: tuple[str, ...]

    def of(self, identity: Any, model: str | None) -> Mapping[str, str]:
        """What is put on the spans of one caller's request."""
        promoted: Mapping[str, str] = take(seams.PROMOTED)(
            identity,
            model,
            promoted_keys=self.promoted_keys,
            metadata_keys=self.metadata_keys,
            team_metadata_keys=self.team_metadata_keys,
        )
        return promoted


def promotion_of(config: Any) -> Promotion:
    """The one that a logger's configuration asks for."""
    return Promotion(
        tuple(config.baggage_promoted_keys),
        tuple(config.baggage_metadata_keys),
        tuple(config.baggage_team_metadata_keys),
    )


class Identities(SpanProcessor):
    """Notes for each span what other loggers than the recording one would have stamped on it when it started.

    As a processor it stands behind LiteLLM's, which stamps.
    """

    def __init__(self, vocabularies: Vocabularies) -> None:
        self._vocabularies = vocabularies
        self._plain: Any = None
        self._stamps_plainly: Any = None
        # Replaced, never changed: spans start in other threads than those that build loggers.
        self._others: dict[Promotion, Any] = {}

    def follow(self, logger: Any) -> None:
        """Let this logger record, and learn of each identity that it puts into the baggage."""
        self._plain = promotion_of(logger.config)
        self._stamps_plainly = _stamping(self._plain)
        seed, seed_context = logger.seed_request_identity, logger._seed_identity_baggage  # noqa: SLF001

        @functools.wraps(seed)
        def seed_request_identity(
            user_api_key_dict: Any, model: str | None = None, request_metadata: Any = None
        ) -> None:
            before = get_current()
            seed(user_api_key_dict, model, request_metadata)
            if self._others:
                with contained("noting what each backend is shown of a caller"):
                    identity = take(seams.IDENTITY).from_user_api_key_auth(user_api_key_dict, request_metadata)
                    promoted = self._promoted(identity, model)
                    attach(_seeded(promoted, before, get_current()))
                    self._note_on_root(self._plain.of(identity, model), promoted)

        @functools.wraps(seed_context)
        def seed_identity_baggage(identity: Any, model: str | None, context: Context) -> Context:
            seeded: Context = seed_context(identity, model, context)
            if self._others:
                with contained("noting what each backend is shown of a caller"):
                    seeded = _seeded(self._promoted(identity, model), context, seeded)
            return seeded

        logger.seed_request_identity = seed_request_identity
        logger._seed_identity_baggage = seed_identity_baggage  # noqa: SLF001

    def learn(self, config: Any) -> Promotion | None:
        """The promotion of a configuration; ``None`` where it is the recording logger's."""
        promotion = promotion_of(config)
        if promotion == self._plain:
            return None
        if promotion not in self._others:
            self._others = {**self._others, promotion: _stamping(promotion)}
        return promotion

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note what differs, if there is anybody for whom it could."""
        others = self._others
        if not others:
            return
        with contained("noting what each backend is shown of a caller"):
            context = get_current() if parent_context is None else parent_context
            plain = _stamped(self._stamps_plainly, context)
            own = _own_of(context)
            for promotion, stamping in others.items():
                stamped = _stamped(stamping, own.get(promotion, context))
                if stamped != plain:
                    self._exchange(span, promotion, plain, stamped)

    def as_promoted_for(self, logger: Any, context: Context) -> Context:
        """A context with the baggage that it would have if this logger were the recording one."""
        own = _own_of(context).get(promotion_of(logger.config))
        return context if own is None else _with_baggage(baggage.clear(context), baggage.get_all(own))

    def _promoted(self, identity: Any, model: str | None) -> Mapping[Promotion, Mapping[str, str]]:
        return {promotion: promotion.of(identity, model) for promotion in self._others}

    def _note_on_root(self, plain: Mapping[str, str], others: Mapping[Promotion, Mapping[str, str]]) -> None:
        """The SERVER span has started before its caller was known: LiteLLM stamps it later."""
        root = take(seams.ROOT)() or get_current_span()
        if not isinstance(root, Span) or not root.is_recording():
            return
        for promotion, own in others.items():
            self._exchange(root, promotion, plain, own)

    def _exchange(self, span: Span, promotion: Promotion, plain: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        # As they are on the span: it may have cut them short.
        attributes = span.attributes or {}
        there = {name: attributes[name] for name in plain if name in attributes}
        self._vocabularies.exchange(span, promotion, there, own)


class _Stamps(dict[str, Any]):
    """Stands for a span that is stamped."""

    def set_attribute(self, name: str, value: Any) -> None:
        self[name] = value


def _stamping(promotion: Promotion) -> Any:
    return take(seams.BAGGAGE)(allowed_keys=promotion.promoted_keys)


def _stamped(stamping: Any, context: Context) -> Mapping[str, Any]:
    stamps = _Stamps()
    stamping.on_start(stamps, context)
    return stamps


def _seeded(others: Mapping[Promotion, Mapping[str, str]], before: Context, after: Context) -> Context:
    """A context after an identity was put into its baggage, with what the others would have put there."""
    known = _own_of(before)
    own = {
        promotion: _with_baggage(known[promotion] if promotion in known else _inherited(before), promoted)
        for promotion, promoted in others.items()
    }
    return set_value(_OWN, own, after)


def _inherited(before: Context) -> Context:
    return _with_baggage(Context(), baggage.get_all(before))


def _own_of(context: Context) -> Mapping[Promotion, Context]:
    own: Any = get_value(_OWN, context)
    return own or {}


def _with_baggage(context: Context, entries: Mapping[str, Any]) -> Context:
    for name, value in entries.items():
        context = baggage.set_baggage(name, value, context)
    return context
