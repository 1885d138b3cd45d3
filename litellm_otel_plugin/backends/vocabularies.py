"""One span in several vocabularies: what each backend is to see of it, held off-band until the span has ended.

The span itself carries the plain vocabulary. What another one puts in its place is noted here under the span's context
while it is open, and found under the ended span by whoever hands that on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.backends.spans import copied
from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanContext

# Open spans with a note: a request has two at most, or a handful where the backends are configured to be shown other
# things of a caller. As many as LiteLLM keeps open calls; one beyond that goes out in the plain vocabulary.
MOST_OPEN_SPANS = 10_000


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The names by which a backend knows things. Equal only to itself; its own name is for whoever prints it."""

    name: str
    # What such a backend needs on a span, whoever made it, and would guess where it is not there.
    completing: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    # Under what the attributes are noted that it has in place of some that every span starts with.
    exchanging: Hashable | None = None


@dataclass
class _Exchange:
    """Attributes that a span was stamped with, and those that are to be read in their place."""

    plain: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)

    def made_in(self, attributes: Any) -> BoundedAttributes:
        """A span's attributes after the exchange; what was set to another value since is left as it is."""
        kept = {
            name: value
            for name, value in (attributes or {}).items()
            if name not in self.plain or self.plain[name] != value
        }
        return _like(attributes, {**self.own, **kept})


@dataclass
class _Notes:
    """What is different about one span."""

    exchanged: dict[Hashable, _Exchange] = field(default_factory=dict)
    replaced: dict[Vocabulary, Any] = field(default_factory=dict)
    added: dict[Vocabulary, BoundedAttributes] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)
    made: dict[Vocabulary, ReadableSpan] = field(default_factory=dict)


class Vocabularies(SpanProcessor):
    """Notes of open spans. As a processor, ahead of those that export, it learns which spans have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], _Notes] = {}
        self._ended: WeakKeyDictionary[ReadableSpan, _Notes] = WeakKeyDictionary()

    def exchange(self, span: Span, exchanging: Hashable, plain: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """What an open span was stamped with, and what is read in its place by those that exchange."""
        exchange = self._notes(span).exchanged.setdefault(exchanging, _Exchange())
        exchange.plain.update(plain)
        exchange.own.update(own)

    def exchanged(self, span: Span, vocabulary: Vocabulary) -> BoundedAttributes | None:
        """The attributes of an open span until now, in a vocabulary that exchanges some of them."""
        notes = self._open.get(_key(span.get_span_context())) if vocabulary.exchanging is not None else None
        exchange = notes.exchanged.get(vocabulary.exchanging) if notes is not None else None
        return None if exchange is None else exchange.made_in(span._attributes)  # noqa: SLF001 - with its limits

    def replace(self, span: Span, vocabulary: Vocabulary, attributes: Any) -> None:
        """All attributes of an open span, as this vocabulary has them."""
        self._notes(span).replaced[vocabulary] = attributes

    def add(self, span: Span, vocabulary: Vocabulary, attributes: Mapping[str, Any]) -> None:
        """Attributes that an open span has in this vocabulary alone."""
        notes = self._notes(span)
        with self._lock:
            added = notes.added.get(vocabulary)
            if added is None:
                limits = span._limits  # noqa: SLF001 - the SDK tells a span's limits to nobody
                added = notes.added[vocabulary] = BoundedAttributes(
                    limits.max_span_attributes, immutable=False, max_value_len=limits.max_span_attribute_length
                )
        for name, value in attributes.items():
            added[name] = value

    def withhold(self, span: Span, backend: str) -> None:
        """Keep an open span from a backend that gets it in another way."""
        self._notes(span).withheld.add(backend)

    def of(self, span: ReadableSpan, vocabulary: Vocabulary | None) -> ReadableSpan:
        """An ended span in a vocabulary; one object, however many backends share the vocabulary."""
        if vocabulary is None:
            return span
        notes = self._ended.get(span)
        if notes is None:
            if vocabulary.completing is None:
                return span
            notes = self._ended[span] = _Notes()
        made = notes.made.get(vocabulary)
        if made is None:
            made = _in_words(span, notes, vocabulary)
            if made is not span:  # a note that holds its own span would keep both for ever
                notes.made[vocabulary] = made
        return made

    def is_withheld(self, span: ReadableSpan, backend: str | None) -> bool:
        """Whether an ended span is kept from a backend."""
        notes = self._ended.get(span) if backend is not None else None
        return notes is not None and backend in notes.withheld

    def forget(self, span: Span) -> None:
        """Drop the notes of a span that was not recorded to its end."""
        self._open.pop(_key(span.get_span_context()), None)

    def renew_lock(self) -> None:
        """In a forked child: whoever held it in the parent is not here."""
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        """Move the notes of a span to its ended form."""
        if self._open and span.context is not None:
            with contained("matching an ended span with its vocabularies"):
                notes = self._open.pop(_key(span.context), None)
                if notes is not None:
                    self._ended[span] = notes

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing waits here. Older SDKs do not flush what stands behind a processor that does not say so."""
        return True

    def _notes(self, span: Span) -> _Notes:
        key = _key(span.get_span_context())
        with self._lock:
            notes = self._open.get(key)
            if notes is None:
                if len(self._open) >= MOST_OPEN_SPANS:
                    self._open.pop(next(iter(self._open)), None)
                notes = self._open[key] = _Notes()
            return notes


def _in_words(span: ReadableSpan, notes: _Notes, vocabulary: Vocabulary) -> ReadableSpan:
    attributes: Any = notes.replaced.get(vocabulary)
    exchange = notes.exchanged.get(vocabulary.exchanging)
    if attributes is None and exchange is not None:
        attributes = exchange.made_in(span._attributes)  # noqa: SLF001 - with its count
    added = notes.added.get(vocabulary)
    if added is not None:
        attributes = _with(span._attributes if attributes is None else attributes, added)  # noqa: SLF001 - with its count
    if vocabulary.completing is not None:
        own = (span.attributes if attributes is None else attributes) or {}
        completion = vocabulary.completing(own)
        if completion:
            attributes = _with(span._attributes if attributes is None else attributes, completion)  # noqa: SLF001
    return span if attributes is None else copied(span, attributes=attributes)


def with_room_for(attributes: Any, more: Mapping[str, Any]) -> BoundedAttributes:
    """Both, where the first alone is held to its limit."""
    return _with(attributes, more, room=len(more))


def _with(attributes: Any, more: Mapping[str, Any], room: int = 0) -> BoundedAttributes:
    """Both, within the limits of the first, which what was dropped there stays counted against."""
    both = _like(attributes, attributes or {}, room)
    for name, value in more.items():
        both[name] = value
    return both


def _like(attributes: Any, others: Mapping[str, Any], room: int = 0) -> BoundedAttributes:
    """Others with the limits of some attributes, and with their count of what was dropped."""
    limit = getattr(attributes, "maxlen", None)
    limit = None if limit is None else limit + room
    longest = getattr(attributes, "max_value_len", None)
    bounded = BoundedAttributes(limit, dict(others), immutable=False, max_value_len=longest)
    bounded.dropped += getattr(attributes, "dropped", 0)
    return bounded


def _key(context: SpanContext) -> tuple[int, int]:
    return context.trace_id, context.span_id
