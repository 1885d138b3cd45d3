"""Several backends at once: each gets every span of every request once, in one whole tree, in its own words."""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from litellm_otel_plugin.request.attempts import ATTEMPT
from tests.support import folded, instrumented
from tests.support.backends import GrpcReceiver
from tests.support.config import PLUGIN, config, provider_environment
from tests.support.folded import (
    PRESETS,
    CollectorOfAllSignals,
    client_span,
    same_tree_at,
    server_span,
    tree_at,
    words_of,
)
from tests.support.gateway import running
from tests.support.late_loggers import CALLBACK as LATE_LOGGERS
from tests.support.late_loggers import COMMAND
from tests.support.provider import MockProvider, Reply
from tests.support.proxy import Proxy, trace_id_of
from tests.support.receiver import OtlpReceiver
from tests.support.tenants import AUTHENTICATE, key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import httpx

    from tests.support.gateway import Gateway
    from tests.support.receiver import ReceivedSpan

CONTROLS = {"trace_name": "the-name", "trace_user_id": "the-user", "session_id": "the-session", "tags": ["one", "two"]}
_CALLED = ("/chat/completions", "/messages")
CHAT = "/v1/chat/completions"


@dataclass
class House:
    """A proxy that feeds a collector and several presets' backends."""

    gateway: Gateway
    receivers: dict[str, OtlpReceiver]

    @property
    def collector(self) -> OtlpReceiver:
        return self.gateway.collector

    def __getitem__(self, name: str) -> OtlpReceiver:
        return self.receivers[name]


@contextmanager
def feeding(
    presets: Sequence[str],
    callbacks: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    ours: Sequence[str] = (PLUGIN,),
    **more: Any,
) -> Iterator[House]:
    """A proxy with these callbacks and a receiver for each of these presets beside the collector."""
    with ExitStack() as stack:
        receivers = {name: stack.enter_context(OtlpReceiver()) for name in presets}
        environ = dict(environment or {})
        for name, receiver in receivers.items():
            environ |= PRESETS[name].environment(receiver)
        gateway = stack.enter_context(running(*ours, *callbacks, environment=environ, **more))
        yield House(gateway, {"otel": gateway.collector, **receivers})


# --- every combination -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Combination:
    callbacks: tuple[str, ...]
    presets: tuple[str, ...]


COMBINATIONS = [
    pytest.param(
        Combination(("otel", "arize_phoenix", "langfuse_otel"), ("arize_phoenix", "langfuse_otel")),
        id="otel-phoenix-langfuse",
        marks=pytest.mark.whole_request,
    ),
    pytest.param(
        Combination(("langfuse_otel", "arize_phoenix", "otel"), ("langfuse_otel", "arize_phoenix")),
        id="langfuse-phoenix-otel",
        marks=pytest.mark.slow,
    ),
    pytest.param(Combination(("arize", "otel"), ("arize",)), id="arize-otel", marks=pytest.mark.slow),
    pytest.param(
        Combination(("weave_otel", "langfuse_otel"), ("weave_otel", "langfuse_otel")),
        id="weave-langfuse",
        marks=pytest.mark.slow,
    ),
    # LiteLLM starts an earlier Phoenix logger by itself here.
    pytest.param(Combination(("otel",), ("arize_phoenix",)), id="otel-with-phoenix-around", marks=pytest.mark.slow),
]


def _chat(gateway: Gateway) -> httpx.Response:
    return gateway.proxy.chat("hi")


def _streamed(gateway: Gateway) -> httpx.Response:
    return gateway.proxy.chat("hi", stream=True)


