"""LiteLLM's tracing callbacks in a process of their own, and what each backend gets of one request, kept in memory."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from litellm_otel_plugin import seams, upstream
from litellm_otel_plugin.backends.folding import Backends
from litellm_otel_plugin.backends.vocabularies import Vocabularies
from litellm_otel_plugin.request.record import open_record, record_of_context
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.folding import Folding
from litellm_otel_plugin.upstream.members import name_of
from litellm_otel_plugin.upstream.wording import OPENINFERENCE_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from opentelemetry.sdk.trace import ReadableSpan

ROUTE = "/v1/chat/completions"
STARTED, ENDED = datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 2, 3, 4, 7)  # noqa: DTZ001 - as LiteLLM's own

COLLECTOR = "collector.test"
COLLECTORS_VARIABLES = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{COLLECTOR}:4318"}

TEAM_METADATA = {"cost_center": "a cost center", "tier": "a tier"}

# What an operator sets for each callback.
VARIABLES: dict[str, dict[str, str]] = {
    "otel": {},
    "arize": {"ARIZE_SPACE_ID": "space", "ARIZE_API_KEY": "key", "ARIZE_HTTP_ENDPOINT": "http://arize.test/v1"},
    "arize_phoenix": {"PHOENIX_COLLECTOR_HTTP_ENDPOINT": "http://phoenix.test", "PHOENIX_PROJECT_NAME": "a project"},
    "langfuse_otel": {
        "LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk", "LANGFUSE_OTEL_HOST": "http://langfuse.test",
    },
    "weave_otel": {"WANDB_API_KEY": "key", "WANDB_PROJECT_ID": "me/mine", "WANDB_HOST": "http://weave.test"},
    "langtrace": {"LANGTRACE_API_KEY": "key"},
    "levo": {
        "LEVOAI_API_KEY": "key", "LEVOAI_ORG_ID": "o", "LEVOAI_WORKSPACE_ID": "w",
        "LEVOAI_COLLECTOR_URL": "http://levo.test",
    },
    "agentops": {"AGENTOPS_API_KEY": "key"},
    "newrelic": {"NEW_RELIC_LICENSE_KEY": "key"},
    "signoz": {"SIGNOZ_INGESTION_ENDPOINT": "http://signoz.test", "SIGNOZ_INGESTION_KEY": "key"},
}  # fmt: skip

# Where each callback's backend is; Langtrace's is the operator's collector.
HOSTS = {
    "otel": COLLECTOR, "arize": "arize.test", "arize_phoenix": "phoenix.test", "langfuse_otel": "langfuse.test",
    "weave_otel": "weave.test", "langtrace": COLLECTOR, "levo": "levo.test", "agentops": "otlp.agentops.ai",
    "newrelic": "otlp.nr-data.net", "signoz": "signoz.test",
}  # fmt: skip

_PREFIXES = ("OTEL_", "LITELLM_OTEL_", *(name.split("_", 1)[0] + "_" for each in VARIABLES.values() for name in each))
# LiteLLM's Weave integration writes these itself.
_WRITTEN_BY_LITELLM = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)  # fmt: skip

_LISTS = (
    "callbacks", "input_callback", "service_callback", "success_callback", "failure_callback", "_async_input_callback",
    "_async_success_callback", "_async_failure_callback",
)  # fmt: skip


class Memory(InMemorySpanExporter):
    """Stands where LiteLLM would make an OTLP exporter, and shows its account as that one does."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self._endpoint = upstream.traces_endpoint(spec) or ""
        self._headers = upstream.take(seams.PARSE_HEADERS)(spec.headers)

    @property
    def host(self) -> str | None:
        return urlsplit(self._endpoint).hostname


