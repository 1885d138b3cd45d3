"""An OTLP/HTTP receiver on a real socket that can be scripted: status, headers, delay, hang."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.support import patience
from tests.support.server import ServerThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from starlette.requests import Request
    from typing_extensions import Self

KINDS = {0: "UNSPECIFIED", 1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
STATUSES = {0: "UNSET", 1: "OK", 2: "ERROR"}


@dataclass(frozen=True)
class SpanEvent:
    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    status: str
    status_message: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[SpanEvent, ...]
    links: tuple[str, ...]
    resource: dict[str, Any]
    scope: str
    # As OTLP, in bytes.
    size: int = field(default=0, compare=False)


@dataclass
class Answer:
    """How the receiver answers one export."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    hang: bool = False


class OtlpReceiver:
    """Keeps every span it was sent. ``script`` is asked for each export's answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.script: Callable[[int], Answer] = lambda _count: Answer()
        self.exports: list[tuple[dict[str, str], list[ReceivedSpan]]] = []
        self._spans: list[ReceivedSpan] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.server = ServerThread(Starlette(routes=self._routes()))

    def _routes(self) -> list[Route]:
        return [
            Route("/v1/traces", self._traces, methods=["POST"]),
            Route("/{prefix:path}/v1/traces", self._traces, methods=["POST"]),
            Route("/v1/metrics", self._metrics, methods=["POST"]),
        ]

    @property
    def url(self) -> str:
        return self.server.url

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._released.set()
        self.server.stop()

    @property
    def spans(self) -> list[ReceivedSpan]:
        with self._lock:
            return list(self._spans)

    def forget(self) -> None:
        with self._lock:
            self._spans.clear()
            self.metrics.clear()
            self.requests.clear()
            self.exports.clear()

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def wait_until(
        self, met: Callable[[list[ReceivedSpan]], bool], seconds: float = patience.SECONDS
    ) -> list[ReceivedSpan]:
        """The spans, once ``met`` holds for them."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            spans = self.spans
            if met(spans):
                return spans
            time.sleep(0.05)
        raise AssertionError(f"not met in {seconds} s by: {[(span.trace_id, span.name) for span in self.spans]}")

    async def _traces(self, request: Request) -> Response:
        body = _decompressed(await request.body(), request.headers.get("content-encoding"))
        with self._lock:
            self.requests.append((request.url.path, dict(request.headers)))
            answer = self.script(len(self.requests) - 1)
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.hang:
            await asyncio.to_thread(self._released.wait)
        if answer.status == 200:
            is_json = request.headers["content-type"] == "application/json"
            export = _from_json(body) if is_json else ExportTraceServiceRequest.FromString(body)
            spans = decode(export)
            with self._lock:
                self._spans.extend(spans)
                self.exports.append((dict(request.headers), spans))
        content = answer.body if answer.body is not None else ExportTraceServiceResponse().SerializeToString()
        return Response(content, answer.status, {"content-type": "application/x-protobuf", **answer.headers})

    async def _metrics(self, request: Request) -> Response:
        body = _decompressed(await request.body(), request.headers.get("content-encoding"))
        export = ExportMetricsServiceRequest()
        export.ParseFromString(body)
        with self._lock:
            self.metrics.append(export)
        return Response(b"", 200, {"content-type": "application/x-protobuf"})

    def metric_points(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """(resource, attributes) of each histogram point of a metric."""
        with self._lock:
            exports = list(self.metrics)
        return [
            ({a.key: value_of(a.value) for a in resource.resource.attributes},
             {a.key: value_of(a.value) for a in point.attributes})
            for export in exports
            for resource in export.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.histogram.data_points
        ]  # fmt: skip


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: value_of(each.value) for each in value.kvlist_value.values}
    return getattr(value, kind)


def _decompressed(body: bytes, encoding: str | None) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if encoding == "deflate" else body


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    """OTLP/JSON has its ids in hexadecimal, where protobuf's own JSON has base64."""

    def as_base64(node: Any) -> Any:
        if isinstance(node, list):
            return [as_base64(each) for each in node]
        if not isinstance(node, dict):
            return node
        ids = {"traceId", "spanId", "parentSpanId"}
        return {
            key: base64.b64encode(bytes.fromhex(each)).decode() if key in ids else as_base64(each)
            for key, each in node.items()
        }

    return ParseDict(as_base64(json.loads(body)), ExportTraceServiceRequest())


def decode(export: ExportTraceServiceRequest) -> list[ReceivedSpan]:
    return [
        ReceivedSpan(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            name=span.name,
            kind=KINDS[span.kind],
            status=STATUSES[span.status.code],
            status_message=span.status.message,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes={each.key: value_of(each.value) for each in span.attributes},
            events=tuple(
                SpanEvent(event.name, {each.key: value_of(each.value) for each in event.attributes})
                for event in span.events
            ),
            links=tuple(link.span_id.hex() for link in span.links),
            resource={each.key: value_of(each.value) for each in resource.resource.attributes},
            scope=scope.scope.name,
            size=span.ByteSize(),
        )
        for resource in export.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