def _messages(gateway: Gateway) -> httpx.Response:
    body = {"model": "claude", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
    return gateway.proxy.client.post("/v1/messages", json=body)


def _failing(gateway: Gateway) -> httpx.Response:
    gateway.provider.replies.append(Reply(status=500))
    return gateway.proxy.chat("hi")


def _rejected(gateway: Gateway) -> httpx.Response:
    body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
    return gateway.proxy.client.post(CHAT, json=body, headers={"authorization": "Bearer sk-nobodys"})


REQUESTS: dict[str, tuple[Callable[[Gateway], httpx.Response], frozenset[int], int]] = {
    "chat": (_chat, frozenset({200}), 1),
    "streamed": (_streamed, frozenset({200}), 1),
    "messages": (_messages, frozenset({200}), 1),
    "failing": (_failing, frozenset({500}), 1),
    "rejected": (_rejected, frozenset({400, 401}), 0),
}


@pytest.fixture(scope="class", params=COMBINATIONS)
def combination(request: pytest.FixtureRequest) -> Combination:
    chosen: Combination = request.param
    return chosen


@pytest.fixture(scope="class")
def house(combination: Combination) -> Iterator[House]:
    with feeding(combination.presets, combination.callbacks, folded.CONTENT) as house:
        yield house


class TestEveryCombination:
    @pytest.mark.parametrize("kind", REQUESTS)
    def test_each_backend_has_the_same_whole_tree_in_its_own_words(self, house: House, kind: str) -> None:
        send, statuses, calls = REQUESTS[kind]
        response = send(house.gateway)
        assert response.status_code in statuses
        trees = same_tree_at(house.receivers, response, calls=calls)
        for name, spans in trees.items():
            own = PRESETS[name].own if name in PRESETS else ()
            foreign = {prefix for prefix in folded.VENDORS if prefix not in own}
            assert words_of(spans, foreign) == set(), f"{name} was shown another's words"
            if "openinference." not in own:
                plain = words_of(spans, folded.PLAIN_LLM)
                assert words_of(spans, ("llm.",)) == plain
            if calls:
                missing = [word for word in own if word.endswith(".") and not words_of([client_span(spans)], [word])]
                assert not [word for word in missing if word in {"openinference.", "langfuse.", "weave."}]
        if calls:
            plain_call = client_span(trees["otel"])
            for name, spans in trees.items():
                seen = client_span(spans).attributes
                assert {key: seen.get(key) for key in plain_call.attributes} == plain_call.attributes, name

    def test_each_backend_has_its_own_resource(self, house: House, combination: Combination) -> None:
        trees = same_tree_at(house.receivers, _chat(house.gateway))
        common = trees["otel"][0].resource
        assert {key for preset in PRESETS.values() for key in preset.resource} & set(common) == set()
        for name, spans in trees.items():
            own = set(PRESETS[name].resource) if name in PRESETS else set()
            for span in spans:
                assert set(span.resource) == {*common, *own}
                assert {key: span.resource[key] for key in common} == common

    def test_everything_came_once_and_to_all(self, house: House) -> None:
        """Over all that these tests have sent so far, the start's own spans included."""
        same_tree_at(house.receivers, _chat(house.gateway))
        folded.quiet(house.receivers.values())
        sent = [request for request in house.gateway.provider.requests if request.path.endswith(_CALLED)]
        everything = folded.skeletons(house.collector.spans)
        for name, receiver in house.receivers.items():
            folded.assert_no_span_twice(receiver)
            assert folded.skeletons(receiver.spans) == everything, name
            assert not {span.name for span in receiver.spans} & folded.EARLIER_NAMES
            assert len([span for span in receiver.spans if span.kind == "CLIENT"]) == len(sent)

    def test_it_is_said_where_traces_go_and_no_credential_with_it(self, house: House, combination: Combination) -> None:
        log = house.gateway.proxy.log
        lines = [line for line in log.splitlines() if "litellm-otel-plugin: traces go to" in line]
        assert len(lines) == len(house.receivers)
        for name, receiver in house.receivers.items():
            kind = "otlp_http" if name == "otel" else f"{name} otlp_http"
            assert [line for line in lines if f"traces go to {kind} at {receiver.url}/" in line]
        assert "litellm-otel-plugin: off:" not in log
        assert not [word for word in ("sk-lf-operator", "operators-arize", "wandb-operator") if word in log]

    @pytest.mark.parametrize("stream", [False, True])
    def test_langfuse_alone_is_shown_what_it_reads_off_the_root(self, house: House, stream: bool) -> None:
        response = house.gateway.proxy.chat("the-prompt", stream=stream, metadata=CONTROLS)
        trees = same_tree_at(house.receivers, response)
        at_langfuse = trees.pop("langfuse_otel", None)
        for spans in trees.values():
            assert words_of(spans, ["langfuse."]) == set()
            assert "the-prompt" not in repr(server_span(spans))
        if at_langfuse is None:
            return  # a combination without it: then nobody is shown anything of this
        root = server_span(at_langfuse).attributes
        assert root["langfuse.trace.name"] == "the-name"
        assert root["langfuse.trace.tags"] == ["one", "two"]
        assert (root["user.id"], root["session.id"]) == ("the-user", "the-session")
        assert json.loads(root["langfuse.observation.input"]) == [{"role": "user", "content": "the-prompt"}]
        (answer,) = json.loads(root["langfuse.observation.output"])
        assert (answer["role"], answer["content"]) == ("assistant", "The answer is 42.")
        own = {"user.id", "session.id", *words_of([server_span(at_langfuse)], ["langfuse."])}
        for name, spans in trees.items():
            kind = (
                {"openinference.span.kind": "CHAIN"}
                if name in PRESETS and "openinference." in PRESETS[name].own
                else {}
            )
            expected = {key: value for key, value in root.items() if key not in own}
            assert server_span(spans).attributes == {**expected, **kind}, name


# --- presets that cannot be built ------------------------------------------------------------------------------------

SECRET = "hunter2-do-not-print-me"


@dataclass(frozen=True)
class Unusable:
    """Presets of which nothing can be made as they are configured, and one beside them that is whole."""

    names: tuple[str, ...]
    environment: dict[str, str]
    beside: str


UNUSABLE = [
    pytest.param(
        Unusable(
            ("arize_phoenix", "langfuse_otel", "langtrace"),
            {
                "PHOENIX_COLLECTOR_HTTP_ENDPOINT": "ht!tp:\\x",
                "PHOENIX_API_KEY": SECRET,
                "LANGFUSE_SECRET_KEY": SECRET,  # without the public one
            },
            "weave_otel",
        ),
        id="some-of-each",
    ),
    pytest.param(
        Unusable(("signoz", "levo", "weave_otel", "langtrace"), {}, "langfuse_otel"),
        id="without-variables",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        Unusable(
            ("langfuse_otel", "arize", "signoz", "levo"),
            {
                "LANGFUSE_PUBLIC_KEY": "pk",
                "LANGFUSE_SECRET_KEY": SECRET,
                "LANGFUSE_OTEL_HOST": "ht!tp:\\x",
                "ARIZE_SPACE_ID": "space",
                "ARIZE_API_KEY": SECRET,
                "ARIZE_HTTP_ENDPOINT": SECRET,
                "SIGNOZ_INGESTION_ENDPOINT": "http://",
                "LEVOAI_API_KEY": SECRET,
                "LEVOAI_ORG_ID": "organisation",
                "LEVOAI_WORKSPACE_ID": "workspace",
                "LEVOAI_COLLECTOR_URL": f"ftp://{SECRET}/",
            },
            "arize_phoenix",
        ),
        id="malformed-endpoints",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_presets_that_cannot_be_built_are_named_once_and_the_others_get_whole_trees(unusable: Unusable) -> None:
    callbacks = ("otel", *unusable.names, unusable.beside)
    with feeding([unusable.beside], callbacks, unusable.environment) as house:
        for _ in range(3):
            same_tree_at(house.receivers, _chat(house.gateway))
        same_tree_at(house.receivers, _failing(house.gateway))
        said = [line for line in house.gateway.proxy.log.splitlines() if line.startswith("litellm-otel-plugin:")]
        for name in unusable.names:
            assert len([line for line in said if re.search(rf"\b{name}\b.* cannot be (used|built)", line)]) == 1, said
        assert not [line for line in said if SECRET in line]


# --- callbacks for one outcome ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_callbacks_that_are_listed_twice_or_for_one_outcome_get_each_tree_once() -> None:
    lists = {"success_callback": ["arize"], "failure_callback": ["langfuse_otel"]}
    presets = ("arize", "langfuse_otel", "arize_phoenix")
    callbacks = ("otel", "arize_phoenix", "otel", "arize_phoenix")
    with feeding(presets, callbacks, litellm_settings=lists) as house:
        for send in (_chat, _streamed, _failing, _chat):
            same_tree_at(house.receivers, send(house.gateway))
        folded.quiet(house.receivers.values())
        for receiver in house.receivers.values():
            folded.assert_no_span_twice(receiver)


# --- what Langfuse gets where it is to have model calls alone --------------------------------------------------------


@pytest.mark.slow
def test_langfuse_gets_model_calls_alone_where_it_is_to() -> None:
    presets = ("arize_phoenix", "langfuse_otel")
    environment = {"LITELLM_OTEL_LANGFUSE_SPAN_SCOPE": "llm_only"}
    with feeding(presets, ("otel", *presets), environment) as house:
        others = {name: receiver for name, receiver in house.receivers.items() if name != "langfuse_otel"}
        responses = [_chat(house.gateway), _streamed(house.gateway), _failing(house.gateway)]
        rejected = _rejected(house.gateway)
        trees = [same_tree_at(others, response) for response in responses]
        same_tree_at(others, rejected, calls=0)
        house["langfuse_otel"].wait_until(lambda spans: len(spans) >= len(responses))
        folded.quiet(house.receivers.values())
        calls = {span.trace_id: span for span in house["langfuse_otel"].spans}
        assert len(house["langfuse_otel"].spans) == len(calls) == len(responses)
        for response, tree in zip(responses, trees, strict=True):
            alone, call = calls[trace_id_of(response)], client_span(tree["otel"])
            assert (alone.parent_id, alone.span_id, alone.kind) == ("", call.span_id, "CLIENT")
            assert (alone.start_ns, alone.end_ns, alone.status) == (call.start_ns, call.end_ns, call.status)
            assert alone.attributes["langfuse.observation.type"] == "generation"


# --- as if each were alone -------------------------------------------------------------------------------------------

# No two calls share these.
_VOLATILE = re.compile(r"call_id$|\.id$|response_time|time_to_first|litellm\.cost\.|duration|^server\.port$")


def _stable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if not _VOLATILE.search(name)}


def _large(proxy: Proxy) -> httpx.Response:
    messages = [{"role": ("user", "assistant")[n % 2], "content": f"message {n}"} for n in range(40)]
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}}
    tools = [
        {"type": "function", "function": {"name": f"tool_{n}", "description": f"does {n}", "parameters": parameters}}
        for n in range(30)
    ]
    body = {"model": "mock", "messages": messages, "tools": tools}
    return proxy.client.post(CHAT, json=body)


