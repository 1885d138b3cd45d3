"""Tenants' backends behind a real proxy: who gets which spans, with whose credentials, and whom that costs what."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support import patience
from tests.support.backends import GrpcReceiver, wait_for
from tests.support.config import PLUGIN, config, provider_environment
from tests.support.ports import free_port
from tests.support.provider import MockProvider, Reply
from tests.support.proxy import Proxy, trace_id_of
from tests.support.tenants import (
    AUTHENTICATE,
    Backend,
    Identity,
    Trap,
    arize,
    key,
    langfuse,
    langfuse_headers,
    make_identity,
    threads_of,
    weave,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.receiver import ReceivedSpan

pytestmark = pytest.mark.slow  # three proxies and hundreds of tenants take a minute

CHAT = "/v1/chat/completions"
WHOLE = (f"POST {CHAT}", f"auth {CHAT}", "chat mock", "route mock")
OPERATORS_LANGFUSE = langfuse_headers("pk-operator", "sk-operator")
OPERATORS_COLLECTOR = {"x-operator": "secret-of-all-signals", "authorization": "Bearer secret-of-traces"}
OPERATORS_SECRETS = ("sk-operator", "secret-of-", "secret-of-netrc", OPERATORS_LANGFUSE["authorization"])
AT_ONCE = 50
REFUSED = re.compile(r"a tenant's (\w+) backend cannot be used \(its spans are not sent there\): (.+)")

unique = itertools.count()


@dataclass
class House:
    """A proxy, and the backends of its operator and of everybody else."""

    proxy: Proxy
    provider: MockProvider
    collector: Backend
    langfuse: Backend
    tenants: Backend

    def chat(self, bearer: str, path: str = CHAT, **more: Any) -> httpx.Response:
        return self.proxy.client.post(path, json=_body(**more), headers={"authorization": f"Bearer {bearer}"})

    def chat_all(self, bearers: Sequence[str], bodies: Sequence[dict[str, Any]] | None = None) -> list[httpx.Response]:
        """One request for each, many at once, all answered."""
        responses = asyncio.run(_chat_all(self.proxy.url, bearers, bodies or [{}] * len(bearers)))
        assert {response.status_code for response in responses} == {200}
        return responses

    def settle(self) -> None:
        """Once this is back, the operator's backends have what they were sent before: each gets spans in order."""
        last = self.chat(key("nobody in particular"))
        whole(self.langfuse, last)
        whole(self.collector, last)


@contextmanager
def running(
    *callbacks: str,
    environment: dict[str, str],
    collectors: Backend | None = None,
    tenants_own: Backend | None = None,
    **more: Any,
) -> Iterator[House]:
    with (
        MockProvider() as provider,
        collectors or Backend() as collector,
        Backend() as langfuse_backend,
        tenants_own or Backend() as tenants,
    ):
        # The provider is told apart from the backends by its host, as the variables for proxies do.
        provider_url = provider.url.replace("127.0.0.1", "localhost")
        document = config(provider_url, PLUGIN, "langfuse_otel", *callbacks)
        document["model_list"] = [model for model in document["model_list"] if model["model_name"] == "mock"]
        document["general_settings"] = {"custom_auth": AUTHENTICATE, "allow_client_side_credentials": True}
        document["litellm_settings"] |= {"provider_url_destination_allowed_hosts": [tenants.host], **more}
        environ = {
            **provider_environment(provider_url),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "LANGFUSE_PUBLIC_KEY": "pk-operator",
            "LANGFUSE_SECRET_KEY": "sk-operator",
            "LANGFUSE_HOST": langfuse_backend.url,
            "ARIZE_HTTP_ENDPOINT": f"{tenants.url}/v1/traces",
            "WANDB_HOST": tenants.url,
            "LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS": "1",
            **environment,
        }
        with Proxy(document, environ) as proxy:
            yield House(proxy, provider, collector, langfuse_backend, tenants)


def _body(content: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "mock", "messages": [{"role": "user", "content": content}], **more}


