"""Several of LiteLLM's tracing callbacks at once: each backend gets every span once, worded as if it were alone."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, StatusCode

from litellm_otel_plugin import seams, upstream
from litellm_otel_plugin.backends.accounts import innermost
from litellm_otel_plugin.backends.operators import Operators
from litellm_otel_plugin.backends.resources import own_resource
from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor
from tests.support.backends import GrpcReceiver
from tests.support.folded import assert_one_tree, by_trace, skeletons, words_of
from tests.support.folding import (
    COLLECTOR,
    COLLECTORS_VARIABLES,
    HOSTS,
    VARIABLES,
    Call,
    Memory,
    alone,
    gateway,
    kinds,
    mapped,
    model_call,
    root_of,
    tree,
    worded,
)
from tests.support.receiver import OtlpReceiver
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's imports warn of its own affairs

CONTENT = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only"}
NEW_RELICS_CONTENT = "NEW_RELIC_AI_MONITORING_RECORD_CONTENT_ENABLED"
FAMILIES = ("openinference.", "llm.", "langfuse.", "weave.", "langtrace.")
LARGE = Call(messages=40, tools=30)
PAIRS: list[tuple[str, ...]] = list(itertools.permutations(VARIABLES, 2))
TRIPLES: list[tuple[str, ...]] = list(itertools.islice(itertools.permutations(VARIABLES, 3), 0, None, 7))


@cache
def reference(name: str, call: Call = Call(), **environment: str) -> list[ReadableSpan]:  # noqa: B008 - it is frozen
    """What LiteLLM itself sends to a callback's backend where it is the only one; asked for outside of a gateway."""
    return alone(name, call, environment)


def references(names: Iterable[str], call: Call = Call(), **environment: str) -> dict[str, list[ReadableSpan]]:  # noqa: B008
    return {name: reference(name, call, **environment) for name in names}


def collectors_words(names: tuple[str, ...]) -> str:
    """Who words what the operator's collector gets: Langtrace has no other backend."""
    return "langtrace" if "langtrace" in names else "otel"


def own_backends(names: tuple[str, ...]) -> dict[str, str]:
    """The host of each backend that these callbacks feed, and the callback in whose words."""
    own = {HOSTS[name]: name for name in names if HOSTS[name] != COLLECTOR}
    return {**own, COLLECTOR: collectors_words(names)}


def words_of_call(spans: list[ReadableSpan]) -> dict[str, Any]:
    return dict(model_call(spans).attributes or {})


def families_of(spans: list[ReadableSpan]) -> set[str]:
    return {family for span in spans for key in mapped(span) for family in FAMILIES if key.startswith(family)}


@pytest.mark.parametrize("names", PAIRS + TRIPLES, ids="-".join)
def test_of_several_backends_each_gets_one_tree_worded_as_if_it_were_alone(names: tuple[str, ...]) -> None:
    backends = own_backends(names)
    expected = references(backends.values())
    with gateway(*names) as proxy:
        proxy.start(*names)
        proxy.request()
        trees = {host: tree(proxy.at(host)) for host in backends}
        whole = trees[COLLECTOR]
        assert len(whole) == 4
        assert set(whole.values()) == {1}
        assert trees == dict.fromkeys(trees, whole)
        for host, name in backends.items():
            seen = proxy.at(host)
            assert words_of_call(seen) == words_of_call(expected[name]), name
            assert worded(seen) == worded(expected[name]), name
            assert families_of(seen) == families_of(expected[name]), name
        assert proxy.said == []


def test_every_preset_stands_first_second_and_third_among_the_triples() -> None:
    assert [set(place) for place in zip(*TRIPLES, strict=True)] == [set(VARIABLES)] * 3


@pytest.mark.parametrize(
    "names",
    [
        ("otel", "otel"), ("langfuse_otel", "langfuse_otel"), ("arize", "arize", "otel"),
        ("otel", "arize_phoenix", "otel", "arize_phoenix"),
    ],
    ids="-".join,
)  # fmt: skip
def test_a_callback_that_is_listed_twice_gets_everything_once(names: tuple[str, ...]) -> None:
    backends = own_backends(names)
    expected = references(backends.values())
    with gateway(*set(names)) as proxy:
        proxy.start(*names)
        proxy.request()
        assert proxy.folding is not None
        assert sorted(proxy.folded) == sorted(set(names))
        for host, name in backends.items():
            assert list(tree(proxy.at(host)).values()) == [1] * 4, name
            assert worded(proxy.at(host)) == worded(expected[name]), name
        assert proxy.said == []


