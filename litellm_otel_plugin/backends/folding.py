"""Many loggers' backends behind one provider: each gets every span once, in its own words, with its own resource.

LiteLLM builds a logger per backend. The members of a backend here are the loggers that would have written to it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.backends.accounts import account_of, innermost, processors_of_provider
from litellm_otel_plugin.backends.retiring import shut_down_aside
from litellm_otel_plugin.backends.spans import copied
from litellm_otel_plugin.delivery import DeliveryProcessor
from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from litellm_otel_plugin.backends.resources import OwnResource
    from litellm_otel_plugin.backends.vocabularies import Vocabularies, Vocabulary

# Spans of one request that ended before it was known which backends its team asks for, or before LiteLLM built those:
# the look-ups of its authentication. More than this many are not held for what most requests do not ask for.
MOST_EARLY_SPANS = 128


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
        self._deliver_by(inner, change)

    def put_in_place(self, inner: SpanProcessor, change: OwnResource | None) -> None:
        """Deliver by this processor from now on; what the one before it holds is delivered by that."""
        if _sends_by_itself(self.inner):
            self._replaced.append(self.inner)
        else:
            shut_down_aside(self.inner)
        self._deliver_by(inner, change)

    def _deliver_by(self, inner: SpanProcessor, change: OwnResource | None) -> None:
        self.inner = inner
        # The delivery makes it by itself, without a copy of each span.
        self._change = None if _sends_by_itself(inner) else change
        self._resource: tuple[Resource, Resource] | None = None

    @property
    def name(self) -> str:
        """What an operator calls it, and who words what the collector gets."""
        if self.site.owner is not None:
            return f"{self.site.owner} {self.site.kind}"
        words = [member.name for member in self.members if member.vocabulary is not None]
        return f"{self.site.kind}, in the words of {words[0]}" if words else self.site.kind

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Tell the processor."""
        self.inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the span on, if this backend is to have it."""
        with contained("handing a span to a backend"):
            member = self._member_for_this_request()
            if member is not None and not self._vocabularies.is_withheld(span, member.owner):
                self.inner.on_end(self._with_resource(self._vocabularies.of(span, member.vocabulary)))

    def shutdown(self) -> None:
        """Deliver what is left."""
        for each in (*self._replaced, self.inner):
            with contained("closing a backend"):
                each.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Deliver what there is."""
        return all([each.force_flush(timeout_millis) for each in (*self._replaced, self.inner)])  # noqa: C419 - every one

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
        if self._change is None:
            return span
        known = self._resource
        if known is None or known[0] is not span.resource:
            known = self._resource = span.resource, self._change(span.resource)
        return copied(span, resource=known[1])


class Backends:
    """All of them."""

    def __init__(self, vocabularies: Vocabularies, request: Callable[[], AskingRequest | None]) -> None:
        self.vocabularies = vocabularies
        self._request = request
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
    ) -> bool:
        """Let a member write by ``inner``. ``False`` where something else in this process writes to that account."""
        with self._lock:
            account = account_of(inner) or site.identity
            known = self._backends.get(account)
            if known is not None:
                if change is not None and all(each.vocabulary is None for each in known.members):
                    known.put_in_place(inner, change)  # what goes there in a preset's words has its resource too
                else:
                    _retire(inner)
                asked_before = {each.name for each in known.members}
                known.members.append(member)
                if not asked_before & self._asked():
                    self._hand_early_spans_to(known, {member.name})
            else:
                if account in _accounts_of_others(provider):
                    _retire(inner)
                    return False
                known = self._backends[account] = Backend(inner, site, change, self.vocabularies, self._request)
                known.members.append(member)
                self._hand_early_spans_to(known, {member.name})
                provider.add_span_processor(known)
            return True

    def drop(self, backend: Backend) -> None:
        """Leave out one that is not delivered to after all."""
        with self._lock:
            self._backends = {account: each for account, each in self._backends.items() if each is not backend}

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
        if request is None or any(member.is_listed() for member in backend.members):
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


def _retire(processor: SpanProcessor) -> None:
    """Close a processor that is not used any more, off the event loop: the SDK's deliver what is left first."""
    if not _sends_by_itself(processor):
        shut_down_aside(processor)


def _accounts_of_others(provider: Any) -> set[Any]:
    others = (each for each in processors_of_provider(provider) or () if not isinstance(each, Backend))
    return {account_of(each) for each in others} - {None}


def _sends_by_itself(processor: SpanProcessor) -> bool:
    inner = innermost(processor)
    return isinstance(inner, DeliveryProcessor) and all(each.exporter is None for each in inner.destinations)