@dataclass(frozen=True)
class Call:
    """One model call, as large as a test wants it."""

    messages: int = 2
    tools: int = 1
    fails: bool = False
    is_of_mcp_tool: bool = False
    call_id: str = "a-call"
    # A tenant's own, at Arize.
    account: str | None = None

    def details(self) -> dict[str, Any]:
        """What LiteLLM hands its loggers when the provider is about to be called."""
        controls = {"trace_name": "a name", "trace_user_id": "me", "session_id": "ours", "tags": ["one", "two"]}
        return {
            "model": "gpt-4o", "call_type": "acompletion", "litellm_call_id": self.call_id, "messages": self._asked(),
            "optional_params": {"temperature": 0.5}, "api_call_start_time": STARTED,
            "litellm_params": {"metadata": controls, "proxy_server_request": {"headers": {}}},
            "standard_callback_dynamic_params":
                {"arize_space_id": self.account, "arize_api_key": self.account} if self.account else {},
        }  # fmt: skip

    def closed(self) -> dict[str, Any]:
        """And when it has ended."""
        return {**self.details(), "standard_logging_object": self._payload()}

    def asked_by_caller(self) -> dict[str, Any]:
        """The body of the request, as far as LiteLLM reads it before the call."""
        return {"model": "a-model", "metadata": {"requester_metadata": {"feature": "a feature"}}}

    def _asked(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"question {n}"} for n in range(self.messages)]

    def _payload(self) -> dict[str, Any]:
        function = {"description": "does it", "parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", "function": {"name": f"tool_{n}", **function}} for n in range(self.tools)]
        return {
            "id": "chatcmpl-1", "litellm_call_id": self.call_id, "call_type": "acompletion", "stream": False,
            "status": "success", "custom_llm_provider": "openai", "model": "gpt-4o", "model_group": "a-model",
            "model_id": "deployment", "api_base": "https://api.openai.com/v1", "response_cost": 0.25,
            "cost_breakdown": {"input_cost": 0.1, "output_cost": 0.15}, "end_user": "somebody",
            "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "messages": self._asked(),
            "metadata": {
                "user_api_key_hash": "hash", "user_api_key_team_id": "team",
                "user_api_key_team_metadata": TEAM_METADATA,
            },
            "model_parameters": {"temperature": 0.5, "max_tokens": 64, "tools": tools},
            "response": {
                "id": "chatcmpl-1", "model": "gpt-4o-2024",
                "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "an answer"}}],
            },
            **(_FAILED if self.fails else {}),
            **(_OF_MCP_TOOL if self.is_of_mcp_tool else {}),
        }  # fmt: skip


_FAILED = {
    "status": "failure", "response": None, "error_str": "slow down",
    "error_information": {
        "error_class": "RateLimitError", "error_code": "429", "error_message": "slow down", "llm_provider": "openai",
        "traceback": "at the provider",
    },
}  # fmt: skip

_OF_MCP_TOOL = {
    "call_type": "call_mcp_tool",
    "metadata": {
        "user_api_key_hash": "hash",
        "mcp_tool_call_metadata": {
            "name": "look_up", "mcp_server_name": "a server",
            "arguments": {"asked": "question 0"}, "result": {"said": "an answer"},
        },
    },
}  # fmt: skip