@pytest.mark.parametrize("event", ["success", "failure"])
@pytest.mark.parametrize("name", [each for each in VARIABLES if each not in {"otel", "langtrace"}])
def test_a_preset_that_is_listed_for_one_outcome_gets_whole_trees_of_both(name: str, event: str) -> None:
    calls = (Call(), Call(fails=True))
    expected = [words_of_call(reference(name, call)) for call in calls]
    with gateway("otel", name) as proxy:
        proxy.start("otel")
        proxy.list_for(event, name)
        for call, words in zip(calls, expected, strict=True):
            proxy.forget()
            proxy.request(call)
            seen = proxy.spans_of(name)
            assert list(tree(seen).values()) == [1] * 4
            assert tree(seen) == tree(proxy.spans_of("otel"))
            assert words_of_call(seen) == words
        assert proxy.said == []


@pytest.mark.contract
def test_where_openinference_is_spoken_every_span_has_its_kind() -> None:
    """A span without one that names a model, as LiteLLM's baggage has it on all, is a model call to Phoenix."""
    with gateway("otel", "arize_phoenix") as proxy:
        proxy.start("otel", "arize_phoenix")
        proxy.request()
        call = model_call(proxy.at("phoenix.test")).name
        of_phoenix = kinds(proxy.at("phoenix.test"))
        assert of_phoenix.pop(call) == "LLM"
        assert list(of_phoenix.values()) == ["CHAIN"] * 3
        assert set(kinds(proxy.at(COLLECTOR)).values()) == {None}


# Each preset once first and once second.
RING = list(zip(VARIABLES, [*list(VARIABLES)[1:], next(iter(VARIABLES))], strict=True))

# What an operator sets, and a preset whose backend it shows on.
NARROWER: dict[str, tuple[dict[str, str], str]] = {
    "attributes": ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "60"}, "otel"),
    "a_spans_attributes": ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "60"}, "arize_phoenix"),
    "values": ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "12"}, "weave_otel"),
    "a_spans_values": ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "12"}, "langfuse_otel"),
    "no_legacy_names": ({"LITELLM_OTEL_LEGACY_COMPAT": "false"}, "otel"),
    "llm_only": ({"LITELLM_OTEL_LANGFUSE_SPAN_SCOPE": "llm_only"}, "langfuse_otel"),
}


@pytest.mark.parametrize("narrower", [None, *NARROWER])
@pytest.mark.parametrize(
    "names", [*RING, ("otel", "arize_phoenix", "langfuse_otel"), ("weave_otel", "langfuse_otel", "arize")], ids="-".join
)
def test_a_large_call_reaches_each_as_it_would_alone_whatever_the_limits(
    names: tuple[str, ...], narrower: str | None
) -> None:
    environment = {**CONTENT, **(NARROWER[narrower][0] if narrower else {})}
    expected = references(own_backends(names).values(), LARGE, **environment)
    with gateway(*names, environment=environment) as proxy:
        proxy.start(*names)
        proxy.request(LARGE)
        for host, name in own_backends(names).items():
            seen = proxy.at(host)
            assert list(tree(seen).values()) == [1] * len(expected[name]), name
            assert worded(seen) == worded(expected[name]), name
        assert proxy.said == []


@pytest.mark.parametrize("narrower", NARROWER)
def test_what_narrows_a_large_call_shows_on_it(narrower: str) -> None:
    environment, name = NARROWER[narrower]
    wide, narrow = (worded(reference(name, LARGE, **CONTENT, **more)) for more in ({}, environment))
    assert narrow != wide


@pytest.mark.contract
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("otel", "arize_phoenix", "langfuse_otel"),
        ("langfuse_otel", "arize_phoenix", "otel"),
        ("arize", "langtrace", "weave_otel"),
        ("langtrace", "weave_otel", "arize"),
    ],
)
def test_a_call_too_large_for_one_span_is_cut_for_each_as_if_it_were_alone(names: tuple[str, ...], fails: bool) -> None:
    call = replace(LARGE, fails=fails)
    expected = references(own_backends(names).values(), call, **CONTENT)
    with gateway(*names, environment=CONTENT) as proxy:
        proxy.start(*names)
        proxy.request(call)
        for host, name in own_backends(names).items():
            seen = proxy.at(host)
            assert words_of_call(seen) == words_of_call(expected[name]), name
            assert model_call(seen).dropped_attributes == model_call(expected[name]).dropped_attributes, name
            assert worded(seen) == worded(expected[name]), name


def test_a_large_call_fills_a_span_in_openinferences_words() -> None:
    words = words_of_call(reference("arize_phoenix", LARGE, **CONTENT))
    told = [name for name in words if name.startswith("llm.input_messages.") and name.endswith(".content")]
    assert 0 < len(told) < LARGE.messages
    assert 120 < len(words) <= 128


def shows_content(spans: list[ReadableSpan]) -> bool:
    return any("question 0" in str(span.attributes) for span in spans)