def _alone(preset: str) -> dict[str, Any]:
    """What LiteLLM's own logger of this backend puts on the call where there is no other backend."""
    with MockProvider() as provider, OtlpReceiver() as receiver:
        environment = {**provider_environment(provider.url), **folded.CONTENT, "LITELLM_OTEL_PLUGIN_FOLD": "false"}
        if preset == "otel":
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        else:
            environment |= PRESETS[preset].environment(receiver)
        with Proxy(config(provider.url, PLUGIN, preset), environment) as proxy:
            return _stable(client_span(tree_at(receiver, _large(proxy))).attributes)


@pytest.mark.slow
def test_each_backend_is_told_of_a_large_call_what_it_is_told_alone() -> None:
    presets = ("arize_phoenix", "langfuse_otel")
    with feeding(presets, ("otel", *presets), folded.CONTENT) as house:
        trees = same_tree_at(house.receivers, _large(house.gateway.proxy))
        together = {name: _stable(client_span(spans).attributes) for name, spans in trees.items()}
    # Ours comes on top: it takes no place from what LiteLLM fits into the span's limit.
    assert [attributes.pop(ATTEMPT) for attributes in together.values()] == [1, 1, 1]
    for name, attributes in together.items():
        assert attributes == _alone(name), name


# --- metrics and events ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_call_is_one_measurement_and_each_failure_one_event() -> None:
    presets = ("weave_otel", "arize_phoenix", "langfuse_otel")  # Weave's preset writes over the endpoint's variable
    with CollectorOfAllSignals() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true",
            "LITELLM_OTEL_INTEGRATION_ENABLE_EVENTS": "true",
        }
        with feeding(presets, (*presets, "otel"), environment) as house:
            receivers = {**house.receivers, "otel": collector}
            answered = [_chat(house.gateway) for _ in range(4)] + [_streamed(house.gateway)]
            failed = [_failing(house.gateway) for _ in range(2)]
            for response in (*answered, *failed):
                same_tree_at(receivers, response)
            house.gateway.proxy.stop()  # what is left of metrics and events goes out on the way
            assert sum(folded.points(collector, "gen_ai.client.operation.duration").values()) == len(answered + failed)
            tokens = folded.points(collector, "gen_ai.client.token.usage")
            by_type = {
                kind: sum(n for key, n in tokens.items() if ("gen_ai.token.type", kind) in key)
                for kind in ("input", "output")
            }
            assert by_type == dict.fromkeys(by_type, len(answered))
            events = [record for record in collector.records if "exception.type" in record[2]]
            assert sorted(trace_id for _, trace_id, _ in events) == sorted(map(trace_id_of, failed))
            assert [house[name].metrics for name in presets] == [[]] * len(presets)