@dataclass
class Gateway:
    """LiteLLM as one proxy process has it."""

    folding: Folding | None
    exporters: list[Memory]
    said: list[str]
    built: dict[str, Any] = field(default_factory=dict)
    published: Any = None

    def build(self, name: str) -> Any:
        """A callback's logger, as LiteLLM makes it or finds it again."""
        logger = upstream.take(seams.FACTORY)(name, internal_usage_cache=None, llm_router=None)
        assert logger is not None, name
        self.built[name] = logger
        return logger

    def start(self, *names: str) -> None:
        """What the proxy does when it starts: its callbacks are built and listed, and a provider is published."""
        import litellm  # noqa: PLC0415 - the SDK, for these tests only

        litellm.callbacks[:] = names
        litellm.callbacks[:] = [self.build(name) for name in names]
        for logger in litellm.callbacks:
            self.enlist(logger)
        self.publish()

    def enlist(self, logger: Any) -> None:
        """Put a logger where LiteLLM has those that are for every request."""
        import litellm  # noqa: PLC0415 - as above

        manager = litellm.logging_callback_manager
        manager.add_litellm_callback(logger)
        manager.add_litellm_success_callback(logger)
        manager.add_litellm_failure_callback(logger)
        manager.add_litellm_async_success_callback(logger)
        manager.add_litellm_async_failure_callback(logger)

    def list_for(self, event: str, name: str) -> None:
        """What LiteLLM does with a callback under ``success_callback``, or ``failure_callback``, when a call comes."""
        import litellm  # noqa: PLC0415 - as above
        from litellm.utils import add_custom_logger_callback_to_specific_event  # noqa: PLC0415

        getattr(litellm, f"{event}_callback").append(name)
        add_custom_logger_callback_to_specific_event(name, event)

    def unlist(self, logger: Any) -> None:
        import litellm  # noqa: PLC0415 - as above

        litellm.logging_callback_manager.remove_callback_from_all_lists(logger)

    def publish(self) -> None:
        chosen = sys.modules[seams.PROXY_MODULE].open_telemetry_logger if self.folding is None else None
        chosen = self.folding.publishable() if self.folding is not None else chosen
        loggers = upstream.module(seams.LOGGING_MODULE)._in_memory_loggers
        self.published = upstream.take(seams.PUBLISH)(loggers, lambda _: None, registered=chosen)

    def request(
        self, call: Call = Call(), asked: Collection[str] = (), meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """One request to the proxy, with one model call; something else can happen while that is under way."""
        asyncio.run(self._request(call, asked, meanwhile))

    def requests(self, *askings: Collection[str]) -> None:
        """As many requests at once, each of a team that asks for these callbacks."""

        async def at_once() -> None:
            await asyncio.gather(*(self._request(Call(call_id=f"{n}"), asked) for n, asked in enumerate(askings)))

        asyncio.run(at_once())

    def at(self, host: str) -> list[ReadableSpan]:
        """Everything that was sent to a host, in the order in which it ended."""
        spans = [span for memory in self.exporters if memory.host == host for span in memory.get_finished_spans()]
        return sorted(spans, key=lambda span: span.end_time or 0)

    def spans_of(self, name: str) -> list[ReadableSpan]:
        """What a callback's backend got."""
        return self.at(HOSTS[name])

    @property
    def folded(self) -> list[str]:
        """The callbacks whose loggers are folded, as an operator writes them."""
        assert self.folding is not None
        return [name_of(logger) for logger in self.folding._folded]

    def forget(self) -> None:
        for memory in self.exporters:
            memory.clear()

    async def _request(
        self, call: Call, asked: Collection[str], meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        import litellm  # noqa: PLC0415 - as above
        from litellm.proxy._types import UserAPIKeyAuth  # noqa: PLC0415
        from litellm.types.services import ServiceLoggerPayload, ServiceTypes  # noqa: PLC0415

        key = UserAPIKeyAuth(
            api_key="hash", key_alias="an alias", user_id="me", team_id="team", team_alias="a team",
            team_metadata=TEAM_METADATA,
        )  # fmt: skip
        looked_up = ServiceLoggerPayload(
            is_error=False, service=ServiceTypes.DB, duration=0.1, call_type="get_data", event_metadata=None
        )
        for callback in litellm.callbacks:  # as with the first call that LiteLLM sets up
            if callback not in litellm.input_callback:
                litellm.input_callback.append(callback)
        attributes = {"http.route": ROUTE, "http.request.method": "POST"}
        tracer = self.published.tracer_provider.get_tracer("opentelemetry.instrumentation.asgi")
        with tracer.start_as_current_span(f"POST {ROUTE}", kind=SpanKind.SERVER, attributes=attributes) as root:
            open_record({}, root, "POST")
            self.published.create_litellm_proxy_request_started_span(STARTED, {})
            with self.published.start_phase_span("auth"):
                for logger in litellm.service_callback:
                    await logger.async_service_success_hook(looked_up, start_time=STARTED, end_time=ENDED)
            await asyncio.sleep(0)  # the others' turn
            if self.folding is not None:
                self.folding.backends.answer(asked)
            self.published.seed_request_identity(key, model="a-model")
            await self.published.async_pre_call_hook(key, _no_cache(), call.asked_by_caller(), "acompletion")
            for logger in litellm.input_callback if not call.is_of_mcp_tool else ():
                logger.log_pre_api_call("gpt-4o", call.details()["messages"], call.details())
            meanwhile()
            if not call.fails and not call.is_of_mcp_tool:
                for logger in litellm.callbacks:
                    await logger.async_post_call_success_hook(call.details(), key, _answer())
        # LiteLLM tells its loggers of the call once the response has been sent.
        await asyncio.sleep(0)
        if call.fails:
            for logger in litellm._async_failure_callback:
                await logger.async_log_failure_event(call.closed(), None, STARTED, ENDED)
        else:
            for logger in litellm._async_success_callback:
                await logger.async_log_success_event(call.closed(), None, STARTED, ENDED)


def _no_cache() -> Any:
    from litellm.caching.dual_cache import DualCache  # noqa: PLC0415 - as above

    return DualCache()


def _answer() -> Any:
    from litellm.types.utils import Choices, Message, ModelResponse  # noqa: PLC0415 - as above

    return ModelResponse(choices=[Choices(message=Message(content="an answer", role="assistant"))])


@contextmanager
def gateway(
    *variables_of: str,
    folded: bool = True,
    environment: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    arrange: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> Iterator[Gateway]:
    """LiteLLM with nothing built yet, and as it was before once the block is left.

    ``settings`` are ``callback_settings: otel:`` of config.yaml.
    """
    if not all(map(_is_known, variables_of)):
        pytest.skip("a callback that this LiteLLM does not know")
    with pytest.MonkeyPatch.context() as patch:
        exporters: list[Memory] = []
        said: list[str] = []
        _isolate(patch, settings or {})
        for variables in (COLLECTORS_VARIABLES, *(VARIABLES[name] for name in variables_of), environment or {}):
            for name, value in variables.items():
                patch.setenv(name, value)
        upstream.enable_v2()
        upstream.put(seams.EXPORTER, lambda spec: _kept(Memory(spec), exporters))
        arrange(patch)
        upstream.silence_placeholder_exporter()
        folding = None
        if folded:
            backends = Backends(Vocabularies(), record_of_context, said.append)
            folding = Folding(backends, record_of_context, said.append)
            folding.install()
            upstream.let_v2_feed_phoenix()
        made = Gateway(folding, exporters, said)
        try:
            yield made
        finally:
            for logger in {id(each): each for each in (made.published, *upstream.v2_loggers()) if each}.values():
                logger.tracer_provider.shutdown()
    upstream.v2_flag().cache_clear()


def _kept(memory: Memory, exporters: list[Memory]) -> Memory:
    exporters.append(memory)
    return memory


def _is_known(name: str) -> bool:
    return name == "otel" or name in upstream.take(seams.PRESETS)


def _isolate(patch: pytest.MonkeyPatch, settings: Mapping[str, Any]) -> None:
    import litellm  # noqa: PLC0415 - as above
    from litellm.proxy import proxy_server  # noqa: PLC0415

    for name in (*_WRITTEN_BY_LITELLM, upstream.V2_SWITCH):
        patch.setenv(name, "")  # so that it is put back, whatever is done to it
    for name in [each for each in os.environ if each.startswith(_PREFIXES)]:
        patch.delenv(name)
    for name in _LISTS:
        patch.setattr(litellm, name, [])
    patch.setattr(litellm, "callback_settings", {"otel": settings} if settings else {})
    patch.setattr(proxy_server, "open_telemetry_logger", None, raising=False)
    patch.setattr(upstream.module(seams.LOGGING_MODULE), "_in_memory_loggers", [])
    patch.setattr(upstream.module(seams.LOGGER_MODULE), "_published_v2_provider", None, raising=False)
    for seam in seams.SEAMS:
        with suppress(SeamMissing):  # an MCP SDK that makes no spans, for one
            taken = upstream.take(seam)
            patch.setattr(upstream.module(seam.module), seam.attribute, taken)
    for name in ("LLMCallSpanData", "MCPToolCallSpanData", "MCPListToolsSpanData"):
        kind = getattr(upstream.module(seams.PAYLOADS_MODULE), name, None)
        if kind is not None:
            made = vars(kind)["from_standard_logging_payload"]
            patch.setattr(kind, "from_standard_logging_payload", made)


def tree(spans: list[ReadableSpan]) -> Counter[tuple[Any, ...]]:
    """Each span by what has to be the same in every backend, and how often it is there."""
    return Counter(
        (
            span.context.trace_id if span.context else None,
            span.context.span_id if span.context else None,
            span.parent.span_id if span.parent else None,
            span.name,
            span.start_time,
            span.end_time,
        )
        for span in spans
    )


def kinds(spans: list[ReadableSpan]) -> dict[str, Any]:
    """OpenInference's kind of each span, by the span's name."""
    return {span.name: (span.attributes or {}).get(OPENINFERENCE_KIND) for span in spans}


def mapped(span: ReadableSpan) -> dict[str, Any]:
    """What LiteLLM's mappers put on a span: they give OpenInference's kind to model calls alone, we to the others."""
    own = dict(span.attributes or {})
    if own.get(OPENINFERENCE_KIND) != "LLM":
        own.pop(OPENINFERENCE_KIND, None)
    return own


def worded(spans: list[ReadableSpan]) -> dict[str, Any]:
    """What a backend can read on each span, by the span's name."""
    return {
        span.name: {
            "attributes": mapped(span),
            "dropped": span.dropped_attributes,
            "kind": span.kind,
            "status": (span.status.status_code, span.status.description),
            "events": [(event.name, dict(event.attributes or {})) for event in span.events],
            "scope": span.instrumentation_scope.name if span.instrumentation_scope else None,
        }
        for span in spans
    }


def model_call(spans: list[ReadableSpan]) -> ReadableSpan:
    """The one span of the model call."""
    (span,) = [each for each in spans if each.kind is SpanKind.CLIENT and each.name.startswith("chat ")]
    return span


def root_of(spans: list[ReadableSpan]) -> ReadableSpan:
    (span,) = [each for each in spans if each.kind is SpanKind.SERVER]
    return span


def alone(
    name: str,
    call: Call,
    environment: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[ReadableSpan]:
    """What LiteLLM itself sends to a callback's backend where it is the only one."""
    with gateway(name, folded=False, environment=environment, settings=settings) as proxy:
        proxy.start(name)
        proxy.request(call)
        return proxy.spans_of(name)