@pytest.mark.contract
@pytest.mark.parametrize("call", [Call(), Call(is_of_mcp_tool=True)], ids=["model", "mcp_tool"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("others", "new_relics"), [(True, False), (False, True)])
def test_new_relics_own_say_on_content_is_for_it_alone(others: bool, new_relics: bool, order: int, call: Call) -> None:
    mode = "span_only" if others else "no_content"
    environment = {
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": mode,
        NEW_RELICS_CONTENT: str(new_relics).lower(),
    }
    names = ("newrelic", "otel", "arize", "langfuse_otel")[::order]
    expected = references(names, call, **environment)
    with gateway(*names, environment=environment) as proxy:
        proxy.start(*names)
        proxy.request(call)
        shown = {name: shows_content(proxy.spans_of(name)) for name in names}
        assert shown == {"newrelic": new_relics, "otel": others, "arize": others, "langfuse_otel": others}
        for name in names:
            assert worded(proxy.spans_of(name)) == worded(expected[name]), name


RESOURCES = {
    "arize_phoenix": {"openinference.project.name": "a project"},
    "arize": {"model_id": "litellm"},
    "agentops": {"service.name": "agentops", "telemetry.sdk.name": "agentops"},
}


def own_resources() -> dict[str, dict[str, str]]:
    """What each of these presets says of the process; before 1.106 Arize's says nothing."""
    presets = upstream.take(seams.PRESETS)
    known = {name: presets[name]().resource_attributes for name in RESOURCES}
    assert all(known[name] in ({}, RESOURCES[name]) for name in known)
    return {name: own for name, own in known.items() if own}


@pytest.mark.contract
@pytest.mark.parametrize("names", list(itertools.permutations(("otel", *RESOURCES)))[::5])
def test_what_a_preset_says_of_the_process_is_for_its_own_backend(names: tuple[str, ...]) -> None:
    expected = references(names)
    with gateway(*names) as proxy:
        proxy.start(*names)
        proxy.request()
        for name in names:
            seen = proxy.spans_of(name)
            assert {span.resource for span in seen} == {seen[0].resource}
            assert process_of(seen[0]) == process_of(expected[name][0]), name
            for owner, own in own_resources().items():
                has = {key: seen[0].resource.attributes.get(key) for key in own}
                assert (has == own) is (owner == name), (owner, name)


SETTINGS: list[dict[str, Any]] = [
    {"deployment_environment": "prod", "service_name": "ours"},
    {"resource_attributes": {"service.name": "ours", "team": "mine"}},
]
PROCESS = {"OTEL_RESOURCE_ATTRIBUTES": "host.name=here,team=everybody"}


@pytest.mark.contract
@pytest.mark.parametrize("environment", [{}, PROCESS, {"OTEL_ENVIRONMENT_NAME": "test"}])
@pytest.mark.parametrize("settings", SETTINGS, ids=["environment", "attributes"])
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_set_for_otel_of_the_process_is_for_the_collector_alone(
    settings: dict[str, Any], environment: dict[str, str], order: int
) -> None:
    names = ("otel", *RESOURCES, "langfuse_otel")[::order]
    expected = {name: process_of(alone(name, Call(), environment, settings)[0]) for name in names}
    with gateway(*names, environment=environment, settings=settings) as proxy:
        proxy.start(*names)
        proxy.request()
        for name in names:
            seen = proxy.spans_of(name)
            assert {span.resource for span in seen} == {seen[0].resource}
            assert process_of(seen[0]) == expected[name], name
            if "service.instance.id" in proxy.published.tracer_provider.resource.attributes:
                assert "service.instance.id" in seen[0].resource.attributes


def test_an_id_of_the_process_that_is_set_for_otel_is_the_collectors() -> None:
    with gateway("otel", "arize", settings={"resource_attributes": {"service.instance.id": "ours"}}) as proxy:
        proxy.start("otel", "arize")
        proxy.request()
        told = [proxy.spans_of(name)[0].resource.attributes.get("service.instance.id") for name in ("otel", "arize")]
        assert told == ["ours", proxy.published.tracer_provider.resource.attributes.get("service.instance.id")]


def test_what_somebody_else_has_said_of_the_process_since_stays() -> None:
    change = own_resource(
        plain={"service.name": "ours", "deployment.environment": "prod"},
        own={"service.name": "litellm", "project": "mine"},
        insisted=frozenset({"project"}),
    )
    assert change is not None
    plain = change(Resource({"service.name": "ours", "deployment.environment": "prod", "host.name": "here"}))
    assert dict(plain.attributes) == {"service.name": "litellm", "project": "mine", "host.name": "here"}
    tenants = Resource({"service.name": "a tenant's", "deployment.environment": "staging", "project": "another"})
    assert dict(change(tenants).attributes) == {**tenants.attributes, "project": "mine"}
    assert own_resource({"service.name": "ours"}, {"service.name": "ours"}, frozenset()) is None


def process_of(span: ReadableSpan) -> dict[str, Any]:
    return {key: value for key, value in span.resource.attributes.items() if key != "service.instance.id"}


LANGFUSES_ROOT = {
    "langfuse.trace.name": "a name", "user.id": "me", "session.id": "ours", "langfuse.trace.tags": ("one", "two"),
}  # fmt: skip


@pytest.mark.contract
@pytest.mark.parametrize("names", list(itertools.permutations(("otel", "arize_phoenix", "langfuse_otel"))))
@pytest.mark.parametrize("content", [False, True])
def test_what_langfuse_reads_off_the_root_is_on_its_copy_alone(names: tuple[str, ...], content: bool) -> None:
    environment = CONTENT if content else {}
    expected = reference("langfuse_otel", **environment)
    with gateway(*names, environment=environment) as proxy:
        proxy.start(*names)
        proxy.request()
        root = root_of(proxy.spans_of("langfuse_otel")).attributes or {}
        assert {key: root.get(key) for key in LANGFUSES_ROOT} == LANGFUSES_ROOT
        assert ("question 0" in str(root.get("langfuse.observation.input"))) is content
        assert ("an answer" in str(root.get("langfuse.observation.output"))) is content
        assert dict(root) == dict(root_of(expected).attributes or {})
        for name in ("otel", "arize_phoenix"):
            plain = root_of(proxy.spans_of(name)).attributes or {}
            assert not {key for key in plain if key in LANGFUSES_ROOT or key.startswith("langfuse.")}


@pytest.mark.contract
@pytest.mark.parametrize("names", list(itertools.permutations(("otel", "arize", "langfuse_otel"))))
def test_a_failed_call_is_a_failure_in_every_backend(names: tuple[str, ...]) -> None:
    call = Call(fails=True)
    expected = references(names, call)
    with gateway(*names) as proxy:
        proxy.start(*names)
        proxy.request(call)
        calls = [model_call(proxy.spans_of(name)) for name in names]
        for name, span in zip(names, calls, strict=True):
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "slow down")
            assert (span.attributes or {}).get("error.type") == "RateLimitError"
            assert [event.name for event in span.events] == ["exception"]
            assert worded(proxy.spans_of(name)) == worded(expected[name])
        assert len({event.timestamp for span in calls for event in span.events}) == 1
        assert len({(span.start_time, span.end_time) for span in calls}) == 1


