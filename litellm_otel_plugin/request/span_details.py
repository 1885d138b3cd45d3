"""Name and attributes with which contrib's middleware starts the SERVER span, where contrib's own would not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.asgi import get_host_port_url_tuple
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_QUERY
from opentelemetry.util.http import sanitize_method

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.privacy import REDACTED, redact_query
from litellm_otel_plugin.request.server_span import span_name

if TYPE_CHECKING:
    from collections.abc import Mapping

# The two legacy names that repeat the query string.
LEGACY_URL = "http.url"
LEGACY_TARGET = "http.target"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class SpanDetails:
    """Name and attributes with which contrib starts the SERVER span; what it returns wins over contrib's own.

    There is no route in it: that is known once the router has matched, and stamped then.
    """

    def __init__(self, *, legacy_names: bool) -> None:
        self._legacy_names = legacy_names

    def __call__(self, scope: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer contrib's middleware, which would pass an exception of ours on to the client."""
        with contained("describing a request"):
            return self._describe(scope)
        # Contrib's own attributes stand then, and its query is the raw one.
        names = (URL_QUERY, LEGACY_URL, LEGACY_TARGET) if self._legacy_names else (URL_QUERY,)
        return span_name("GET", None), dict.fromkeys(names, REDACTED) if scope.get("query_string") else {}

    def _describe(self, scope: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        method = request_method(scope)
        attributes: dict[str, Any] = dict(_server(scope))
        if scope["type"] == "websocket":  # the handshake is a GET, which ASGI does not say
            attributes[HTTP_REQUEST_METHOD] = method
        query = scope.get("query_string") or b""
        if query:
            redacted = redact_query(query.decode("latin-1"))
            attributes[URL_QUERY] = redacted
            if self._legacy_names:
                attributes[LEGACY_URL] = f"{_url_without_query(scope)}?{redacted}"
                attributes[LEGACY_TARGET] = scope.get("path", "")
        return span_name(method, None), attributes


def request_method(scope: Mapping[str, Any]) -> str:
    """The request's method, ``_OTHER`` for the ones that HTTP does not know."""
    return sanitize_method(str(scope.get("method") or "GET").strip())


def _url_without_query(scope: Mapping[str, Any]) -> str:
    _host, _port, url = get_host_port_url_tuple(scope)  # type: ignore[no-untyped-call]  # contrib's
    return str(url)


def _server(scope: Mapping[str, Any]) -> Mapping[str, Any]:
    """``server.address`` and ``server.port`` as the client addressed them, else as the socket is bound.

    Contrib joins address and port into ``server.address``; the convention has them apart.
    """
    host = next((value for name, value in scope.get("headers") or () if name == b"host"), b"").decode("latin-1")
    name, port = _split_host(host)
    server = scope.get("server") or (None, None)
    address = name or server[0]
    if address is None:
        return {}
    number = port if name else server[1]
    if number is None:
        number = _DEFAULT_PORTS.get(str(scope.get("scheme", "http")))
    return {SERVER_ADDRESS: address} if number is None else {SERVER_ADDRESS: address, SERVER_PORT: number}


def _split_host(host: str) -> tuple[str, int | None]:
    """A Host header's name and port; an empty name where the header is no host."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket:
            return "", None
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    number = rest.removeprefix(":")
    # Longer than a port can be: int() of a megabyte of digits is work that a client could ask for.
    port_number = int(number) if number.isascii() and number.isdecimal() and len(number) <= len("65535") else None
    return name.lower(), port_number