# --- the operator's own provider -------------------------------------------------------------------------------------


def _assert_whole_beside_the_operators(house: House, receivers: Mapping[str, OtlpReceiver]) -> None:
    for response in (_chat(house.gateway), _streamed(house.gateway), _failing(house.gateway)):
        trees = same_tree_at(receivers, response)
        assert words_of(trees["theirs"], folded.VENDORS) == set()
        assert {span.resource["service.name"] for span in trees["theirs"]} == {"the-operators-own"}
        assert words_of(trees["langfuse_otel"], folded.LANGFUSE)
        assert words_of(trees["arize_phoenix"], ["openinference."])
    folded.quiet(receivers.values())
    for receiver in receivers.values():
        folded.assert_no_span_twice(receiver)


@pytest.mark.slow
@pytest.mark.parametrize("same_account", [False, True])
def test_the_operators_own_exporter_gets_whole_trees_too(same_account: bool) -> None:
    presets = ("arize_phoenix", "langfuse_otel")
    with OtlpReceiver() as theirs:
        environment = {"TEST_OPERATORS_COLLECTOR": theirs.url, **folded.CONTENT}
        if same_account:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = theirs.url
        program = [sys.executable, "-m", "tests.support.operator_sdk"]
        with feeding(presets, ("otel", *presets), environment, program=program) as house:
            receivers = {"theirs": theirs, **{name: house[name] for name in presets}}
            if not same_account:
                receivers["otel"] = house.collector
            _assert_whole_beside_the_operators(house, receivers)
            assert (house.collector.spans == []) is same_account


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_the_operators_own_exporter_speaks_as_the_preset_of_its_account(late: bool) -> None:
    """As an operator has it whose own provider exports to the same Phoenix as the callback."""
    program = [sys.executable, "-m", "tests.support.operator_sdk"]
    with OtlpReceiver() as theirs:
        environment = {
            **folded.phoenix(theirs),
            **folded.CONTENT,
            "PHOENIX_PROJECT_NAME": "a project",
            "TEST_OPERATORS_COLLECTOR": theirs.url,
        }
        callbacks = (LATE_LOGGERS,) if late else ("otel", "arize_phoenix")
        with running(PLUGIN, *callbacks, environment=environment, program=program) as gateway:
            if late:
                assert words_of(tree_at(theirs, _chat(gateway)), ["openinference."]) == set()
                gateway.proxy.chat(f"{COMMAND}add arize_phoenix")
            receivers = {"theirs": theirs, "otel": gateway.collector}
            for response in (_chat(gateway), _streamed(gateway), _failing(gateway)):
                trees = same_tree_at(receivers, response)
                spans = trees["theirs"]
                assert all("openinference.span.kind" in span.attributes for span in spans)
                assert {"input.value", "llm.input_messages.0.message.content"} <= set(client_span(spans).attributes)
                resources = {(span.resource["service.name"], _project(span)) for span in spans}
                assert resources == {("the-operators-own", "a project")}
                assert words_of(trees["otel"], folded.VENDORS) == set()
                assert {_project(span) for span in trees["otel"]} == {None}
            gateway.proxy.stop()
            assert "arize_phoenix: the provider that was already set writes to its account: what" in gateway.proxy.log
        folded.assert_no_span_twice(theirs)