WAYS_BACK = ("add_litellm_callback", "add_litellm_success_callback", "add_litellm_async_success_callback")


@pytest.mark.parametrize("way_back", WAYS_BACK)
@pytest.mark.parametrize("name", VARIABLES)
def test_a_logger_that_litellm_lets_go_of_receives_no_more_until_it_is_back(name: str, way_back: str) -> None:
    import litellm  # noqa: PLC0415 - the SDK, for these tests only

    other = "langfuse_otel" if name == "arize" else "arize"
    with gateway(name, other) as proxy:
        proxy.start(name, other)
        # Before 1.106 every preset writes to the operator's collector beside its own backend.
        others_too = HOSTS[name] in {Memory(spec).host for spec in proxy.built[other].config.exporters}
        received: list[tuple[int, int]] = []
        for change in (
            lambda _: None,
            litellm.logging_callback_manager.remove_callback_from_all_lists,
            getattr(litellm.logging_callback_manager, way_back),
        ):
            change(proxy.built[name])
            proxy.forget()
            proxy.request(Call(call_id=f"call {len(received)}"))
            received.append((len(proxy.spans_of(name)), len(proxy.spans_of(other))))
        assert received == [(4, 4), (4 if others_too else 0, 4), (4, 4)]


@pytest.mark.parametrize("name", ["arize", "langtrace"])
def test_otel_in_no_list_takes_the_collector_from_nobody(name: str) -> None:
    """Any request can have it built; listed, it feeds the collector by itself, and gives it back when it goes."""
    with gateway(name) as proxy:
        proxy.start(name)
        otel = proxy.build("otel")
        received: list[int] = []
        changes: tuple[Callable[[Any], None], ...] = (lambda _: None, proxy.enlist, proxy.unlist)
        for change in changes:
            change(otel)
            proxy.forget()
            proxy.request()
            assert set(tree(proxy.at(COLLECTOR)).values()) == {1}
            received.append(len(proxy.at(COLLECTOR)))
        assert received == [4, 4, 4]


def test_otel_in_no_list_gets_nothing_twice_where_a_team_asks_for_it() -> None:
    with gateway("arize") as proxy:
        proxy.start("arize")
        proxy.build("otel")
        proxy.request(asked={"otel"})
        assert list(tree(proxy.at(COLLECTOR)).values()) == [1] * 4
        assert tree(proxy.at(COLLECTOR)) == tree(proxy.spans_of("arize"))


