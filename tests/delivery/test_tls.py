"""Who is trusted and what is shown, on real sockets."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from litellm_otel_plugin.delivery import Delivery, Destination, Tls
from tests.delivery.certificates import Authority
from tests.support import patience
from tests.support.backends import GrpcReceiver, RawBackend, wait_for

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )
    from opentelemetry.sdk.trace import ReadableSpan

    MakeSpans = Callable[..., list[ReadableSpan]]


@pytest.fixture
def authority() -> Authority:
    return Authority()


def deliver(delivery: Delivery, spans: list[ReadableSpan], destination: Destination) -> bool:
    for span in spans:
        delivery.accept(span, (delivery.lane(destination),))
    return delivery.flush(patience.SECONDS)


class HttpsBackend(RawBackend):
    """Takes everything from whoever shows a certificate. ``clients`` are the names on them."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        super().__init__(self._answer)
        self.url = f"https://127.0.0.1:{self.port}"
        self.clients: list[Any] = []
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(*authority.write_pair("server", folder))

    def _answer(self, connection: socket.socket, released: threading.Event) -> None:
        with self._context.wrap_socket(connection, server_side=True) as encrypted:
            shown: Any = encrypted.getpeercert()
            self.clients.append(shown["subject"][0][0][1])
            encrypted.recv(65536)
            encrypted.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            released.wait()


def test_a_client_certificate_is_shown_also_where_the_backend_is_not_verified(
    delivery: Delivery, make_spans: MakeSpans, authority: Authority, tmp_path: Path
) -> None:
    with HttpsBackend(authority, tmp_path) as backend:
        certificate, key = authority.write_pair("proxy", tmp_path)
        tls = Tls(client_certificate_file=certificate, client_key_file=key, verify=False)
        assert deliver(delivery, make_spans(1), Destination(f"{backend.url}/v1/traces", tls=tls))
        assert backend.clients == ["proxy"]
        delivery.close(patience.SECONDS)


class GrpcTlsReceiver(GrpcReceiver):
    """Takes everything from whoever shows a certificate. ``clients`` are the names on them."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.clients: list[str] = []
        certificate, key = authority.pair("server")
        credentials = grpc.ssl_server_credentials([(key, certificate)], authority.pem, require_client_auth=True)
        self.url = f"https://127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"

    def _export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        shown: Any = context.auth_context()["x509_common_name"]
        self.clients += [name.decode() for name in shown]
        return super()._export(request, context)


def test_a_renewed_certificate_is_shown_from_the_next_batch_on(
    delivery: Delivery, make_spans: MakeSpans, authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.pem)
    with GrpcTlsReceiver(authority) as receiver:
        for name in ("before", "renewed"):
            certificate, key = authority.write_pair(name, tmp_path)
            tls = Tls(str(trusted), certificate, key)
            assert deliver(delivery, make_spans(1), Destination(receiver.url, "grpc", tls=tls))
        assert receiver.clients == ["before", "renewed"]


def test_grpc_trusts_the_authorities_of_a_directory(
    delivery: Delivery, make_spans: MakeSpans, authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "authorities"
    trusted.mkdir()
    (trusted / "README").write_text("no certificate")
    (trusted / "0a1b2c3d.0").write_bytes(Authority("another").pem)
    (trusted / "0a1b2c3d.1").write_bytes(authority.pem)
    certificate, key = authority.write_pair("proxy", tmp_path)
    with GrpcTlsReceiver(authority) as receiver:
        tls = Tls(str(trusted), certificate, key)
        assert deliver(delivery, make_spans(1), Destination(receiver.url, "grpc", tls=tls))
        assert receiver.clients == ["proxy"]


def test_grpc_verifies_where_verification_is_off_and_says_so_once(
    delivery: Delivery, make_spans: MakeSpans, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = authority.write_pair("proxy", tmp_path)
    tls = Tls(client_certificate_file=certificate, client_key_file=key, verify=False)
    with GrpcTlsReceiver(authority) as receiver, GrpcTlsReceiver(authority) as another:
        lanes = tuple(delivery.lane(Destination(each.url, "grpc", tls=tls)) for each in (receiver, another))
        delivery.accept(make_spans(1)[0], lanes)
        wait_for(lambda: [each.problem for each in delivery.stats().destinations] == ["grpc_unavailable"] * 2)
        assert receiver.clients == another.clients == []
    assert caplog.text.count("gRPC always verifies") == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_files_that_are_not_there_yet_are_named_and_cost_no_span(
    delivery: Delivery, make_spans: MakeSpans, authority: Authority, tmp_path: Path, protocol: Any
) -> None:
    destination = Destination("https://127.0.0.1:1", protocol, tls=Tls(str(tmp_path / "authority.pem")))
    delivery.accept(make_spans(1)[0], (delivery.lane(destination),))
    wait_for(lambda: delivery.stats().destinations[0].problem == "tls_files")
    assert delivery.stats().total.queued == 1
