"""Keys that are tenants', and what stands where tenants' and operators' backends would."""

from __future__ import annotations

import base64
import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support import patience
from tests.support.receiver import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import Self

    from tests.support.receiver import ReceivedSpan

AUTHENTICATE = "tests.support.tenants.authenticate"


# --- in the proxy ----------------------------------------------------------------------------------------------------


async def authenticate(request: object, api_key: str) -> Any:
    """LiteLLM's ``custom_auth``: a key describes itself, and so needs no database."""
    from litellm.proxy._types import UserAPIKeyAuth  # noqa: PLC0415 - the tests' own process needs no LiteLLM

    described = json.loads(base64.urlsafe_b64decode(api_key))
    return UserAPIKeyAuth(api_key=f"key-of-{described['name']}", **described["fields"])


# --- keys ------------------------------------------------------------------------------------------------------------


def key(name: str, **fields: Any) -> str:
    """The bearer of a key with these fields of LiteLLM's ``UserAPIKeyAuth``."""
    return base64.urlsafe_b64encode(json.dumps({"name": name, "fields": fields}).encode()).decode()


@dataclass(frozen=True)
class Tenant:
    """A tenant with an account of its own at a backend, and the headers that an export to it has to carry."""

    name: str
    callback: str
    variables: Mapping[str, str]
    headers: Mapping[str, str]

    def key(self, *, on: str = "success_and_failure", metadata: Mapping[str, Any] | None = None, **more: str) -> str:
        """A bearer whose requests are this tenant's."""
        variables = {**self.variables, **more}
        entry = {"callback_name": self.callback, "callback_type": on, "callback_vars": variables}
        return key(self.name, metadata={"logging": [entry], **(metadata or {})})


def basic(user: str, password: str) -> str:
    """The value of an ``Authorization`` header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def langfuse_headers(public_key: str, secret_key: str) -> dict[str, str]:
    return {"authorization": basic(public_key, secret_key), "x-langfuse-ingestion-version": "4"}


def langfuse(name: str, host: str) -> Tenant:
    pair = (f"pk-{name}", f"sk-{name}")
    variables = {"langfuse_public_key": pair[0], "langfuse_secret_key": pair[1], "langfuse_host": host}
    return Tenant(name, "langfuse_otel", variables, langfuse_headers(*pair))


def arize(name: str, *, api_key: str = "") -> Tenant:
    """The operator says where Arize is; the tenant has a space there."""
    api_key = api_key or f"arize-{name}"
    variables = {"arize_space_key": f"space-{name}", "arize_api_key": api_key, "arize_otlp_protocol": "http/protobuf"}
    return Tenant(name, "arize", variables, {"arize-space-id": f"space-{name}", "api_key": api_key})


def weave(name: str) -> Tenant:
    """The operator says where Weave is; the tenant has a project there."""
    variables = {"wandb_api_key": f"wandb-{name}", "weave_project_id": f"entity/{name}"}
    headers = {"authorization": basic("api", f"wandb-{name}"), "project_id": f"entity/{name}"}
    return Tenant(name, "weave_otel", variables, headers)


# --- backends --------------------------------------------------------------------------------------------------------

# What every export has, whoever it is for.
_TRANSPORT = frozenset({
    "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "host",
    "traceparent", "user-agent",
})  # fmt: skip


@dataclass(frozen=True)
class Export:
    """One request that a backend was sent."""

    path: str
    headers: dict[str, str]
    spans: tuple[ReceivedSpan, ...]
    showed_certificate: bool

    @property
    def own_headers(self) -> dict[str, str]:
        """Those that make it an export to one account."""
        return {name: value for name, value in self.headers.items() if name not in _TRANSPORT}

    def says(self, secret: str) -> bool:
        """Whether a secret is anywhere in it."""
        return secret in repr((self.path, self.headers, self.spans))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    backend: Backend

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        tls = self.backend.tls
        if tls is not None:  # the handshake is the first read's, on the connection's own thread
            connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A proxy that stops leaves connections behind."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        self.server.backend.take(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
        """Say nothing."""


class Backend:
    """Takes traces at any path over HTTP/1.1, and keeps what came with which headers.

    The first part of a path is how it answers: ``/hung`` not while it is ``hanging``, ``/slow`` late, ``/elsewhere``
    with a redirect.
    """

    def __init__(
        self, *, elsewhere: str = "", seconds_when_slow: float = 1.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.tls = tls
        self._released = threading.Event()
        self._elsewhere = elsewhere
        self._seconds_when_slow = seconds_when_slow
        self._exports: list[Export] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.backend = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http{'s' if tls else ''}://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """What is sent to ``/hung`` in this block is answered at its end."""
        self._released.clear()
        try:
            yield
        finally:
            self._released.set()

    def take(self, request: _Handler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        spans = tuple(decode(ExportTraceServiceRequest.FromString(body)))
        names = {name.lower() for name in request.headers}
        headers = {name: ", ".join(request.headers.get_all(name, [])) for name in names}
        connection = request.connection
        showed_certificate = isinstance(connection, ssl.SSLSocket) and bool(connection.getpeercert())
        with self._lock:
            self._exports.append(Export(request.path, headers, spans, showed_certificate))
        behaviour = request.path.split("/")[1]
        if behaviour == "hung":
            self._released.wait()
        if behaviour == "slow":
            time.sleep(self._seconds_when_slow)
        answer = ExportTraceServiceResponse().SerializeToString()
        request.send_response(302 if behaviour == "elsewhere" else 200)
        if behaviour == "elsewhere":
            request.send_header("location", self._elsewhere)
        request.send_header("content-type", "application/x-protobuf")
        request.send_header("content-length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    @property
    def exports(self) -> list[Export]:
        with self._lock:
            return list(self._exports)

    def exports_with(self, headers: Mapping[str, str]) -> list[Export]:
        """What came with exactly these headers."""
        return [export for export in self.exports if export.own_headers == headers]

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of a trace, in the order in which they started."""
        spans = [span for export in self.exports for span in export.spans if span.trace_id == trace_id]
        return sorted(spans, key=lambda span: span.start_ns)

    def wait_for(
        self, met: Callable[[list[ReceivedSpan]], bool], seconds: float = patience.SECONDS
    ) -> list[ReceivedSpan]:
        """Every span that has come, once ``met`` holds for them."""
        deadline = time.monotonic() + seconds
        while True:
            spans = [span for export in self.exports for span in export.spans]
            if met(spans):
                return spans
            if time.monotonic() > deadline:
                raise AssertionError(f"not met in {seconds} s by: {[(span.trace_id, span.name) for span in spans]}")
            time.sleep(0.05)


class Trap:
    """Listens where nobody is to connect, on IPv4 and IPv6, and keeps what whoever does says first."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    self.heard.append(connection.recv(4096))
                except OSError:
                    self.heard.append(b"")


@dataclass(frozen=True)
class Identity:
    """A certificate for 127.0.0.1 that vouches for itself, in files."""

    certificate: Path
    private_key: Path

    def server(self) -> ssl.SSLContext:
        """TLS with this identity, which asks a client for its certificate and takes none as well."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.private_key)
        context.load_verify_locations(self.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


def make_identity(folder: Path) -> Identity:
    from cryptography import x509  # noqa: PLC0415 - one test's alone
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as above

    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    identity = Identity(folder / "certificate.pem", folder / "key.pem")
    identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    identity.private_key.write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return identity


def threads_of(process_id: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{process_id}/task").iterdir()))