@pytest.mark.parametrize("own_class", [False, True])
@pytest.mark.parametrize("names", [(), ("otel",), ("arize", "otel")])
def test_a_logger_that_the_operators_code_made_is_one_more_backend(names: tuple[str, ...], own_class: bool) -> None:
    import litellm  # noqa: PLC0415 - as above

    class Curious(upstream.take(seams.V2_LOGGER)):  # type: ignore[misc]  # LiteLLM's, with what an operator adds
        told = 0

        async def async_log_success_event(self, *args: Any, **kwargs: Any) -> None:
            self.told += 1
            await super().async_log_success_event(*args, **kwargs)

    kind = Curious if own_class else upstream.take(seams.V2_LOGGER)
    with gateway(*names) as proxy:
        for name in names:
            proxy.build(name)
        mine = kind(config=_config_for("http://mine.test:4318"))
        loggers = [*proxy.built.values(), mine]
        litellm.callbacks[:] = loggers
        for logger in loggers:
            proxy.enlist(logger)
        proxy.publish()
        proxy.request()
        assert list(tree(proxy.at("mine.test")).values()) == [1] * 4
        for name in names:
            assert tree(proxy.spans_of(name)) == tree(proxy.at("mine.test"))
        assert getattr(mine, "told", 1) == 1
        proxy.unlist(mine)
        proxy.forget()
        proxy.request()
        assert proxy.at("mine.test") == []
        assert [len(proxy.spans_of(name)) for name in names] == [4] * len(names)


def test_a_logger_of_the_operators_with_a_provider_of_its_own_is_left_to_them() -> None:
    import litellm  # noqa: PLC0415 - as above

    own = SpanMemory()
    with gateway("otel") as proxy:
        logger = proxy.build("otel")
        mine = upstream.take(seams.V2_LOGGER)(config=_config_for("http://mine.test"), tracer_provider=own.provider)
        mine.label = "mine"  # LiteLLM lists one of two loggers whose plain attributes are equal
        litellm.callbacks[:] = [logger, mine]
        proxy.enlist(logger)
        proxy.enlist(mine)
        proxy.publish()
        proxy.request()
        assert [span.kind for span in own.spans] == [SpanKind.CLIENT]
        assert len(proxy.spans_of("otel")) == 4
        assert [line for line in proxy.said if "OpenTelemetryV2" in line and "its own" in line]


def test_a_logger_of_the_operators_on_the_provider_that_is_used_records_nothing_twice() -> None:
    import litellm  # noqa: PLC0415 - as above

    own = SpanMemory()
    with gateway("otel", arrange=lambda patch: patch.setattr(trace, "_TRACER_PROVIDER", own.provider)) as proxy:
        logger = proxy.build("otel")
        mine = upstream.take(seams.V2_LOGGER)(tracer_provider=own.provider)
        mine.label = "mine"
        litellm.callbacks[:] = [logger, mine]
        proxy.enlist(logger)
        proxy.enlist(mine)
        proxy.publish()
        upstream.adopt_provider(proxy.published, own.provider)
        proxy.request()
        assert len([span for span in own.spans if span.name.startswith("chat ")]) == 1
        assert [line for line in proxy.said if "OpenTelemetryV2" in line and "nothing of its own" in line]


@pytest.mark.contract
def test_a_backend_knows_whose_requests_are_not_for_the_operators_account() -> None:
    with gateway("otel", "langfuse_otel") as proxy:
        proxy.start("otel", "langfuse_otel")
        assert proxy.folding is not None
        (member,) = [
            each for backend in proxy.folding.backends for each in backend.members if each.owner == "langfuse_otel"
        ]
        assert not member.is_overridden()
        upstream.put(seams.OVERRIDDEN, lambda: frozenset({"langfuse_otel"}))
        assert member.is_overridden()


def _config_for(endpoint: str) -> Any:
    from litellm.integrations.otel.model.config import ExporterSpec, OpenTelemetryV2Config  # noqa: PLC0415 - as above

    return OpenTelemetryV2Config(exporters=[ExporterSpec(kind="otlp_http", endpoint=endpoint)])


@pytest.mark.parametrize("name", ["arize", "newrelic", "agentops"])
def test_a_preset_without_credentials_is_named_and_disturbs_nobody(name: str) -> None:
    with gateway("otel", name) as proxy:
        for variable in VARIABLES[name]:
            os.environ.pop(variable)
        proxy.start("otel", name)
        proxy.request()
        assert len([line for line in proxy.said if name in line and "no credentials" in line]) == 1, proxy.said
        assert proxy.spans_of(name) == []
        assert len(proxy.spans_of("otel")) == 4
        assert proxy.folding is not None
        assert name not in " ".join(backend.name for backend in proxy.folding.backends)


def test_langfuse_reads_its_trace_off_the_root_where_it_is_told_of_successes_alone() -> None:
    import litellm  # noqa: PLC0415 - as above

    with gateway("langfuse_otel") as proxy:
        logger = proxy.build("langfuse_otel")
        litellm.logging_callback_manager.add_litellm_success_callback(logger)
        litellm.logging_callback_manager.add_litellm_async_success_callback(logger)
        proxy.publish()
        proxy.request()
        root = root_of(proxy.spans_of("langfuse_otel")).attributes or {}
        assert (root["langfuse.trace.name"], root["session.id"]) == ("a name", "ours")


