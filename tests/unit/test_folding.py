"""Several of LiteLLM's tracing callbacks at once: each backend gets every span once, worded as if it were alone."""

from __future__ import annotations

import gc
import itertools
import threading
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import StatusCode

from litellm_otel_plugin import seams, upstream
from litellm_otel_plugin.backends.accounts import innermost
from litellm_otel_plugin.backends.operators import Operators
from litellm_otel_plugin.backends.resources import own_resource
from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's imports warn of its own affairs

CONTENT = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only"}
NEW_RELICS_CONTENT = "NEW_RELIC_AI_MONITORING_RECORD_CONTENT_ENABLED"
FAMILIES = ("openinference.", "llm.", "langfuse.", "weave.", "langtrace.")
LARGE = Call(messages=40, tools=30)
PAIRS = list(itertools.permutations(VARIABLES, 2))


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


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_backends_each_gets_one_tree_worded_as_if_it_were_alone(first: str, second: str) -> None:
    backends = own_backends((first, second))
    expected = references(backends.values())
    with gateway(first, second) as proxy:
        proxy.start(first, second)
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
        assert proxy.folding.names() == []
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
        assert proxy.folding.names() == [name, name]
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
def delivery() -> Iterator[Delivery]:
    made = Delivery()
    yield made
    made.close(0)


def test_a_destination_of_the_delivery_has_the_presets_resource_as_its_own(delivery: Delivery) -> None:
    refused: list[tuple[str, str]] = []
    operators = Operators(delivery, proxy=None, refused=lambda name, why: refused.append((name, why)))

    def deliver(_: pytest.MonkeyPatch) -> None:
        upstream.wrap_exporters(operators.processor, operators.processor_of_exporter)

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
            assert backend._change is None  # or it would be made twice, with a copy of each span
        own = own_resources()
        expected: dict[str | None, dict[str, str]] = {name: own.get(name, {}) for name in names if name != "otel"}
        assert changed == {**expected, None: {}}
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
