"""Several backends behind one proxy: where each preset is pointed, and what the trees that come there have to be."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from starlette.responses import Response
from starlette.routing import Route

from tests.support.proxy import trace_id_of
from tests.support.receiver import OtlpReceiver, ReceivedSpan, _decompressed, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import httpx
    from starlette.requests import Request

CONTENT = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only"}

# What LiteLLM's earlier loggers call their spans.
EARLIER_NAMES = frozenset(
    {"litellm_request", "raw_gen_ai_request", "litellm_proxy_request", "Received Proxy Server Request"}
)

# Each vocabulary's own names. The plain one has names that begin with ``llm.`` too.
OPENINFERENCE = (
    "openinference.",
    "input.value",
    "output.value",
    "llm.model_name",
    "llm.provider",
    "llm.token_count.",
    "llm.input_messages.",
    "llm.output_messages.",
    "llm.invocation_parameters",
    "llm.tools.",
)
LANGFUSE = ("langfuse.",)
WEAVE = ("weave.",)
PLAIN_LLM = (
    "llm.is_streaming",
    "llm.top_k",
    "llm.frequency_penalty",
    "llm.presence_penalty",
    "llm.chat.",
    "llm.request.",
)


# --- presets ---------------------------------------------------------------------------------------------------------


def phoenix(receiver: OtlpReceiver) -> dict[str, str]:
    return {"PHOENIX_COLLECTOR_HTTP_ENDPOINT": f"{receiver.url}/v1/traces"}


def langfuse(receiver: OtlpReceiver) -> dict[str, str]:
    return {
        "LANGFUSE_PUBLIC_KEY": "pk-lf-operator",
        "LANGFUSE_SECRET_KEY": "sk-lf-operator",
        "LANGFUSE_OTEL_HOST": receiver.url,
    }


def arize(receiver: OtlpReceiver) -> dict[str, str]:
    return {
        "ARIZE_SPACE_ID": "operators-space",
        "ARIZE_API_KEY": "operators-arize",
        "ARIZE_HTTP_ENDPOINT": f"{receiver.url}/v1/traces",
    }


def weave(receiver: OtlpReceiver) -> dict[str, str]:
    return {"WANDB_API_KEY": "wandb-operator", "WANDB_PROJECT_ID": "entity/project", "WANDB_HOST": receiver.url}


def levo(receiver: OtlpReceiver) -> dict[str, str]:
    return {
        "LEVOAI_API_KEY": "levo-operator",
        "LEVOAI_ORG_ID": "organisation",
        "LEVOAI_WORKSPACE_ID": "workspace",
        "LEVOAI_COLLECTOR_URL": f"{receiver.url}/v1/traces",
    }


def signoz(receiver: OtlpReceiver) -> dict[str, str]:
    return {"SIGNOZ_INGESTION_ENDPOINT": receiver.url}


@dataclass(frozen=True)
class Preset:
    """A backend of the operator's: what points its preset at a receiver, and the names that it alone may be shown."""

    environment: Callable[[OtlpReceiver], dict[str, str]]
    own: tuple[str, ...] = ()
    resource: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    "arize_phoenix": Preset(phoenix, OPENINFERENCE, ("openinference.project.name",)),
    "langfuse_otel": Preset(langfuse, LANGFUSE),
    "arize": Preset(arize, OPENINFERENCE, ("model_id",)),
    "weave_otel": Preset(weave, (*OPENINFERENCE, *WEAVE)),
}
VENDORS = {*OPENINFERENCE, *LANGFUSE, *WEAVE}


# --- trees -----------------------------------------------------------------------------------------------------------


def skeleton(span: ReceivedSpan) -> tuple[Any, ...]:
    """All of a span but its attributes and its resource."""
    events = tuple((event.name, tuple(sorted((name, repr(value)) for name, value in event.attributes.items())))
                   for event in span.events)  # fmt: skip
    return (
        span.trace_id, span.span_id, span.parent_id, span.name, span.kind, span.start_ns, span.end_ns,
        span.status, span.status_message, events, span.links, span.scope,
    )  # fmt: skip


def skeletons(spans: Iterable[ReceivedSpan]) -> list[tuple[Any, ...]]:
    return sorted(map(skeleton, spans))


def _kinds(spans: Sequence[ReceivedSpan]) -> Counter[str]:
    """How many spans of each kind; a look-up in a database, which 1.104 makes for tags, is no model call."""
    return Counter(span.kind for span in spans if not any(name.startswith("db.") for name in span.attributes))


def is_whole(spans: Sequence[ReceivedSpan], calls: int) -> bool:
    kinds = _kinds(spans)
    return kinds["SERVER"] >= 1 and kinds["CLIENT"] >= calls


def assert_one_tree(spans: Sequence[ReceivedSpan], *, calls: int) -> None:
    """One root, which is the SERVER span; every other span below it, each once; one CLIENT span per model call."""
    told = [(span.kind, span.name, span.span_id, span.parent_id) for span in spans]
    ids = [span.span_id for span in spans]
    assert len(ids) == len(set(ids)), f"a span came twice: {told}"
    assert [span.kind for span in spans if not span.parent_id] == ["SERVER"], told
    assert {span.parent_id for span in spans if span.parent_id} <= set(ids), f"an orphan: {told}"
    kinds = _kinds(spans)
    assert (kinds["SERVER"], kinds["CLIENT"]) == (1, calls), told
    assert not {span.name for span in spans} & EARLIER_NAMES, told