async def _chat_all(url: str, bearers: Sequence[str], bodies: Sequence[dict[str, Any]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        return await asyncio.gather(
            *(
                client.post(CHAT, json=_body(**body), headers={"authorization": f"Bearer {bearer}"})
                for bearer, body in zip(bearers, bodies, strict=True)
            )
        )


def whole(backend: Backend, *responses: httpx.Response, seconds: float = patience.SECONDS) -> list[ReceivedSpan]:
    """Every span of these responses' traces, once all have arrived: each once."""
    traces = {trace_id_of(response) for response in responses}

    def of_them(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
        return [span for span in spans if span.trace_id in traces]

    spans = of_them(backend.wait_for(lambda spans: len(of_them(spans)) >= len(traces) * len(WHOLE), seconds))
    assert Counter((span.trace_id, span.name) for span in spans) == dict.fromkeys(itertools.product(traces, WHOLE), 1)
    return spans


def names(backend: Backend, response: httpx.Response) -> list[str]:
    """What a backend has of a response's trace by now."""
    return sorted(span.name for span in backend.trace(trace_id_of(response)))


def arrived(backend: Backend, response: httpx.Response) -> None:
    """Return once something of a response's trace has come."""
    trace_id = trace_id_of(response)
    backend.wait_for(lambda spans: any(span.trace_id == trace_id for span in spans))


def links_between(spans: Sequence[ReceivedSpan]) -> set[tuple[str, str, str]]:
    return {(span.name, span.span_id, span.parent_id) for span in spans}


def span_named(spans: Sequence[ReceivedSpan], name: str) -> ReceivedSpan:
    (span,) = [span for span in spans if span.name == name]
    return span


# --- a hostile environment -------------------------------------------------------------------------------------------


@dataclass
class Hostile:
    """A proxy around which everything is set that an export must not pick up."""

    house: House
    ambient: Trap
    forbidden: Trap
    encrypted: Backend
    closed_port: int
    threads: int


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identity(tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, identity: Identity) -> Iterator[Hostile]:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login operator password secret-of-netrc\n")
    closed_port = free_port()
    with Trap() as ambient, Trap() as forbidden, Backend(tls=identity.server()) as encrypted:
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        environment = {
            **dict.fromkeys(proxies, f"http://127.0.0.1:{ambient.port}"),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost"),
            "NETRC": str(netrc),
            "SSL_CERT_FILE": str(identity.certificate),
            "OTEL_EXPORTER_OTLP_HEADERS": "x-operator=secret-of-all-signals",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Bearer%20secret-of-traces",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(identity.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(identity.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(identity.private_key),
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
        }
        tenants = Backend(elsewhere=f"http://127.0.0.1:{forbidden.port}/", seconds_when_slow=1.0)
        allowed = [tenants.host, encrypted.host, f"127.0.0.1:{closed_port}"]
        with running(
            environment=environment,
            collectors=Backend(tls=identity.server()),
            tenants_own=tenants,
            provider_url_destination_allowed_hosts=allowed,
        ) as house:
            house.chat_all([key("nobody in particular")] * AT_ONCE * 2)
            house.settle()
            yield Hostile(house, ambient, forbidden, encrypted, closed_port, threads_of(house.proxy.process.pid))


def test_a_tenants_account_gets_the_whole_tree_in_place_of_the_operators(hostile: Hostile) -> None:
    house = hostile.house
    tenant = langfuse("override", house.tenants.url)
    response = house.chat(tenant.key())
    received = whole(house.tenants, response)
    # Without a database there is no span before the key is known: all there is follows it, or encloses it.
    assert links_between(received) == links_between(whole(house.collector, response))
    root = span_named(received, f"POST {CHAT}")
    assert (root.kind, root.parent_id) == ("SERVER", "")
    assert {span.parent_id for span in received} == {"", root.span_id}
    assert {export.path for export in house.tenants.exports_with(tenant.headers)} == {"/api/public/otel/v1/traces"}
    house.settle()
    assert names(house.langfuse, response) == []


def test_a_backend_that_no_tenant_overrides_keeps_its_copy(hostile: Hostile) -> None:
    house = hostile.house
    tenant = weave("beside")
    response = house.chat(tenant.key())
    for backend in (house.tenants, house.langfuse, house.collector):
        whole(backend, response)
    assert {export.path for export in house.tenants.exports_with(tenant.headers)} == {"/otel/v1/traces"}


def test_each_export_carries_its_own_tenants_credential_and_nothing_ambient(hostile: Hostile) -> None:
    house = hostile.house
    tenants = [
        *(langfuse(f"many-{n}", house.tenants.url) for n in range(140)),
        *(arize(f"many-{n}") for n in range(140, 170)),
        *(weave(f"many-{n}") for n in range(170, 200)),
    ]
    interleaved = tenants * 2
    responses = house.chat_all([tenant.key() for tenant in interleaved])
    whole(house.tenants, *responses)
    whole(house.collector, *responses)
    house.settle()
    owners = dict(zip(map(trace_id_of, responses), interleaved, strict=True))
    assert len(owners) == 400
    seen: Counter[str] = Counter()
    for export in house.tenants.exports:
        of_export = {
            owners[span.trace_id].name: owners[span.trace_id] for span in export.spans if span.trace_id in owners
        }
        if not of_export:
            continue  # another test's
        (tenant,) = of_export.values()
        assert export.own_headers == tenant.headers
        assert {span.trace_id for span in export.spans} <= owners.keys()
        seen[tenant.name] += len(export.spans)
    assert seen == {tenant.name: 2 * len(WHOLE) for tenant in tenants}
    for response, tenant in zip(responses, interleaved, strict=True):
        assert names(house.langfuse, response) == ([] if tenant.callback == "langfuse_otel" else list(WHOLE))


def test_no_secret_of_the_operator_reaches_a_tenant_and_none_of_a_tenants_the_operator(hostile: Hostile) -> None:
    house = hostile.house
    tenants = (langfuse("secretive", house.tenants.url), arize("secretive"), weave("secretive"))
    responses = house.chat_all([tenant.key() for tenant in tenants])
    whole(house.tenants, *responses)
    house.settle()
    assert not [export for export in house.tenants.exports for secret in OPERATORS_SECRETS if export.says(secret)]
    operators = [*house.collector.exports, *house.langfuse.exports]
    credentials = {
        value
        for tenant in tenants
        for value in (*tenant.headers.values(), *tenant.variables.values())
        if len(value) > 1
    } - {house.tenants.url, "http/protobuf"}
    assert not [export for export in operators for credential in credentials if export.says(credential)]
    assert house.collector.exports_with(OPERATORS_COLLECTOR) == house.collector.exports
    assert house.langfuse.exports_with(OPERATORS_LANGFUSE) == house.langfuse.exports


def test_the_operators_client_certificate_is_shown_to_its_collector_alone(hostile: Hostile) -> None:
    house = hostile.house
    tenant = langfuse("encrypted", hostile.encrypted.url)
    response = house.chat(tenant.key())
    whole(hostile.encrypted, response)
    whole(house.collector, response)
    assert {export.showed_certificate for export in house.collector.exports} == {True}
    assert {export.showed_certificate for export in hostile.encrypted.exports} == {False}
    assert hostile.encrypted.exports == hostile.encrypted.exports_with(tenant.headers)


def test_no_export_goes_through_an_ambient_proxy(hostile: Hostile) -> None:
    response = hostile.house.chat(langfuse("direct", hostile.house.tenants.url).key())
    whole(hostile.house.tenants, response)
    hostile.house.settle()
    assert hostile.ambient.heard == []


def test_tenants_that_hang_refuse_or_are_slow_cost_the_others_nothing(hostile: Hostile) -> None:
    house = hostile.house
    hung = [langfuse(f"hung-{n}", f"{house.tenants.url}/hung") for n in range(5)]
    refusing = langfuse("refusing", f"http://127.0.0.1:{hostile.closed_port}")
    slow = langfuse("slow", f"{house.tenants.url}/slow")
    bad = [tenant.key() for tenant in (*hung, refusing, slow)]
    healthy = [langfuse(f"healthy-{n}", house.tenants.url).key() for n in range(20)]
    with house.tenants.hanging():
        from_bad = house.chat_all(bad * 3)
        from_healthy = house.chat_all(healthy)
        whole(house.tenants, *from_healthy)
        house.settle()
        assert [names(house.langfuse, response) for response in from_bad] == [[]] * len(from_bad)
        whole(house.collector, *from_bad)
        for tenant in hung:
            assert house.tenants.exports_with(tenant.headers)
        from_slow = [response for response, bearer in zip(from_bad, bad * 3, strict=True) if bearer == slow.key()]
        whole(house.tenants, *from_slow)


def test_a_tenant_that_hung_gets_what_it_missed(hostile: Hostile) -> None:
    house = hostile.house
    tenant = langfuse("recovers", f"{house.tenants.url}/hung")
    with house.tenants.hanging():
        first = house.chat(tenant.key())
        arrived(house.tenants, first)
        second = house.chat(tenant.key())
        house.settle()
        assert len(house.tenants.exports_with(tenant.headers)) == 1
    whole(house.tenants, first, second)


def test_threads_do_not_grow_with_tenants(hostile: Hostile) -> None:
    house = hostile.house
    with house.tenants.hanging():
        for many in (5, 100):
            hung = [langfuse(f"thread-{next(unique)}", f"{house.tenants.url}/hung") for _ in range(many // 5)]
            healthy = [langfuse(f"thread-{next(unique)}", house.tenants.url) for _ in range(many - many // 5)]
            house.chat_all([tenant.key() for tenant in hung])
            whole(house.tenants, *house.chat_all([tenant.key() for tenant in healthy]))
            assert threads_of(house.proxy.process.pid) <= hostile.threads


def test_a_tenant_that_wants_model_calls_alone_gets_each_as_a_root(hostile: Hostile) -> None:
    house = hostile.house
    tenant = langfuse("calls-alone", house.tenants.url)
    for _ in range(2):  # by the time the second has arrived, all of the first has
        response = house.chat(tenant.key(langfuse_span_scope="llm_only"))
        arrived(house.tenants, response)
    spans = [span for export in house.tenants.exports_with(tenant.headers) for span in export.spans]
    assert [(span.name, span.parent_id) for span in spans] == [("chat mock", "")] * 2
    assert spans[1].trace_id == trace_id_of(response)
    assert spans[1].attributes["langfuse.trace.name"] == "chat mock"
    model_call = span_named(whole(house.collector, response), "chat mock")
    assert model_call.span_id == spans[1].span_id
    assert model_call.parent_id
    assert "langfuse.trace.name" not in model_call.attributes


def test_a_tenants_sampling_rates_keep_whole_requests_or_nothing(hostile: Hostile) -> None:
    house = hostile.house
    tenant = arize("sampled")
    none = tenant.key(arize_success_sampling_rate="0.0")
    every = tenant.key(arize_success_sampling_rate="1.0")
    failures = tenant.key(arize_success_sampling_rate="0.0", arize_error_sampling_rate="1.0")
    dropped = [house.chat(bearer) for bearer in (*[none] * 5, failures)]
    kept = [house.chat(every) for _ in range(2)]
    house.provider.replies.append(Reply(status=400))
    failed = house.chat(failures)
    assert failed.status_code == 400
    whole(house.tenants, *kept, failed)
    assert [names(house.tenants, response) for response in dropped] == [[]] * 6
    whole(house.collector, *dropped)


def test_a_tenant_sees_nothing_of_the_operators_in_a_failed_request(hostile: Hostile) -> None:
    house = hostile.house
    house.provider.replies.append(Reply(status=500))
    response = house.chat(langfuse("fails", house.tenants.url).key(), f"{CHAT}?note=secret-of-the-query")
    assert response.status_code == 500
    received, kept = whole(house.tenants, response), whole(house.collector, response)
    root, call = span_named(kept, f"POST {CHAT}"), span_named(kept, "chat mock")
    captured = {name for name in root.attributes if name.startswith("http.request.header.")}
    assert "http.request.header.authorization" in captured
    assert root.attributes["url.query"] == "note=secret-of-the-query"
    assert "exception" in {event.name for event in root.events}
    assert "scripted 500" in root.attributes["error.message"]
    assert "scripted 500" in root.status_message
    traces = "litellm.provider.error.stack_trace"
    assert 'File "' in root.attributes[traces]
    assert 'File "' in call.attributes[traces]

    seen_root, seen_call = span_named(received, f"POST {CHAT}"), span_named(received, "chat mock")
    hidden = {*captured, "url.query", "error.message", traces}
    assert seen_root.attributes == {name: value for name, value in root.attributes.items() if name not in hidden}
    assert (seen_root.status, seen_root.status_message, seen_root.events) == ("ERROR", "", ())
    # The call is the tenant's own: so is what its provider said, in Langfuse's words too.
    plain = {name: value for name, value in seen_call.attributes.items() if not name.startswith("langfuse.")}
    assert plain == {name: value for name, value in call.attributes.items() if name != traces}
    assert seen_call.attributes["langfuse.observation.type"] == "generation"
    assert (seen_call.status, seen_call.status_message) == ("ERROR", call.status_message)
    assert [event.name for event in seen_call.events] == ["exception"]
    assert not [export for export in house.tenants.exports if export.says("secret-of-the-query")]
    assert not [export for export in house.tenants.exports if export.says('File "')]


def test_a_host_that_the_operator_did_not_allow_is_never_connected_to(hostile: Hostile) -> None:
    house, port = hostile.house, hostile.forbidden.port
    allowed = house.tenants.host
    hosts = [
        f"http://127.0.0.1:{port}",
        f"127.0.0.1:{port}",
        f"https://127.0.0.1:{port}",
        f"http://127.1:{port}",
        f"http://0x7f000001:{port}",
        f"http://0x7f.0.0.1:{port}",
        f"http://2130706433:{port}",
        f"http://0177.0.0.1:{port}",
        f"http://0:{port}",
        f"http://0.0.0.0:{port}",
        f"http://127.0.0.1.:{port}",
        f"http://localhost:{port}",
        f"http://LocalHost.:{port}",
        f"http://[::1]:{port}",
        f"http://[::ffff:127.0.0.1]:{port}",
        f"http://[::ffff:7f00:1]:{port}",
        f"http://\uff11\uff12\uff17.0.0.1:{port}",
        f"http://127\u30020\u30020\u30021:{port}",
        f"http://{allowed}@127.0.0.1:{port}",
        f"http://user:password@127.0.0.1:{port}",
        f"http://{allowed}\\@127.0.0.1:{port}",
        f"http://{allowed}#@127.0.0.1:{port}",
        f"http://{allowed}:{port}",
        f"http:\\\\127.0.0.1:{port}",
        f"http:/127.0.0.1:{port}",
        f"//127.0.0.1:{port}",
        f"httpx://127.0.0.1:{port}",
        f"gopher://127.0.0.1:{port}",
        "file:///etc/passwd",
        "http://169.254.169.254",
        "http://[fd00:ec2::254]",
    ]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"the trap is set")
    bearers = [langfuse(f"forbidden-{n}", f"{host}/forbidden-{n}").key() for n, host in enumerate(hosts)]
    responses = house.chat_all(bearers)
    house.settle()
    assert hostile.forbidden.heard == [b"the trap is set"]
    # LiteLLM keeps the operator's backend for whoever has no other; the model call goes there on the tenant's account.
    for response in responses:
        assert names(house.langfuse, response) == [f"POST {CHAT}", f"auth {CHAT}", "route mock"]
        assert names(house.tenants, response) == []
    assert "not exporting to key/team Langfuse host 'http://169.254.169.254/forbidden-" in house.proxy.log


def test_a_redirect_is_not_followed(hostile: Hostile) -> None:
    house = hostile.house
    heard = len(hostile.forbidden.heard)
    tenant = langfuse("redirected", f"{house.tenants.url}/elsewhere")
    response = house.chat(tenant.key())
    whole(house.tenants, response)
    house.settle()
    assert hostile.forbidden.heard[heard:] == []
    whole(house.tenants, response)  # still each span once: it is not asked again either


# --- additive --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arize_grpc() -> Iterator[GrpcReceiver]:
    with GrpcReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def additive(arize_grpc: GrpcReceiver) -> Iterator[House]:
    environment = {"ARIZE_ENDPOINT": arize_grpc.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-operator=secret-of-all-signals"}
    with running(environment=environment, otel_tenant_destination_mode="additive") as house:
        yield house


def test_additive_leaves_the_operator_its_copy(additive: House) -> None:
    tenant = langfuse("additive", additive.tenants.url)
    response = additive.chat(tenant.key())
    trees = [
        links_between(whole(backend, response)) for backend in (additive.tenants, additive.langfuse, additive.collector)
    ]
    assert trees[0] == trees[1] == trees[2]
    for backend, headers in (
        (additive.tenants, tenant.headers),
        (additive.langfuse, OPERATORS_LANGFUSE),
        (additive.collector, {"x-operator": "secret-of-all-signals"}),
    ):
        assert {span.trace_id for export in backend.exports_with(headers) for span in export.spans} >= {
            trace_id_of(response)
        }
        assert backend.exports_with(headers) == backend.exports


def test_a_credential_that_no_header_can_carry_is_refused_by_the_name_of_its_field(additive: House) -> None:
    values = [
        "value-of-the-key\r\nx-injected: 1",
        "value-of-the-key\rx-injected: 1",
        "value-of-the-key\nx-injected: 1",
        "value-of-the-key\x00",
        "value-of-the-key-\u00e9",
        "value-of-the-key-\u2028",
        "value-of-the-key-\x7f",
    ]
    tenants = [
        *(arize(f"refused-{n}", api_key=value) for n, value in enumerate(values)),
        langfuse("refused-host", f"{additive.tenants.url}/value-of-the-host\r\nx-injected:1"),
        langfuse("refused-hosts-path", f"{additive.tenants.url}/value-of-the-host-\u00e9"),
    ]
    responses = [additive.chat(tenant.key()) for tenant in tenants]
    assert {response.status_code for response in responses} == {200}
    for response in responses[: len(values)]:
        whole(additive.langfuse, response)
    additive.settle()
    assert [names(additive.tenants, response) for response in responses] == [[]] * len(responses)
    assert not [export for export in additive.tenants.exports if "x-injected" in export.headers]
    (line,) = REFUSED.findall(additive.proxy.log)  # one a minute, for all of them
    assert line == ("arize", "headers.api_key: the value has a character that a header cannot carry")
    assert "value-of-the" not in additive.proxy.log
    assert "Traceback" not in additive.proxy.log


def test_over_grpc_each_export_carries_its_own_tenants_credential(additive: House, arize_grpc: GrpcReceiver) -> None:
    tenants = [arize(f"grpc-{n}") for n in range(20)]
    responses = additive.chat_all([tenant.key(arize_otlp_protocol="grpc") for tenant in tenants])
    whole(additive.collector, *responses)
    expected = {(trace_id_of(response), name) for response in responses for name in WHOLE}
    wait_for(lambda: {(span.trace_id, span.name) for span in arize_grpc.spans} >= expected)
    assert len(arize_grpc.spans) == len(expected)
    accounts = {(metadata["arize-space-id"], metadata["api_key"]) for metadata in arize_grpc.metadata}
    assert accounts == {(tenant.headers["arize-space-id"], tenant.headers["api_key"]) for tenant in tenants}
    assert not [metadata for metadata in arize_grpc.metadata if "secret-of-" in repr(metadata)]


# --- routes: one span of a request, on its way to another account, project or service --------------------------------


@dataclass
class Routes:
    house: House
    arize: Backend
    phoenix: Backend
    threads: int


@pytest.fixture(scope="module")
def routes() -> Iterator[Routes]:
    with Backend() as arize_backend, Backend() as phoenix:
        environment = {
            "ARIZE_SPACE_ID": "operators-space",
            "ARIZE_API_KEY": "operators-arize",
            "ARIZE_HTTP_ENDPOINT": f"{arize_backend.url}/v1/traces",
            "PHOENIX_COLLECTOR_HTTP_ENDPOINT": f"{phoenix.url}/v1/traces",
            "PHOENIX_API_KEY": "operators-phoenix",
        }
        with running("arize", "arize_phoenix", environment=environment) as house:
            house.chat_all([key("nobody in particular")] * AT_ONCE * 2)
            house.settle()
            yield Routes(house, arize_backend, phoenix, threads_of(house.proxy.process.pid))


def assert_detached(routed: Backend, headers: dict[str, str], house: House, response: httpx.Response) -> None:
    """The model call alone went out with these headers, in a trace of its own that links to the request's."""
    routed.wait_for(lambda _spans: bool(routed.exports_with(headers)))
    (root,) = [span for span in house.collector.trace(trace_id_of(response)) if span.kind == "SERVER"]
    ((call,),) = [export.spans for export in routed.exports_with(headers)]
    assert (call.name, call.parent_id, call.links) == ("chat mock", "", (root.span_id,))
    assert call.trace_id != trace_id_of(response)


def _pair(name: str) -> dict[str, str]:
    return {"langfuse_public_key": f"pk-{name}", "langfuse_secret_key": f"sk-{name}"}


ROUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "body": (key("body"), _pair("body")),
    "metadata": (key("metadata"), {"metadata": _pair("metadata")}),
    "team": (
        key(
            "team",
            team_id="team",
            team_metadata={
                "callback_settings": {
                    "success_callback": ["langfuse_otel"],
                    "failure_callback": [],
                    "callback_vars": _pair("team"),
                }
            },
        ),
        {},
    ),
    "failures": (langfuse("failures", "http://127.0.0.1:1").key(on="failure"), {}),
}


@pytest.mark.parametrize("named_in", ROUTED)
def test_a_requests_own_account_gets_the_model_call_alone(routes: Routes, named_in: str) -> None:
    house = routes.house
    bearer, body = ROUTED[named_in]
    response = house.chat(bearer, **body)
    assert response.status_code == 200
    house.settle()
    assert_detached(house.langfuse, langfuse_headers(f"pk-{named_in}", f"sk-{named_in}"), house, response)
    operators = [
        span.name
        for export in house.langfuse.exports_with(OPERATORS_LANGFUSE)
        for span in export.spans
        if span.trace_id == trace_id_of(response)
    ]
    assert sorted(operators) == [f"POST {CHAT}", f"auth {CHAT}", "route mock"]
    others = [*routes.phoenix.exports, *routes.arize.exports, *house.collector.exports]
    assert not [export for export in others if export.says(f"sk-{named_in}")]


def test_a_credential_with_separators_in_it_arrives_as_it_is(routes: Routes) -> None:
    response = routes.house.chat(key("separators"), arize_api_key="a,b=c%41 d;+", arize_space_key="space,%2C=1")
    routes.house.settle()
    headers = {"api_key": "a,b=c%41 d;+", "arize-space-id": "space,%2C=1"}
    assert_detached(routes.arize, headers, routes.house, response)


def test_a_phoenix_project_gets_the_model_call_alone(routes: Routes) -> None:
    response = routes.house.chat(key("project", metadata={"phoenix_project_name": "a project, with 100%"}))
    routes.house.settle()
    headers = {"authorization": "Bearer operators-phoenix", "x-project-name": "a project, with 100%"}
    assert_detached(routes.phoenix, headers, routes.house, response)
    whole(routes.house.langfuse, response)


def test_a_service_name_changes_the_resource_of_the_model_call_and_nothing_else(routes: Routes) -> None:
    house = routes.house
    response = house.chat(key("service", metadata={"otel_service_name": "tenants-service"}))
    for backend in (house.langfuse, house.collector):
        spans = whole(backend, response)
        call = span_named(spans, "chat mock")
        assert call.parent_id == span_named(spans, f"POST {CHAT}").span_id
        assert {span.name: span.resource["service.name"] for span in spans} == {
            **dict.fromkeys(WHOLE, "litellm"),
            "chat mock": "tenants-service",
        }
    assert house.collector.exports_with({}) == house.collector.exports


def test_many_routes_at_once_neither_mix_nor_cost_threads(routes: Routes) -> None:
    house = routes.house
    accounts = [f"account-{n}" for n in range(100)]
    responses = house.chat_all([key(name) for name in accounts], [_pair(name) for name in accounts])
    house.langfuse.wait_for(
        lambda spans: all(house.langfuse.exports_with(langfuse_headers(f"pk-{n}", f"sk-{n}")) for n in accounts)
    )
    house.settle()
    for name, response in zip(accounts, responses, strict=True):
        assert_detached(house.langfuse, langfuse_headers(f"pk-{name}", f"sk-{name}"), house, response)
    assert threads_of(house.proxy.process.pid) <= routes.threads


def test_a_routes_credential_that_no_header_can_carry_costs_nobody_else_the_span(routes: Routes) -> None:
    house = routes.house
    response = house.chat(key("bad route"), arize_api_key="value-of-the-key\r\nx-injected: 1", arize_space_key="space")
    assert response.status_code == 200
    whole(house.langfuse, response)
    whole(house.collector, response)
    assert not [export for export in routes.arize.exports if "x-injected" in export.headers]
    assert "value-of-the-key" not in house.proxy.log
    assert "headers.api_key: the value has a character that a header cannot carry" in house.proxy.log
    assert "Traceback" not in house.proxy.log
