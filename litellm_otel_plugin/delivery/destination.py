"""One place that spans are sent to: where, how, with whose credentials, and what it gets to see.

A destination is checked when it is made: what cannot be sent, or must not be, is refused with an error that names the
field and never the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

from litellm_otel_plugin.delivery.view import WHOLE, View
from litellm_otel_plugin.privacy import printable_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

Protocol = Literal["http/protobuf", "http/json", "grpc", "exporter"]
Compression = Literal["none", "gzip", "deflate"]
Pairs = tuple[tuple[str, str], ...]

# The SDK's own default for one export.
TIMEOUT_SECONDS = 10.0

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_METADATA_NAME = re.compile(r"[0-9a-z_.\-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_URL_CHARACTERS = re.compile(r"[\x21-\x7e]+")

# They decide where a message ends and who it is for: set by the client alone.
FRAMING = frozenset({"connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"})


class DestinationError(ValueError):
    """A destination that cannot be used. The text names the field at fault and shows no value."""


@dataclass(frozen=True)
class Tls:
    """Whom to trust and who we are. Only what was configured for this destination."""

    ca_file: str | None = None
    client_certificate_file: str | None = None
    client_key_file: str | None = field(default=None, repr=False)
    # For HTTP alone: gRPC cannot leave a certificate unverified.
    verify: bool = True
    # For a gRPC endpoint without a scheme: no encryption, as `OTEL_EXPORTER_OTLP_INSECURE` says.
    insecure: bool = False


@dataclass(frozen=True, repr=False, slots=True)
class Destination:
    """Where spans go. Nothing ambient is added: no variable, ``.netrc`` or proxy but what is given here."""

    endpoint: str
    protocol: Protocol = "http/protobuf"
    headers: Pairs | Mapping[str, str] = ()
    name: str = ""
    view: View = WHOLE
    # Where a span's own resource has a name too, it wins over a default and loses to an override.
    resource_defaults: Pairs | Mapping[str, str] = ()
    resource_overrides: Pairs | Mapping[str, str] = ()
    # What is still to be done to it after that. To be told apart from another one by equality.
    resource_change: Callable[[Resource], Resource] | None = None
    tls: Tls = Tls()
    compression: Compression = "none"
    timeout_seconds: float = TIMEOUT_SECONDS
    proxy: str | None = None
    # Half of the memory for waiting spans is kept for destinations with a reservation, and shared by the others.
    reserved: bool = True
    exporter: SpanExporter | None = None

    def __post_init__(self) -> None:
        """Check every field, once, here: what is made can be sent to."""
        headers = _pairs(self.headers)
        if self.protocol == "grpc":
            headers = tuple((name.lower(), value) for name, value in headers)
        _set(self, "headers", headers)
        _set(self, "resource_defaults", _pairs(self.resource_defaults))
        _set(self, "resource_overrides", _pairs(self.resource_overrides))
        if self.protocol == "exporter":
            if self.exporter is None:
                raise DestinationError("exporter: is missing")
        else:
            _check_endpoint("endpoint", self.endpoint, self.protocol)
            _check_headers(headers, self.protocol)
        if self.proxy is not None:
            check_proxy(self.proxy)
        if not self.name:
            _set(self, "name", printable_endpoint(self.endpoint))

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two destinations the same one."""
        if self.exporter is not None:
            return (id(self.exporter), self.view)
        return (
            self.endpoint, self.protocol, self.headers, self.resource_defaults, self.resource_overrides,
            self.resource_change, self.view, self.reserved, self.tls, self.proxy,
        )  # fmt: skip

    def __repr__(self) -> str:
        """Without credentials: this ends up in logs."""
        return f"<Destination {self.name} {self.protocol}>"


def grpc_target(endpoint: str) -> str:
    """Host and port, as a channel is opened to them; the path of a URL says nothing to gRPC."""
    return _split(endpoint, "grpc").netloc


def uses_tls(destination: Destination) -> bool:
    """Whether the connection is encrypted. A gRPC endpoint without a scheme is unless it is said otherwise."""
    scheme = _split(destination.endpoint, destination.protocol).scheme
    return scheme == "https" or (scheme != "http" and not destination.tls.insecure)


def _set(destination: Destination, name: str, value: object) -> None:
    object.__setattr__(destination, name, value)


def _pairs(given: Pairs | Mapping[str, str]) -> Pairs:
    items: Iterable[tuple[str, str]] = given.items() if hasattr(given, "items") else given
    return tuple(sorted((name, value) for name, value in items))


def _split(endpoint: str, protocol: Protocol) -> SplitResult:
    return urlsplit(endpoint if "://" in endpoint or protocol != "grpc" else f"//{endpoint}")


def _check_endpoint(field_name: str, endpoint: object, protocol: Protocol) -> None:
    if not isinstance(endpoint, str) or not _URL_CHARACTERS.fullmatch(endpoint) or "\\" in endpoint:
        raise DestinationError(f"{field_name}: has a character that a URL cannot have, or is empty")
    try:
        url = _split(endpoint, protocol)
        host, port = url.hostname, url.port
    except ValueError:
        raise DestinationError(f"{field_name}: is no URL") from None
    schemes = ("http", "https", "grpc", "") if protocol == "grpc" else ("http", "https")
    if url.scheme not in schemes:
        raise DestinationError(f"{field_name}: should start with http:// or https://")
    if not host or port == 0:
        raise DestinationError(f"{field_name}: names no host and port")
    if "@" in url.netloc and field_name != "proxy":
        raise DestinationError(f"{field_name}: has a user name in it; credentials are headers")
    if url.fragment:
        raise DestinationError(f"{field_name}: has a fragment")


def check_proxy(proxy: str) -> None:
    """Refuse what is no HTTP proxy's URL. A user name and password may be in it: there is nowhere else for them."""
    _check_endpoint("proxy", proxy, "http/protobuf")


def _check_headers(headers: Pairs, protocol: Protocol) -> None:
    names = set()
    for name, value in headers:
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise DestinationError("headers: a name has a character that a header's name cannot have")
        if protocol == "grpc" and (
            not _METADATA_NAME.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin")
        ):
            raise DestinationError(f"headers.{name}: is no name that gRPC allows")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value) or value != value.strip():
            raise DestinationError(f"headers.{name}: the value has a character that a header cannot carry")
        if name.lower() in FRAMING:
            raise DestinationError(f"headers.{name}: is for the client to set")
        if name.lower() in names:
            raise DestinationError(f"headers.{name}: is there twice")
        names.add(name.lower())