def assert_no_span_twice(receiver: OtlpReceiver) -> None:
    """Over everything that a receiver was ever sent."""
    seen = Counter((span.trace_id, span.span_id) for span in receiver.spans)
    assert {span for span, count in seen.items() if count > 1} == set()


def tree_at(receiver: OtlpReceiver, response: httpx.Response | str, *, calls: int = 1) -> list[ReceivedSpan]:
    """The whole tree of a response, once it has come."""
    trace_id = response if isinstance(response, str) else trace_id_of(response)
    receiver.wait_until(lambda spans: is_whole([span for span in spans if span.trace_id == trace_id], calls))
    spans = receiver.trace(trace_id)
    assert_one_tree(spans, calls=calls)
    return spans


def same_tree_at(
    receivers: Mapping[str, OtlpReceiver], response: httpx.Response | str, *, calls: int = 1
) -> dict[str, list[ReceivedSpan]]:
    """The tree of a response at each of these receivers, which differ in the words alone."""
    trees = {name: tree_at(receiver, response, calls=calls) for name, receiver in receivers.items()}
    first, *others = trees
    for other in others:
        assert skeletons(trees[other]) == skeletons(trees[first]), f"{other} has another tree than {first}"
    return trees


def same_trees_at(receivers: Sequence[OtlpReceiver], trace_ids: Sequence[str], *, calls: int = 1) -> None:
    """``same_tree_at`` for many traces, without a look at everything for each of them."""
    wanted = set(trace_ids)
    first: dict[str, list[tuple[Any, ...]]] | None = None
    for receiver in receivers:
        receiver.wait_until(lambda spans: _are_whole(by_trace(spans), wanted, calls))
        trees = by_trace(receiver.spans)
        for trace_id in wanted:
            assert_one_tree(trees[trace_id], calls=calls)
        seen = {trace_id: skeletons(trees[trace_id]) for trace_id in wanted}
        first = first or seen
        assert seen == first


def _are_whole(trees: defaultdict[str, list[ReceivedSpan]], wanted: Iterable[str], calls: int) -> bool:
    return all(is_whole(trees[trace_id], calls) for trace_id in wanted)


def by_trace(spans: Iterable[ReceivedSpan]) -> defaultdict[str, list[ReceivedSpan]]:
    traces: defaultdict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    return traces


def client_span(spans: Sequence[ReceivedSpan]) -> ReceivedSpan:
    (span,) = [span for span in spans if span.kind == "CLIENT"]
    return span


def server_span(spans: Sequence[ReceivedSpan]) -> ReceivedSpan:
    (span,) = [span for span in spans if span.kind == "SERVER"]
    return span


def words_of(spans: Iterable[ReceivedSpan], prefixes: Iterable[str]) -> set[str]:
    """The attributes of these spans that begin with any of the prefixes."""
    prefixes = tuple(prefixes)
    return {name for span in spans for name in span.attributes if name.startswith(prefixes)}


# --- more than traces ------------------------------------------------------------------------------------------------


class CollectorOfAllSignals(OtlpReceiver):
    """Takes log records beside traces and metrics, and keeps (name of the event, trace, attributes) of each."""

    def __init__(self) -> None:
        super().__init__()
        self._logs: list[ExportLogsServiceRequest] = []

    def _routes(self) -> list[Route]:
        return [*super()._routes(), Route("/v1/logs", self._take_logs, methods=["POST"])]

    @property
    def records(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [
            (record.event_name, record.trace_id.hex(), {each.key: value_of(each.value) for each in record.attributes})
            for export in tuple(self._logs)
            for resource in export.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    async def _take_logs(self, request: Request) -> Response:
        body = _decompressed(await request.body(), request.headers.get("content-encoding"))
        self._logs.append(ExportLogsServiceRequest.FromString(body))
        return Response(b"", 200, {"content-type": "application/x-protobuf"})


def points(receiver: OtlpReceiver, metric: str) -> dict[tuple[tuple[str, str], ...], int]:
    """How often a histogram was recorded, by its attributes: the newest that each export says, for they add up."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for export in tuple(receiver.metrics):
        for resource in export.resource_metrics:
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    for point in each.histogram.data_points if each.name == metric else ():
                        key = tuple(sorted((a.key, str(value_of(a.value))) for a in point.attributes))
                        counts[key] = max(counts.get(key, 0), int(point.count))
    return counts


def quiet(receivers: Iterable[OtlpReceiver], seconds: float = 0.8) -> None:
    """Return once nothing has come for a while: what is not there now does not come any more."""
    receivers = tuple(receivers)
    deadline = time.monotonic() + 30
    counts = [len(receiver.spans) for receiver in receivers]
    since = time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, "spans keep coming"
        time.sleep(0.05)
        now = [len(receiver.spans) for receiver in receivers]
        if now != counts:
            counts, since = now, time.monotonic()
