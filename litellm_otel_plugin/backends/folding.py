"""Many loggers' backends behind one provider: each gets every span once, in its own words, with its own resource.

LiteLLM builds a logger per backend. The members of a backend here are the loggers that would have written to it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.backends.accounts import account_of, exchange_processor, innermost, processors_of_provider
from litellm_otel_plugin.backends.retiring import shut_down_aside
from litellm_otel_plugin.backends.spans import copied
from litellm_otel_plugin.delivery import DeliveryProcessor
from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from litellm_otel_plugin.backends.resources import OwnResource
    from litellm_otel_plugin.backends.vocabularies import Vocabularies, Vocabulary

# Spans of one request that ended before it was known which backends its team asks for, or before LiteLLM built those:
# the look-ups of its authentication. More than this many are not held for what most requests do not ask for.
MOST_EARLY_SPANS = 128

GENERIC_CALLBACK = "otel"


class Member(Protocol):
    """A logger that would have written to a backend."""

    @property
    def name(self) -> str:
        """The callback's name, as an operator writes it."""

    @property
    def owner(self) -> str | None:
        """Whose backend it writes to: a preset's own, or (``None``) the operator's collector."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """In which words it writes; ``None`` for the plain ones."""

    def is_listed(self) -> bool:
        """Whether LiteLLM has it among its callbacks, so that it is for every request."""

    def is_overridden(self) -> bool:
        """Whether this request's team has an account of its own at the backend, instead of the operator's."""


class AskingRequest(Protocol):
    """What is known of a request whose team asks for backends of its own."""

    finished: bool
    asked_callbacks: frozenset[str] | None
    early_spans: list[ReadableSpan]


@dataclass(frozen=True)
class Site:
    """Where a backend is."""

    # The preset whose backend it is; none has the operator's own collector.
    owner: str | None
    kind: str
    endpoint: str | None
    # Tells backends apart whose processors do not show the account that they write to.
    identity: Hashable = field(repr=False)


class Backend(SpanProcessor):
    """One backend, as a processor."""

    def __init__(
        self,
        inner: SpanProcessor,
        site: Site,
        change: OwnResource | None,
        vocabularies: Vocabularies,
        request: Callable[[], AskingRequest | None],
    ) -> None:
        self.site = site
        self.members: list[Member] = []
        self._vocabularies = vocabularies
        self._request = request
        self._replaced: list[SpanProcessor] = []
        self.is_the_operators = False
        self._deliver_by(inner, change)

    def put_in_place(self, inner: SpanProcessor, change: OwnResource | None) -> None:
        """Deliver by this processor from now on; what the one before it holds is delivered by that."""
        if _sends_by_itself(self.inner):
            self._replaced.append(self.inner)
        else:
            shut_down_aside(self.inner)
        self._deliver_by(inner, change)

    def deliver_by_the_operators(self, inner: SpanProcessor) -> None:
        """Only word what a processor of the operator's own sends, which goes on sending what no member asks for."""
        self.is_the_operators = True
        self.put_in_place(inner, self._change)

    def _deliver_by(self, inner: SpanProcessor, change: OwnResource | None) -> None:
        self.inner = inner
        self._change = change
        # The delivery that we made makes it by itself, without a copy of each span.
        self._is_changed_by_itself = _sends_by_itself(inner) and not self.is_the_operators
        self._resource: tuple[Resource, Resource] | None = None

    @property
    def name(self) -> str:
        """What an operator calls it, and who words what the collector gets."""
        if self.site.owner is not None:
            return f"{self.site.owner} {self.site.kind}"
        worded = self._members_with_words()
        return f"{self.site.kind}, in the words of {worded[0]}" if worded else self.site.kind

    @property
    def callback(self) -> str:
        """The callback that is for it, as an operator writes it."""
        return self.site.owner or next(iter(self._members_with_words()), GENERIC_CALLBACK)

    @property
    def is_plain(self) -> bool:
        """Whether it gets nothing but what every span says by itself."""
        is_a_presets = self.site.owner is not None
        return not self._members_with_words() and not (is_a_presets and self._change is not None)

    def _members_with_words(self) -> list[str]:
        return [member.name for member in self.members if member.vocabulary is not None]

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Tell the processor."""
        self.inner.on_start(span, parent_context)

    def _on_ending(self, span: Span) -> None:
        self.inner._on_ending(span)  # noqa: SLF001 - only an SDK whose processors have it calls it

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the span on, if this backend is to have it."""
        with contained("handing a span to a backend"):
            seen = self._as_it_is_to_be_seen(span)
            if seen is not None:
                self.inner.on_end(seen)

    def shutdown(self) -> None:
        """Deliver what is left."""
        for each in (*self._replaced, self.inner):
            with contained("closing a backend"):
                each.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Deliver what there is."""
        return all([each.force_flush(timeout_millis) for each in (*self._replaced, self.inner)])  # noqa: C419 - every one

    def _as_it_is_to_be_seen(self, span: ReadableSpan) -> ReadableSpan | None:
        member = self._member_for_this_request()
        if member is None:
            return span if self.is_the_operators else None
        vocabulary = member.vocabulary
        withheld = self._vocabularies.is_withheld(span, member.owner)
        if withheld and not self.is_the_operators:
            return None
        # What LiteLLM has wrapped around an exporter of its own sees to that; around the operator's there is nothing.
        if self.is_the_operators and (withheld or member.is_overridden()):
            vocabulary = None  # with the words would come the content that is not for it
        return self._with_resource(self._vocabularies.of(span, vocabulary))

    def _member_for_this_request(self) -> Member | None:
        """For whom this backend is to have a span; whoever has words of its own speaks."""
        listed = [member for member in self.members if member.is_listed()]
        if not listed:
            listed = self._asked_by_request()
        return next((member for member in listed if member.vocabulary is not None), listed[0] if listed else None)

    def _asked_by_request(self) -> list[Member]:
        request = self._request()
        asked = request.asked_callbacks if request is not None else None
        return [member for member in self.members if member.name in asked] if asked else []

    def _with_resource(self, span: ReadableSpan) -> ReadableSpan:
        if self._change is None or self._is_changed_by_itself:
            return span
        known = self._resource
        if known is None or known[0] is not span.resource:
            known = self._resource = span.resource, self._change(span.resource)
        return copied(span, resource=known[1])


class Backends:
    """All of them."""

    def __init__(
        self, vocabularies: Vocabularies, request: Callable[[], AskingRequest | None], say: Callable[[str], None]
    ) -> None:
        self.vocabularies = vocabularies
        self._request = request
        self._say = say
        self._lock = threading.Lock()
        self._backends: dict[Hashable, Backend] = {}

    def __iter__(self) -> Iterator[Backend]:
        """Each, in the order in which they were added."""
        return iter(tuple(self._backends.values()))

    def renew_locks(self) -> None:
        """In a forked child: whoever held one in the parent is not here."""
        self._lock = threading.Lock()
        self.vocabularies.renew_lock()

    def add(
        self,
        provider: Any,
        member: Member,
        inner: SpanProcessor,
        site: Site,
        change: OwnResource | None,
    ) -> None:
        """Let a member write by ``inner``, or by what writes to that account already."""
        with self._lock:
            account = account_of(inner) or site.identity
            known = self._backends.get(account)
            if known is not None:
                plain = all(each.vocabulary is None for each in known.members)
                if change is not None and plain and not known.is_the_operators:
                    known.put_in_place(inner, change)  # what goes there in a preset's words has its resource too
                else:
                    _retire(inner)
                asked_before = {each.name for each in known.members}
                known.members.append(member)
                if not asked_before & self._asked():
                    self._hand_early_spans_to(known, {member.name})
                return
            made = Backend(inner, site, change, self.vocabularies, self._request)
            made.members.append(member)
            operators = _processors_of_others(provider, account)
            if operators:
                if self._leave_to_the_operator(provider, made, operators):
                    self._backends[account] = made
                else:
                    _retire(inner)
                return
            self._backends[account] = made
            self._hand_early_spans_to(made, {member.name})
            provider.add_span_processor(made)

    def move(self, backend: Backend, provider: Any) -> None:
        """Have a backend fed by a provider of the operator's own, unless that writes to its account by itself."""
        with self._lock:
            operators = _processors_of_others(provider, account_of(backend))
            if not operators:
                provider.add_span_processor(backend)
            elif not self._leave_to_the_operator(provider, backend, operators):
                backend.shutdown()
                self._backends = {account: each for account, each in self._backends.items() if each is not backend}

    def _leave_to_the_operator(self, provider: Any, backend: Backend, operators: Sequence[SpanProcessor]) -> bool:
        """Send by the operator's own processor alone. ``False`` where that goes on as if there was no such backend."""
        written = f"{backend.callback}: the provider that was already set writes to its account"
        if backend.is_plain:
            self._say(f"{written}: left out")
            return False
        if len(operators) > 1:  # which of them is to have which spans is the operator's affair
            self._say(f"{written} with {len(operators)} exporters: left out, and its words with it")
            return False
        (processor,) = operators
        backend.deliver_by_the_operators(processor)
        exchange_processor(provider, processor, backend)
        self._say(f"{written}: what it sends there is in the words of this callback")
        return True

    def answer(self, asked: Iterable[str]) -> None:
        """It is known which backends a request's team asks for: what ended before goes where it belongs."""
        request = self._request()
        if request is None:
            return
        before = request.asked_callbacks or frozenset()
        request.asked_callbacks = before.union(asked)
        if not request.asked_callbacks:
            request.early_spans.clear()
        for backend in self:
            if not any(member.name in before for member in backend.members):
                self._hand_early_spans_to(backend, request.asked_callbacks - before)

    def _asked(self) -> frozenset[str]:
        request = self._request()
        return (request.asked_callbacks if request is not None else None) or frozenset()

    def _hand_early_spans_to(self, backend: Backend, asked: Collection[str]) -> None:
        """Hand them to a backend that only this request's team asks for: the others had each span when it ended."""
        request = self._request()
        if request is None or backend.is_the_operators or any(member.is_listed() for member in backend.members):
            return
        if any(member.name in asked and member.name in self._asked() for member in backend.members):
            for span in request.early_spans:
                backend.on_end(span)


