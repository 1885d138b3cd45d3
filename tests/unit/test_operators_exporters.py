"""A provider that the operator had set up, whose exporter writes to the account of one of LiteLLM's callbacks."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from litellm_otel_plugin.backends.folding import Backends, EarlySpans, Site
from litellm_otel_plugin.backends.resources import own_resource
from litellm_otel_plugin.backends.vocabularies import Vocabularies, Vocabulary
from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor, Destination
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from tests.support.receiver import ReceivedSpan

WORDS = Vocabulary("words")
PROJECT = {"project": "mine"}


class Member:
    def __init__(self, name: str, owner: str | None, vocabulary: Vocabulary | None) -> None:
        self.name = name
        self.owner = owner
        self.vocabulary = vocabulary
        self.listed = True
        self.overridden = False

    def is_listed(self) -> bool:
        return self.listed

    def is_overridden(self) -> bool:
        return self.overridden


def preset() -> Member:
    return Member("arize_phoenix", "arize_phoenix", WORDS)


class OfTheOperator(BatchSpanProcessor):
    """Sends when it is told to, never what the operator does not want sent, and knows what it was told of."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        super().__init__(exporter, schedule_delay_millis=3_600_000)
        self.told: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.told.append(f"{span.name} starts")

    def _on_ending(self, span: Span) -> None:
        self.told.append(f"{span.name} is about to end")

    def on_end(self, span: ReadableSpan) -> None:
        if span.name != "secret":
            super().on_end(span)


class House:
    """The operator's provider and receiver, and what is to be folded into them."""

    def __init__(self, receiver: OtlpReceiver, delivery: Delivery, exporters: int = 1) -> None:
        self.receiver = receiver
        self.delivery = delivery
        self.request: Any = None
        self.said: list[str] = []
        self.backends = Backends(Vocabularies(), lambda: self.request, self.said.append)
        self.provider = TracerProvider(resource=Resource({"service.name": "theirs"}), shutdown_on_exit=False)
        self.theirs = [OfTheOperator(OTLPSpanExporter(f"{receiver.url}/v1/traces")) for _ in range(exporters)]
        for processor in self.theirs:
            self.provider.add_span_processor(processor)

    def prepare(self, provider: TracerProvider) -> None:
        provider.add_span_processor(self.backends.vocabularies)
        provider.add_span_processor(EarlySpans(lambda: self.request))

    def add(self, provider: TracerProvider, member: Member, **overrides: str) -> None:
        processor = DeliveryProcessor(Destination(f"{self.receiver.url}/v1/traces"), delivery=self.delivery)
        site = Site(owner=member.owner, kind="otlp_http", endpoint=None, identity=member.name)
        change = own_resource({}, overrides, insisted=frozenset(overrides))
        self.backends.add(provider, member, processor, site, change)

    def add_late(self, member: Member, **overrides: str) -> None:
        """As LiteLLM does with a callback that comes while the proxy serves."""
        self.prepare(self.provider)
        self.add(self.provider, member, **overrides)

    def add_at_start(self, *members: Member, **overrides: str) -> None:
        """As the callbacks of config.yaml are, before it is seen whose provider is used."""
        ours = TracerProvider(shutdown_on_exit=False)
        for member in members:
            self.add(ours, member, **overrides)
        self.prepare(self.provider)
        for backend in self.backends:
            self.backends.move(backend, self.provider)

    def span(self, name: str, *, withheld: bool = False) -> None:
        span: Any = self.provider.get_tracer("t").start_span(name, attributes={"plain": 1})
        self.backends.vocabularies.add(span, WORDS, {"worded": 2})
        if withheld:
            self.backends.vocabularies.withhold(span, "arize_phoenix")
        span.end()

    def received(self) -> dict[str, ReceivedSpan]:
        """By name, each of which came once."""
        assert self.provider.force_flush()
        spans = self.receiver.spans
        assert set(Counter(span.name for span in spans).values()) <= {1}
        return {span.name: span for span in spans}


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    made = Delivery()
    yield made
    made.close(5)


@pytest.fixture
def house(delivery: Delivery) -> Iterator[House]:
    with OtlpReceiver() as receiver:
        made = House(receiver, delivery)
        yield made
        made.provider.shutdown()


def words(span: ReceivedSpan) -> tuple[Any, ...]:
    """The preset's word on a span, and whose the resource is."""
    resource = span.resource
    return span.attributes.get("worded"), *(resource.get(name) for name in ("service.name", *PROJECT))


