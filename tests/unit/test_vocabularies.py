"""One span in several vocabularies, and what is left of the notes once it has ended."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from litellm_otel_plugin.backends import vocabularies as module
from litellm_otel_plugin.backends.folding import MOST_EARLY_SPANS, Backends, EarlySpans, Site
from litellm_otel_plugin.backends.resources import own_resource
from litellm_otel_plugin.backends.vocabularies import Vocabularies, Vocabulary
from tests.support.backends import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

ONE, OTHER = Vocabulary("one"), Vocabulary("other")
EXCHANGING = Vocabulary("exchanging", exchanging="what was stamped")


class Recorder:
    """A provider whose ended spans are handed on after ``Vocabularies`` has seen them."""

    def __init__(self, limits: SpanLimits | None = None) -> None:
        self.vocabularies = Vocabularies()
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
        self.provider.add_span_processor(self.vocabularies)
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = self.provider.get_tracer("t")

    def start(self, name: str = "x") -> Span:
        span = self.tracer.start_span(name, attributes={"plain": 1})
        assert isinstance(span, Span)
        return span

    def ended(self, span: Span) -> ReadableSpan:
        self.memory.clear()
        span.end()
        (ended,) = self.memory.get_finished_spans()
        return ended

    @property
    def kept(self) -> tuple[int, int]:
        """How many notes there are: of open spans, and of ended ones."""
        return len(self.vocabularies._open), len(self.vocabularies._ended)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.provider.shutdown()


def bounded(attributes: dict[str, Any], most: int = 128) -> BoundedAttributes:
    return BoundedAttributes(most, attributes, immutable=False)


def test_a_span_reads_differently_in_each_vocabulary(recorder: Recorder) -> None:
    span = recorder.start()
    recorder.vocabularies.replace(span, ONE, bounded({"own": 1}))
    recorder.vocabularies.add(span, OTHER, {"more": 2})
    recorder.vocabularies.add(span, OTHER, {"yet more": 3})
    span.set_attribute("late", 4)
    ended = recorder.ended(span)
    assert dict(recorder.vocabularies.of(ended, ONE).attributes or {}) == {"own": 1}
    words = recorder.vocabularies.of(ended, OTHER)
    assert dict(words.attributes or {}) == {"plain": 1, "late": 4, "more": 2, "yet more": 3}
    assert recorder.vocabularies.of(ended, None) is ended
    assert dict(ended.attributes or {}) == {"plain": 1, "late": 4}
    assert (words.context, words.start_time, words.end_time) == (ended.context, ended.start_time, ended.end_time)


def test_what_is_added_goes_on_top_of_what_is_in_its_place(recorder: Recorder) -> None:
    span = recorder.start()
    recorder.vocabularies.replace(span, ONE, bounded({"own": 1, "both": "first"}))
    recorder.vocabularies.add(span, ONE, {"both": "second"})
    seen = recorder.vocabularies.of(recorder.ended(span), ONE)
    assert dict(seen.attributes or {}) == {"own": 1, "both": "second"}


def test_what_was_stamped_is_exchanged_and_what_was_set_since_is_not(recorder: Recorder) -> None:
    span = recorder.start()
    span.set_attributes({"stamped": 1, "both": 1, "overwritten": 1})
    recorder.vocabularies.exchange(span, "what was stamped", {"stamped": 1, "both": 1}, {"both": 2, "mine": 3})
    recorder.vocabularies.exchange(span, "what was stamped", {"overwritten": 1}, {"overwritten": 2})
    recorder.vocabularies.exchange(span, "something else", {"plain": 1}, {})
    span.set_attribute("overwritten", 4)
    so_far = recorder.vocabularies.exchanged(span, EXCHANGING)
    assert dict(so_far or {}) == {"plain": 1, "both": 2, "mine": 3, "overwritten": 4}
    assert recorder.vocabularies.exchanged(span, ONE) is None
    recorder.vocabularies.add(span, EXCHANGING, {"added": 5})
    ended = recorder.ended(span)
    assert dict(recorder.vocabularies.of(ended, EXCHANGING).attributes or {}) == {**(so_far or {}), "added": 5}
    assert dict(ended.attributes or {}) == {"plain": 1, "stamped": 1, "both": 1, "overwritten": 4}
    assert recorder.vocabularies.of(ended, ONE) is ended


def test_what_is_in_the_place_of_all_attributes_is_not_exchanged(recorder: Recorder) -> None:
    span = recorder.start()
    recorder.vocabularies.exchange(span, "what was stamped", {"plain": 1}, {"mine": 1})
    recorder.vocabularies.replace(span, EXCHANGING, bounded({"plain": 1}))
    assert dict(recorder.vocabularies.of(recorder.ended(span), EXCHANGING).attributes or {}) == {"plain": 1}


def test_an_exchange_is_within_the_limits_of_a_span() -> None:
    recorder = Recorder(SpanLimits(max_span_attributes=2, max_span_attribute_length=3))
    span = recorder.start()
    span.set_attributes({"a": 1, "b": 2})
    recorder.vocabularies.exchange(span, "what was stamped", {"a": 1}, {"mine": "a long one"})
    words = recorder.vocabularies.of(recorder.ended(span), EXCHANGING)
    assert dict(words.attributes or {}) == {"mine": "a l", "b": 2}
    assert words.dropped_attributes == 1
    recorder.provider.shutdown()


def test_what_was_dropped_of_the_attributes_in_its_place_stays_counted(recorder: Recorder) -> None:
    span = recorder.start()
    recorder.vocabularies.replace(span, ONE, bounded({"a": 1, "b": 2, "c": 3}, most=2))
    assert recorder.vocabularies.of(recorder.ended(span), ONE).dropped_attributes == 1


def test_what_was_dropped_of_a_span_stays_counted_where_something_is_added() -> None:
    recorder = Recorder(SpanLimits(max_span_attributes=2))
    span = recorder.start()
    span.set_attributes({"a": 1, "b": 2})
    recorder.vocabularies.add(span, ONE, {"c": 3})
    ended = recorder.ended(span)
    assert ended.dropped_attributes == 1
    words = recorder.vocabularies.of(ended, ONE)
    assert (words.attributes or {})["c"] == 3
    assert words.dropped_attributes >= 1
    recorder.provider.shutdown()


def test_what_is_added_has_a_spans_limits() -> None:
    recorder = Recorder(SpanLimits(max_span_attribute_length=5))
    span = recorder.start()
    recorder.vocabularies.add(span, ONE, {"said": "a long sentence"})
    assert (recorder.vocabularies.of(recorder.ended(span), ONE).attributes or {})["said"] == "a lon"
    recorder.provider.shutdown()


def test_backends_that_share_a_vocabulary_share_one_span(recorder: Recorder) -> None:
    span = recorder.start()
    recorder.vocabularies.replace(span, ONE, bounded({"own": 1}))
    ended = recorder.ended(span)
    assert recorder.vocabularies.of(ended, ONE) is recorder.vocabularies.of(ended, ONE)


def test_a_span_is_withheld_from_the_one_backend_that_was_named(recorder: Recorder) -> None:
    span, other = recorder.start(), recorder.start()
    recorder.vocabularies.withhold(span, "arize")
    ended = recorder.ended(span)
    assert recorder.vocabularies.is_withheld(ended, "arize")
    assert not recorder.vocabularies.is_withheld(ended, "langfuse_otel")
    assert not recorder.vocabularies.is_withheld(ended, None)
    assert not recorder.vocabularies.is_withheld(recorder.ended(other), "arize")


def test_the_notes_of_a_span_are_dropped_when_it_is_forgotten(recorder: Recorder) -> None:
    span, other = recorder.start(), recorder.start()
    for each in (span, other):
        recorder.vocabularies.replace(each, ONE, bounded({"own": 1}))
    recorder.vocabularies.forget(span)
    recorder.vocabularies.forget(span)  # and it does not matter that there are none
    assert recorder.kept == (1, 0)
    assert dict(recorder.vocabularies.of(recorder.ended(span), ONE).attributes or {}) == {"plain": 1}
    assert dict(recorder.vocabularies.of(recorder.ended(other), ONE).attributes or {}) == {"own": 1}


def test_the_notes_of_a_span_are_those_of_its_ended_form_once_it_has_ended(recorder: Recorder) -> None:
    span = recorder.start()
    recorder.vocabularies.replace(span, ONE, bounded({"own": 1}))
    assert recorder.kept == (1, 0)
    ended = recorder.ended(span)
    assert recorder.kept == (0, 1)
    del ended
    recorder.memory.clear()
    assert recorder.kept == (0, 0)


def test_of_too_many_open_spans_the_oldest_goes_out_in_plain_words(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OPEN_SPANS", 3)
    spans = [recorder.start(f"{n}") for n in range(4)]
    for span in spans:
        recorder.vocabularies.replace(span, ONE, bounded({"own": 1}))
    recorder.vocabularies.add(spans[3], OTHER, {"more": 1})  # of one that has notes already
    assert recorder.kept == (3, 0)
    words = [set(recorder.vocabularies.of(recorder.ended(span), ONE).attributes or ()) for span in spans]
    assert words == [{"plain"}, {"own"}, {"own"}, {"own"}]


def test_no_more_spans_are_noted_than_litellm_keeps_open_calls(recorder: Recorder) -> None:
    for _ in range(module.MOST_OPEN_SPANS + 10):
        recorder.vocabularies.withhold(recorder.start(), "arize")
    assert recorder.kept == (module.MOST_OPEN_SPANS, 0)


NOTED: dict[str, Callable[[Vocabularies, Span], None]] = {
    "replaced": lambda notes, span: notes.replace(span, ONE, bounded({"own": 1})),
    "added": lambda notes, span: notes.add(span, ONE, {"own": 1}),
    "withheld": lambda notes, span: notes.withhold(span, "arize"),
    "exchanged": lambda notes, span: notes.exchange(span, "what was stamped", {"plain": 1}, {"own": 1}),
}


# A backend can read a span in words that are noted of it, and in some that are not.
@pytest.mark.parametrize("read_in", [ONE, OTHER, EXCHANGING, None], ids=["noted", "unnoted", "exchanging", "plain"])
@pytest.mark.parametrize("noted", NOTED)
def test_nothing_is_left_of_a_span_that_was_read(recorder: Recorder, noted: str, read_in: Vocabulary | None) -> None:
    for _ in range(10):
        span = recorder.start()
        NOTED[noted](recorder.vocabularies, span)
        recorder.vocabularies.of(recorder.ended(span), read_in)
    del span
    recorder.memory.clear()
    gc.collect()
    assert recorder.kept == (0, 0)


def test_nothing_is_left_of_ten_thousand_spans(recorder: Recorder) -> None:
    for n in range(10_000):
        span = recorder.start()
        for note in NOTED.values():
            note(recorder.vocabularies, span)
        if n % 2:
            recorder.vocabularies.forget(span)
        recorder.vocabularies.of(recorder.ended(span), ONE)
    del span
    recorder.memory.clear()
    gc.collect()
    assert recorder.kept == (0, 0)


class Member:
    """A logger that would have written to a backend."""

    def __init__(self, name: str, vocabulary: Vocabulary | None = None, *, listed: bool = True) -> None:
        self.name = name
        self.owner: str | None = None
        self.vocabulary = vocabulary
        self.listed = listed

    def is_listed(self) -> bool:
        return self.listed

    def is_overridden(self) -> bool:
        return False


class Fed:
    """Backends behind a real provider, and the request that is under way."""

    def __init__(self) -> None:
        self.request: Any = None
        self.said: list[str] = []
        self.backends = Backends(Vocabularies(), lambda: self.request, self.said.append)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.backends.vocabularies)
        self.provider.add_span_processor(EarlySpans(lambda: self.request))
        self.tracer = self.provider.get_tracer("t")

    def add(self, member: Member, inner: SpanProcessor, account: str = "a", **overrides: str) -> None:
        site = Site(owner=None, kind="otlp_http", endpoint=None, identity=account)
        change = own_resource({}, overrides, insisted=frozenset(overrides))
        self.backends.add(self.provider, member, inner, site, change)

    def span(self, name: str = "x") -> None:
        self.tracer.start_span(name).end()

    def begin(self) -> None:
        self.request = SimpleNamespace(finished=False, asked_callbacks=None, early_spans=[])


@pytest.fixture
def fed() -> Iterator[Fed]:
    made = Fed()
    yield made
    made.provider.shutdown()


def names(memory: InMemorySpanExporter) -> list[str]:
    return [span.name for span in memory.get_finished_spans()]


def test_early_spans_are_held_up_to_a_bound_and_only_for_a_backend_in_no_list(fed: Fed) -> None:
    listed, asked = InMemorySpanExporter(), InMemorySpanExporter()
    fed.add(Member("otel"), SimpleSpanProcessor(listed), "a")
    fed.add(Member("arize", listed=False), SimpleSpanProcessor(asked), "b")
    fed.span("outside of a request")
    fed.begin()
    for n in range(MOST_EARLY_SPANS + 5):
        fed.span(f"early {n}")
    assert len(fed.request.early_spans) == MOST_EARLY_SPANS
    assert names(asked) == []
    fed.backends.answer({"arize"})
    assert names(asked) == [f"early {n}" for n in range(MOST_EARLY_SPANS)]
    fed.span("later")
    fed.backends.answer({"another"})  # a second call of the request, for other backends
    fed.span("latest")
    assert names(asked)[-2:] == ["later", "latest"]
    assert len(names(listed)) == MOST_EARLY_SPANS + 8


def test_a_backend_that_is_built_while_its_request_is_served_gets_what_ended_before(fed: Fed) -> None:
    asked, others = InMemorySpanExporter(), InMemorySpanExporter()
    fed.begin()
    fed.span("early")
    fed.backends.answer({"arize"})
    fed.add(Member("arize", listed=False), SimpleSpanProcessor(asked), "a")
    fed.add(Member("levo", listed=False), SimpleSpanProcessor(others), "b")
    fed.span("late")
    assert names(asked) == ["early", "late"]
    assert names(others) == []
    fed.begin()
    fed.span("another's")
    fed.backends.answer(())
    assert names(asked) == ["early", "late"]


def test_nothing_is_held_for_a_request_that_has_been_answered(fed: Fed) -> None:
    fed.begin()
    fed.backends.answer({"arize"})
    fed.request.finished = True
    fed.span("ends later")
    assert fed.request.early_spans == []


def test_a_callback_that_joins_the_account_of_another_gets_what_ended_before(fed: Fed) -> None:
    asked = InMemorySpanExporter()
    fed.add(Member("levo", listed=False), SimpleSpanProcessor(asked))
    fed.begin()
    fed.span("early")
    fed.backends.answer({"arize"})
    fed.add(Member("arize", listed=False), SimpleSpanProcessor(InMemorySpanExporter()))
    fed.span("late")
    assert names(asked) == ["early", "late"]


def test_a_backend_whose_processor_was_replaced_is_flushed(fed: Fed) -> None:
    fed.add(Member("otel"), BatchSpanProcessor(InMemorySpanExporter()))
    fed.add(Member("arize", ONE), BatchSpanProcessor(InMemorySpanExporter()), project="mine")
    assert fed.provider.force_flush()


def test_the_early_spans_of_a_request_that_asks_for_nothing_go_nowhere(fed: Fed) -> None:
    asked = InMemorySpanExporter()
    fed.add(Member("arize", listed=False), SimpleSpanProcessor(asked))
    fed.begin()
    fed.span("early")
    fed.backends.answer(())
    fed.span("late")
    assert names(asked) == []
    assert fed.request.early_spans == []


def test_of_two_members_whoever_is_listed_and_has_words_of_its_own_speaks(fed: Fed) -> None:
    memory = InMemorySpanExporter()
    plain, own, gone = Member("otel"), Member("arize", ONE), Member("levo", OTHER, listed=False)
    for member in (gone, plain, own):
        fed.add(member, SimpleSpanProcessor(memory if member is gone else InMemorySpanExporter()))
    for _ in range(2):
        span = fed.tracer.start_span("x", attributes={"plain": 1})
        assert isinstance(span, Span)
        fed.backends.vocabularies.replace(span, ONE, bounded({"one": 1}))
        fed.backends.vocabularies.replace(span, OTHER, bounded({"other": 1}))
        span.end()
        own.listed = False
    assert [dict(span.attributes or {}) for span in memory.get_finished_spans()] == [{"one": 1}, {"plain": 1}]


def test_what_a_processor_holds_is_delivered_although_another_has_taken_its_place(fed: Fed) -> None:
    before, after = InMemorySpanExporter(), InMemorySpanExporter()
    fed.add(Member("otel"), BatchSpanProcessor(before, schedule_delay_millis=600_000))
    fed.span("before")
    fed.add(Member("arize_phoenix", ONE), BatchSpanProcessor(after, schedule_delay_millis=600_000), project="mine")
    fed.span("after")
    fed.provider.force_flush()
    fed.provider.shutdown()
    # What was replaced is shut down aside.
    wait_for(lambda: names(before) + names(after) == ["before", "after"])


def test_a_span_that_is_not_sampled_leaves_no_notes() -> None:
    vocabularies = Vocabularies()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(vocabularies)
    provider.get_tracer("t").start_span("x").end()
    assert (len(vocabularies._open), len(vocabularies._ended)) == (0, 0)