class EarlySpans(SpanProcessor):
    """Holds what ends in a request before its team's backends are there, until the request has been answered."""

    def __init__(self, request: Callable[[], AskingRequest | None]) -> None:
        self._request = request

    def on_end(self, span: ReadableSpan) -> None:
        """Hold the span, if it may be asked for yet: LiteLLM builds a team's logger while it serves a request."""
        request = self._request()
        if request is None or request.finished or request.asked_callbacks == frozenset():
            return
        if len(request.early_spans) < MOST_EARLY_SPANS:
            request.early_spans.append(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing waits here. Older SDKs do not flush what stands behind a processor that does not say so."""
        return True


def _retire(processor: SpanProcessor) -> None:
    """Close a processor that is not used any more, off the event loop: the SDK's deliver what is left first."""
    if not _sends_by_itself(processor):
        shut_down_aside(processor)


def _processors_of_others(provider: Any, account: Hashable) -> list[SpanProcessor]:
    """A provider's processors, but for ours, that write to an account."""
    others = (each for each in processors_of_provider(provider) or () if not isinstance(each, Backend))
    return [each for each in others if account is not None and account_of(each) == account]


def _sends_by_itself(processor: SpanProcessor) -> bool:
    inner = innermost(processor)
    return isinstance(inner, DeliveryProcessor) and all(each.exporter is None for each in inner.destinations)