def _project(span: ReceivedSpan) -> Any:
    return span.resource.get("openinference.project.name")


@pytest.mark.slow
def test_nor_is_anything_sent_twice_over_grpc() -> None:
    with GrpcReceiver() as theirs:
        environment = {
            "TEST_OPERATORS_COLLECTOR": theirs.url,
            "TEST_OPERATORS_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": theirs.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        program = [sys.executable, "-m", "tests.support.operator_sdk"]
        with running(PLUGIN, "otel", environment=environment, program=program) as gateway:
            trace_id = trace_id_of(_chat(gateway))
            gateway.proxy.stop()  # whatever is to come has come
        folded.assert_one_tree([span for span in theirs.spans if span.trace_id == trace_id], calls=1)
        ids = [(span.trace_id, span.span_id) for span in theirs.spans]
        assert len(ids) == len(set(ids))


@pytest.mark.slow
@pytest.mark.parametrize("same_account", [False, True])
def test_under_opentelemetry_instrument_its_exporter_gets_whole_trees_too(same_account: bool, tmp_path: Path) -> None:
    presets = ("arize_phoenix", "langfuse_otel")
    with OtlpReceiver() as litellms:
        environment = {**instrumented.installed_in(tmp_path), **folded.CONTENT}
        if not same_account:
            environment["OTEL_ENDPOINT"] = litellms.url  # LiteLLM alone reads this name
        with feeding(presets, ("otel", *presets), environment, program=instrumented.PROGRAM) as house:
            receivers = {"theirs": house.collector, **{name: house[name] for name in presets}}
            if not same_account:
                receivers["otel"] = litellms
            _assert_whole_beside_the_operators(house, receivers)
            assert (litellms.spans == []) is same_account


# --- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_folding_it_is_as_litellm_has_it() -> None:
    presets = ("arize_phoenix", "langfuse_otel")
    with feeding(presets, ("otel", *presets), {"LITELLM_OTEL_PLUGIN_FOLD": "false"}) as house:
        trace_id = trace_id_of(_chat(house.gateway))
        tree_at(house.collector, trace_id)
        calls = []
        for receiver in house.receivers.values():
            receiver.wait_until(lambda spans: any(span.kind == "CLIENT" for span in spans))
            calls.append(client_span(receiver.spans).span_id)
        folded.quiet(house.receivers.values())
        assert len(set(calls)) == len(house.receivers)
        assert [span.kind for span in house["langfuse_otel"].spans] == ["CLIENT"]
        assert {span.name for span in house["arize_phoenix"].spans} & folded.EARLIER_NAMES


# Where in the code it was, which process and which call.
_INCIDENTAL = {"exception.stacktrace", "error.stack_trace", "service.instance.id", "litellm.trace_id"}


def _shown(attributes: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in sorted(_stable(attributes).items()) if name not in _INCIDENTAL}
    if "metadata" in shown:  # of a call: an earlier logger's, with what it has cost so far
        shown["metadata"] = sorted(json.loads(shown["metadata"]))
    return shown


def _told(receiver: OtlpReceiver) -> list[tuple[Any, ...]]:
    """All that a backend reads on the spans of LiteLLM's own making, whatever trees they are in."""
    told = [
        (
            span.name, span.kind, span.status, span.status_message, span.scope, _shown(span.attributes),
            _shown(span.resource), [(event.name, _shown(event.attributes)) for event in span.events],
        )
        for span in receiver.spans
        if span.name != f"POST {CHAT}"  # our SERVER span has more on it
    ]  # fmt: skip
    return sorted(told, key=repr)


@pytest.mark.slow
def test_without_folding_each_backend_is_told_what_litellm_tells_it_without_us() -> None:
    presets = ("arize_phoenix", "langfuse_otel")
    told = []
    for ours, variables in (((PLUGIN,), {"LITELLM_OTEL_PLUGIN_FOLD": "false"}), ((), {"LITELLM_OTEL_V2": "true"})):
        with feeding(presets, ("otel", *presets), {**folded.CONTENT, **variables}, ours=ours) as house:
            for send in (_chat, _streamed, _failing):
                send(house.gateway)
            for receiver in house.receivers.values():
                receiver.wait_until(lambda spans: [span.kind for span in spans].count("CLIENT") == 3)
            folded.quiet(house.receivers.values())
            house.gateway.proxy.stop()  # what is left goes out on the way
            told.append({name: _told(receiver) for name, receiver in house.receivers.items()})
    assert told[0] == told[1]


@pytest.mark.slow
def test_with_the_sdks_delivery_trees_are_as_whole() -> None:
    presets = ("arize_phoenix", "langfuse_otel", "arize")
    environment = {**folded.CONTENT, "LITELLM_OTEL_PLUGIN_DELIVERY": "sdk", "PHOENIX_PROJECT_NAME": "a project"}
    with feeding(presets, ("otel", *presets), environment) as house:
        for send in (_chat, _streamed, _messages, _failing):
            trees = same_tree_at(house.receivers, send(house.gateway))
            for name, spans in trees.items():
                own = PRESETS[name].own if name in PRESETS else ()
                assert words_of(spans, folded.VENDORS - set(own)) == set()
                resource = PRESETS[name].resource if name in PRESETS else ()
                everyones = {each for preset in PRESETS.values() for each in preset.resource}
                for span in spans:
                    assert everyones & set(span.resource) == set(resource)
            assert {span.resource["openinference.project.name"] for span in trees["arize_phoenix"]} == {"a project"}
        folded.quiet(house.receivers.values())
        for receiver in house.receivers.values():
            folded.assert_no_span_twice(receiver)
            assert "OTel-OTLP-Exporter-Python" in receiver.requests[0][1]["user-agent"]


# --- a project of a key's own ----------------------------------------------------------------------------------------


OF_TEAM, OF_PROCESS = "litellm.team.metadata", "deployment.environment"


@pytest.mark.slow
def test_a_keys_phoenix_project_gets_its_model_call_and_the_collector_the_whole_tree() -> None:
    for_collector = {"baggage_team_metadata_keys": ["cost_center"], "deployment_environment": "prod"}
    with feeding(
        ["arize_phoenix"],
        ("otel", "arize_phoenix"),
        folded.CONTENT,
        general_settings={"custom_auth": AUTHENTICATE},
        callback_settings={"otel": for_collector},
    ) as house:

        def chat(bearer: str) -> str:
            body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {bearer}"}
            return trace_id_of(house.gateway.proxy.client.post(CHAT, json=body, headers=headers))

        plain = chat(key("nobody in particular"))
        same_tree_at(house.receivers, plain)
        project = "a project, with 100%"
        of_key = {"metadata": {"phoenix_project_name": project}, "team_metadata": {"cost_center": "a cost center"}}
        trace_id = chat(key("project", team_id="team", **of_key))
        root = server_span(tree_at(house.collector, trace_id))
        phoenix = house["arize_phoenix"]

        def to_the_project() -> list[Any]:
            exports = [spans for headers, spans in phoenix.exports if headers.get("x-project-name") == project]
            return [span for spans in exports for span in spans]

        phoenix.wait_until(lambda _: bool(to_the_project()))
        folded.quiet(house.receivers.values())
        (call,) = to_the_project()
        assert (call.kind, call.parent_id, call.links) == ("CLIENT", "", (root.span_id,))
        assert call.trace_id != trace_id
        assert call.attributes["openinference.span.kind"] == "LLM"
        rest = phoenix.trace(trace_id)
        assert [span.kind for span in rest if span.kind == "CLIENT"] == []
        assert {span.span_id for span in rest} == {
            span.span_id for span in house.collector.trace(trace_id) if span.kind != "CLIENT"
        }
        assert len([span for span in phoenix.spans if span.kind == "CLIENT"]) == 2
        assert json.loads(root.attributes[OF_TEAM]) == {"cost_center": "a cost center"}
        assert {span.resource[OF_PROCESS] for span in house.collector.spans} == {"prod"}
        assert {"litellm.team.id"} == folded.words_of(phoenix.trace(trace_id), ["litellm.team."])
        assert "litellm.team.id" in call.attributes
        assert OF_TEAM not in call.attributes
        assert {span.resource.get(OF_PROCESS) for span in phoenix.spans} == {None}
        folded.assert_no_span_twice(phoenix)
        folded.assert_no_span_twice(house.collector)