def test_a_callback_that_litellm_lists_by_its_name_is_listed() -> None:
    import litellm  # noqa: PLC0415 - as above

    with gateway("otel", "arize") as proxy:
        proxy.start("otel", "arize")
        proxy.unlist(proxy.built["arize"])
        litellm.success_callback.append("arize")
        proxy.request()
        assert tree(proxy.spans_of("arize")) == tree(proxy.spans_of("otel"))
        assert len(proxy.spans_of("arize")) == 4


@pytest.mark.contract
@pytest.mark.parametrize("name", [each for each in VARIABLES if each not in {"otel", "langtrace"}])
def test_a_logger_in_no_list_gets_the_requests_that_ask_for_it(name: str) -> None:
    expected = reference(name)
    with gateway("otel", name) as proxy:
        proxy.start("otel")
        proxy.build(name)
        proxy.request(Call(call_id="1"))
        assert proxy.spans_of(name) == []
        proxy.request(Call(call_id="2"), asked={"another"})
        assert proxy.spans_of(name) == []
        proxy.forget()
        proxy.request(Call(call_id="a-call"), asked={"another", name})
        assert len(proxy.spans_of("otel")) == 4
        assert tree(proxy.spans_of(name)) == tree(proxy.spans_of("otel"))  # what ended before it was known, too
        assert words_of_call(proxy.spans_of(name)) == words_of_call(expected)
        proxy.forget()
        proxy.request(Call(call_id="4"))
        assert proxy.spans_of(name) == []
        assert len(proxy.spans_of("otel")) == 4


def test_of_requests_at_once_only_those_that_ask_are_told_of() -> None:
    with gateway("otel", "arize", "arize_phoenix") as proxy:
        proxy.start("otel")
        proxy.build("arize")
        proxy.build("arize_phoenix")
        proxy.requests(["arize"], [], ["arize_phoenix", "arize"], ["another"], ["arize_phoenix"])
        traces: dict[int, list[ReadableSpan]] = {}
        for span in proxy.spans_of("otel"):
            assert span.context is not None
            traces.setdefault(span.context.trace_id, []).append(span)
        assert [len(spans) for spans in traces.values()] == [4] * 5
        asked = {str((model_call(spans).attributes or {})["litellm.call_id"]): tree(spans) for spans in traces.values()}
        assert tree(proxy.spans_of("arize")) == asked["0"] + asked["2"]
        assert tree(proxy.spans_of("arize_phoenix")) == asked["2"] + asked["4"]


def test_nothing_is_left_of_a_request_whose_spans_are_delivered() -> None:
    names = ("otel", "arize", "langfuse_otel")
    with gateway(*names) as proxy:
        proxy.start(*names)
        proxy.requests(*[()] * 10)
        assert proxy.folding is not None
        notes = proxy.folding.backends.vocabularies
        assert len(proxy.spans_of("otel")) == 40
        proxy.forget()
        gc.collect()
        assert (len(notes._open), len(notes._ended)) == (0, 0)


def test_without_a_callback_the_collector_that_the_environment_names_gets_every_request() -> None:
    expected = reference("otel")
    with gateway() as proxy:
        proxy.start()
        proxy.request()
        assert worded(proxy.at(COLLECTOR)) == worded(expected)
        assert set(tree(proxy.at(COLLECTOR)).values()) == {1}


def test_a_logger_that_was_built_before_is_folded_when_the_proxy_publishes() -> None:
    backends = own_backends(("arize", "langfuse_otel"))
    expected = references(backends.values())
    with gateway("arize", "langfuse_otel") as proxy:
        assert proxy.folding is not None
        folding_build = upstream.take(seams.BUILD_LOGGER)
        upstream.put(seams.BUILD_LOGGER, folding_build.__wrapped__)
        early = proxy.build("arize")
        upstream.put(seams.BUILD_LOGGER, folding_build)
        assert proxy.folded == []
        proxy.start("arize", "langfuse_otel")
        assert proxy.built["arize"] is early
        proxy.forget()
        proxy.request()
        for host, name in backends.items():
            assert set(tree(proxy.at(host)).values()) == {1}
            assert worded(proxy.at(host)) == worded(expected[name])