@pytest.mark.contract
@pytest.mark.parametrize("late", [False, True])
def test_a_preset_words_what_the_operators_exporter_sends_to_its_account(house: House, late: bool) -> None:
    member = preset()
    house.span("before")
    (house.add_late if late else house.add_at_start)(member, **PROJECT)
    house.span("a call")
    house.span("secret")
    member.listed = False
    house.span("of nobody")
    received = house.received()
    assert {name: words(span) for name, span in received.items()} == {
        "before": (None, "theirs", None),
        "a call": (2, "theirs", "mine"),
        "of nobody": (None, "theirs", None),
    }
    written = "arize_phoenix: the provider that was already set writes to its account"
    assert house.said == [f"{written}: what it sends there is in the words of this callback"]
    assert [backend.name for backend in house.backends] == ["arize_phoenix otlp_http"]
    assert house.delivery.stats().total.accepted == 0


@pytest.mark.contract
def test_the_operators_provider_still_flushes_and_closes_its_own_exporter(house: House) -> None:
    house.add_at_start(preset())
    house.span("a call")
    house.provider.shutdown()
    assert [span.attributes["worded"] for span in house.receiver.spans] == [2]
    house.span("too late")
    assert len(house.receiver.spans) == 1


def test_the_operators_processor_is_told_all_that_it_was_told_before(house: House) -> None:
    house.span("before")
    house.add_at_start(preset())
    house.span("a call")
    (theirs,) = house.theirs
    before, after = ([each for each in theirs.told if each.startswith(name)] for name in ("before", "a call"))
    assert before
    assert after == [each.replace("before", "a call") for each in before]


@pytest.mark.parametrize("late", [False, True])
def test_what_has_no_words_of_its_own_is_left_out_by_name(house: House, late: bool) -> None:
    before = house.provider._active_span_processor._span_processors
    (house.add_late if late else house.add_at_start)(Member("otel", None, None), setting="of the callback")
    house.span("a call")
    assert words(house.received()["a call"]) == (None, "theirs", None)
    assert house.said == ["otel: the provider that was already set writes to its account: left out"]
    assert list(house.backends) == []
    assert set(before) <= set(house.provider._active_span_processor._span_processors)


def test_beside_otel_the_presets_words_win(house: House) -> None:
    house.add_at_start(Member("otel", None, None), preset(), **PROJECT)
    house.span("a call")
    assert words(house.received()["a call"]) == (2, "theirs", "mine")


def test_a_callback_that_joins_later_leaves_the_operators_exporter_in_its_place(house: House) -> None:
    house.add_at_start(Member("agentops", "agentops", None), **PROJECT)
    house.add(house.provider, preset(), **PROJECT)
    house.span("a call")
    assert words(house.received()["a call"]) == (2, "theirs", "mine")
    assert house.delivery.stats().total.accepted == 0


def test_an_operator_can_export_with_our_delivery(delivery: Delivery) -> None:
    with OtlpReceiver() as receiver:
        house = House(receiver, delivery, exporters=0)
        theirs = DeliveryProcessor(Destination(f"{receiver.url}/v1/traces"))
        house.provider.add_span_processor(theirs)
        house.add_at_start(preset(), **PROJECT)
        house.span("a call")
        assert words(house.received()["a call"]) == (2, "theirs", "mine")
        house.provider.shutdown()
        assert theirs.stats().total.sent == 1


def test_what_is_kept_from_the_preset_is_sent_as_the_operator_has_it(house: House) -> None:
    house.add_at_start(preset(), **PROJECT)
    house.span("a tenant's call", withheld=True)
    assert words(house.received()["a tenant's call"]) == (None, "theirs", "mine")


def test_where_a_tenant_has_an_account_instead_the_operators_exporter_sends_it_plain(house: House) -> None:
    member = preset()
    house.add_at_start(member)
    house.span("the operator's")
    member.overridden = True
    house.span("a tenant's")
    assert {name: words(span)[0] for name, span in house.received().items()} == {
        "the operator's": 2,
        "a tenant's": None,
    }


def test_what_ended_before_it_was_known_who_asks_is_not_sent_again(house: House) -> None:
    member = preset()
    member.listed = False
    house.add_at_start(member)
    house.request = SimpleNamespace(finished=False, asked_callbacks=None, early_spans=[])
    house.span("early")
    house.backends.answer({member.name})
    house.span("a call")
    assert {name: words(span)[0] for name, span in house.received().items()} == {"early": None, "a call": 2}


@pytest.mark.parametrize("late", [False, True])
def test_several_exporters_for_one_account_are_left_to_the_operator(delivery: Delivery, late: bool) -> None:
    with OtlpReceiver() as receiver:
        house = House(receiver, delivery, exporters=2)
        (house.add_late if late else house.add_at_start)(preset())
        house.span("a call")
        house.provider.shutdown()
        assert [words(span)[0] for span in receiver.spans] == [None, None]
        written = "arize_phoenix: the provider that was already set writes to its account"
        assert house.said == [f"{written} with 2 exporters: left out, and its words with it"]
