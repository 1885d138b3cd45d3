"""Backends that behave badly, on real sockets, and one that speaks gRPC."""

from __future__ import annotations

import socket
import struct
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support import patience
from tests.support.receiver import ReceivedSpan, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def hang(connection: socket.socket, released: threading.Event) -> None:
    """Reads and never answers."""
    connection.recv(65536)
    released.wait()


def drip(connection: socket.socket, released: threading.Event) -> None:
    """Answers a byte at a time, for ever."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nx-drip: ")
    while not released.wait(0.05):
        connection.sendall(b".")


def reset(connection: socket.socket, released: threading.Event) -> None:
    """Breaks the connection off in the middle of the body."""
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def gibberish(connection: socket.socket, released: threading.Event) -> None:
    """Answers something that is no HTTP."""
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x01 what?\r\n\r\n")


class RawBackend:
    """Hands each connection to one of the functions above. ``connections`` counts them."""

    def __init__(self, behaviour: Callable[[socket.socket, threading.Event], None]) -> None:
        self._behaviour = behaviour
        self._released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._released.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._behaviour(connection, self._released)
            except OSError:
                return


class GrpcReceiver:
    """An OTLP/gRPC receiver. ``script`` is asked for each export's status code, ``None`` for success."""

    def __init__(self) -> None:
        self.script: Callable[[int], grpc.StatusCode | float | None] = lambda _count: None
        self.rejects = 0
        self.details = "as the test has it"
        self.trailing: tuple[tuple[str, bytes], ...] = ()
        self.metadata: list[dict[str, Any]] = []
        self._spans: list[ReceivedSpan] = []
        self._released = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        handler = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        service, _, method = GRPC_METHOD[1:].partition("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        return list(self._spans)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._released.set()
        self._server.stop(grace=None).wait()

    def _export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        count = len(self.metadata)
        self.metadata.append(dict(context.invocation_metadata()))
        code = self.script(count)
        if isinstance(code, float):
            self._released.wait(code)
        elif code is not None:
            context.set_trailing_metadata(self.trailing)
            context.abort(code, self.details)
        self._spans.extend(decode(request))
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = self.rejects
        return response


def wait_for(met: Callable[[], bool], seconds: float = patience.SECONDS) -> None:
    """Return once ``met`` holds."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            raise AssertionError(f"not met within {seconds} s")
        time.sleep(0.01)