@pytest.mark.parametrize("name", ["arize", "langfuse_otel", "agentops"])
def test_two_threads_that_build_one_callback_at_once_do_not_double_its_spans(name: str) -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(patch: pytest.MonkeyPatch) -> None:
        presets = upstream.module(seams.PRESETS_MODULE)
        preset = presets.PRESET_BY_CALLBACK[name]

        def waiting(**options: Any) -> Any:
            both.wait()
            return preset(**options)

        patch.setattr(presets, "PRESET_BY_CALLBACK", {**presets.PRESET_BY_CALLBACK, name: waiting})

    with gateway(name, arrange=meet) as proxy:
        assert proxy.folding is not None
        threads = [threading.Thread(target=proxy.build, args=(name,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.folded == [name, name]
        for logger in upstream.module(seams.LOGGING_MODULE)._in_memory_loggers:
            proxy.enlist(logger)
        proxy.publish()
        proxy.request()
        for host in (HOSTS[name], COLLECTOR):
            assert len(proxy.at(host)) == 4, host
            assert set(tree(proxy.at(host)).values()) == {1}


def test_a_processor_of_the_sdks_gets_copies_with_the_presets_resource() -> None:
    with gateway("otel", "arize_phoenix") as proxy:
        proxy.start("otel", "arize_phoenix")
        proxy.request()
        plain, own = proxy.spans_of("otel"), proxy.spans_of("arize_phoenix")
        assert {span.resource for span in plain} == {proxy.published.tracer_provider.resource}
        assert "openinference.project.name" not in plain[0].resource.attributes
        changed = set(own[0].resource.attributes.items()) ^ set(plain[0].resource.attributes.items())
        assert changed == {("openinference.project.name", "a project")}
        assert len({id(span.resource) for span in own}) == 1  # not a resource for each span


@pytest.fixture
def refused() -> list[str]:
    """The backends that the delivery does not take."""
    return []


@pytest.fixture
def deliver(refused: list[str]) -> Iterator[Callable[[pytest.MonkeyPatch], None]]:
    """Has what LiteLLM would export delivered."""
    delivery = Delivery()
    operators = Operators(delivery, proxy=None, refused=lambda name, _: refused.append(name))
    yield lambda _: upstream.wrap_exporters(operators.processor, operators.processor_of_exporter)
    delivery.close(0)


def test_a_destination_of_the_delivery_has_the_presets_resource_as_its_own(
    deliver: Callable[[pytest.MonkeyPatch], None], refused: list[str]
) -> None:
    names = ("otel", "arize_phoenix", "arize", "levo")
    with gateway(*names, arrange=deliver) as proxy:
        proxy.start(*names)
        assert proxy.folding is not None
        changed: dict[str | None, dict[str, Any]] = {}
        for backend in proxy.folding.backends:
            inner = innermost(backend)
            assert isinstance(inner, DeliveryProcessor)
            (destination,) = inner.destinations
            change = destination.resource_change
            told = {} if change is None else dict(change(Resource.get_empty()).attributes)
            changed[backend.site.owner] = told
            assert (
                backend._change is None or backend._is_changed_by_itself
            )  # or it would be made twice, with a copy of each span
        own = own_resources()
        expected: dict[str | None, dict[str, str]] = {name: own.get(name, {}) for name in names if name != "otel"}
        assert changed == {**expected, None: {}}
    assert refused == []


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("langfuse_otel", {"LANGFUSE_OTEL_HOST": "ht!tp:\\x"}),
        ("langfuse_otel", {"LANGFUSE_OTEL_HOST": "http://"}),
        ("arize", {"ARIZE_HTTP_ENDPOINT": "nonsense"}),
        ("signoz", {"SIGNOZ_INGESTION_ENDPOINT": "http://"}),
        ("levo", {"LEVOAI_COLLECTOR_URL": "ftp://levo.test/"}),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_backend_whose_endpoint_is_none_is_refused_once_and_the_collectors_trees_are_whole(
    name: str,
    endpoint: dict[str, str],
    order: int,
    deliver: Callable[[pytest.MonkeyPatch], None],
    refused: list[str],
) -> None:
    with OtlpReceiver() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **endpoint}
        with gateway(name, environment=environment, arrange=deliver) as proxy:
            proxy.start(*("otel", name)[::order])
            proxy.request(Call(call_id="1"))
            proxy.request(Call(call_id="2"))
            assert proxy.published.tracer_provider.force_flush()
            traces = by_trace(collector.spans)
            assert len(traces) == 2
            for spans in traces.values():
                assert_one_tree(spans, calls=1)
                assert len(spans) == 4
            assert proxy.said == []
    assert refused == [name]


@pytest.mark.parametrize("name", ["signoz", "levo", "weave_otel", "langtrace"])
def test_a_preset_without_its_variables_is_told_of_once_and_the_collectors_trees_are_whole(name: str) -> None:
    unbuilt: list[str] = []

    def listen(_: pytest.MonkeyPatch) -> None:
        upstream.report_unbuilt_presets(lambda name: name not in unbuilt, lambda name, _: unbuilt.append(name))

    expected = reference("otel")
    with gateway(arrange=listen) as proxy:
        proxy.start("otel")
        for _ in range(2):  # with each request that it is to be told of
            assert upstream.take(seams.FACTORY)(name, internal_usage_cache=None, llm_router=None) is None
            proxy.forget()
            proxy.request()
            assert list(tree(proxy.at(COLLECTOR)).values()) == [1] * 4
            assert worded(proxy.at(COLLECTOR)) == worded(expected)
        assert proxy.folding is not None
        assert proxy.folded == ["otel"]
        assert proxy.said == []
    assert unbuilt == [name]


@pytest.mark.parametrize("names", [("otel", "arize"), ("arize", "otel")])
def test_over_grpc_a_backend_gets_the_whole_tree_with_its_own_headers_and_resource(
    names: tuple[str, ...], deliver: Callable[[pytest.MonkeyPatch], None], refused: list[str]
) -> None:
    with GrpcReceiver() as arize, OtlpReceiver() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-collectors=own",
            "ARIZE_ENDPOINT": f"{arize.url}/v1",
            "ARIZE_PROJECT_NAME": "mine",
        }
        with gateway(*names, environment=environment, arrange=deliver) as proxy:
            proxy.start(*names)
            proxy.request()
            assert proxy.published.tracer_provider.force_flush()
        assert_one_tree(arize.spans, calls=1)
        assert skeletons(arize.spans) == skeletons(collector.spans)
        assert words_of(arize.spans, ["openinference.", "llm.model_name"])
        assert not words_of(collector.spans, ["openinference.", "llm.model_name"])
        for metadata in arize.metadata:
            assert (metadata["space_id"], metadata["api_key"]) == ("space", "key")
            assert "x-collectors" not in metadata
        assert {span.resource.get("model_id") for span in arize.spans} == {"mine"}
        assert {headers.get("x-collectors") for _, headers in collector.requests} == {"own"}
        assert not {"space_id", "api_key"} & {name for _, headers in collector.requests for name in headers}
        assert {span.resource.get("model_id") for span in collector.spans} == {None}
    assert refused == []


@pytest.mark.parametrize(
    "names",
    [
        ("otel", "arize_phoenix"), ("arize_phoenix", "otel"), ("langtrace", "arize_phoenix"),
        ("arize_phoenix", "langtrace"), ("arize_phoenix", "signoz"), ("signoz", "arize_phoenix"),
    ],
)  # fmt: skip
def test_two_presets_with_one_account_send_each_span_there_once(names: tuple[str, ...]) -> None:
    url = COLLECTORS_VARIABLES["OTEL_EXPORTER_OTLP_ENDPOINT"]
    environment = {"PHOENIX_COLLECTOR_HTTP_ENDPOINT": url, "SIGNOZ_INGESTION_ENDPOINT": url, "SIGNOZ_INGESTION_KEY": ""}
    with gateway(*names, environment=environment) as proxy:
        proxy.start(*names)
        proxy.request()
        assert len(proxy.at(COLLECTOR)) == 4
        assert set(tree(proxy.at(COLLECTOR)).values()) == {1}
        assert proxy.said == []


def test_two_accounts_at_one_host_are_two_backends() -> None:
    environment = {
        "PHOENIX_COLLECTOR_HTTP_ENDPOINT": COLLECTORS_VARIABLES["OTEL_EXPORTER_OTLP_ENDPOINT"],
        "PHOENIX_API_KEY": "of another account",
    }
    with gateway("otel", "arize_phoenix", environment=environment) as proxy:
        proxy.start("otel", "arize_phoenix")
        proxy.request()
        assert set(tree(proxy.at(COLLECTOR)).values()) == {2}


@pytest.mark.contract
@pytest.mark.parametrize(
    "names", [("otel", "weave_otel"), ("weave_otel", "otel"), ("weave_otel", "arize"), ("arize", "newrelic")]
)
def test_what_is_measured_is_measured_once_and_for_the_operators_collector(names: tuple[str, ...]) -> None:
    asked: list[tuple[str | None, str | None]] = []

    def measure(config: Any, _: Any = None) -> MeterProvider:
        asked.append((config.endpoint, config.headers))
        return MeterProvider(shutdown_on_exit=False)

    def listen(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(upstream.module(seams.LOGGER_MODULE), "resolve_meter_provider", measure)

    environment = {"LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true"}
    with gateway(*names, environment=environment, arrange=listen) as proxy:
        proxy.start(*names)
        assert asked == [(COLLECTORS_VARIABLES["OTEL_EXPORTER_OTLP_ENDPOINT"], None)]


@pytest.mark.parametrize("names", [("otel", "arize_phoenix"), ("langtrace", "arize_phoenix")])
def test_of_two_processors_for_one_account_none_is_left_idle_and_open(names: tuple[str, ...]) -> None:
    closed: list[Memory] = []

    def watch(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Memory, "shutdown", lambda memory: closed.append(memory))  # noqa: PLW0108 - a method

    environment = {"PHOENIX_COLLECTOR_HTTP_ENDPOINT": COLLECTORS_VARIABLES["OTEL_EXPORTER_OTLP_ENDPOINT"]}
    with gateway(*names, environment=environment, arrange=watch) as proxy:
        proxy.start(*names)
        proxy.request()
        idle = [memory for memory in proxy.exporters if not memory.get_finished_spans()]
        assert [memory for memory in idle if memory not in closed] == []
