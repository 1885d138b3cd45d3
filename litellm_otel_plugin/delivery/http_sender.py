"""OTLP/HTTP, protobuf or JSON, for all destinations through one pooled client."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import ssl
import time
import zlib
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import certifi
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from litellm_otel_plugin.delivery.certificates import UNREADABLE, UNREADABLE_CAUSE, last_changed
from litellm_otel_plugin.delivery.destination import uses_tls
from litellm_otel_plugin.delivery.outcome import Outcome, Verdict, of_response
from litellm_otel_plugin.delivery.threads import DaemonThreads
from litellm_otel_plugin.delivery.traceparent import unsampled_traceparent

if TYPE_CHECKING:
    from litellm_otel_plugin.delivery.destination import Destination, Tls

CONTENT_TYPES = {"http/protobuf": "application/x-protobuf", "http/json": "application/json"}

# The default delay between two batches is 5 s: a connection outlives two of them, and idle ones go soon after.
KEEP_ALIVE_SECONDS = 15.0

# Hosts whose connections are kept open between batches. Most tenants share a host; where each has its own, thousands
# of idle sockets would cost the proxy its descriptors.
HOSTS_KEPT_ALIVE = 64

# An answer is a few bytes; of an error page, enough to be polite to the connection.
LARGEST_ANSWER_BYTES = 64 * 1024

DNS_SECONDS = 60

# From here on aiohttp wants a body that it can send in pieces.
LARGE_BODY_BYTES = 1024 * 1024

# Each look-up that hangs holds a thread; more at a time than this only happens where name resolution is down. Those for
# the operator's destinations have threads of their own.
LOOKUP_THREADS = 8
_for_reserved: ContextVar[bool] = ContextVar("for_reserved", default=True)

GZIP_LEVEL = 1  # spans shrink to a sixteenth at the fastest level already; a higher one costs three times as much


class HttpSender:
    """One client for every OTLP/HTTP destination. Made and used on the delivery's loop."""

    def __init__(self, user_agent: str) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # how many are open at once is the delivery's to say, by what it knows of a destination
                ttl_dns_cache=DNS_SECONDS,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                resolver=_Resolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # destinations on one host are different accounts
            headers={"User-Agent": user_agent},
            trust_env=False,
            auto_decompress=False,
        )
        self._tls: dict[Tls, tuple[tuple[int, ...], ssl.SSLContext]] = {}
        self._urls: dict[str, yarl.URL] = {}
        self._kept_alive: dict[str, float] = {}

    async def send(self, destination: Destination, body: bytes, seconds: float) -> Outcome:
        """Post one batch."""
        headers = dict(destination.headers)
        headers["Content-Type"] = CONTENT_TYPES[destination.protocol]
        headers["Accept-Encoding"] = "identity"
        headers["traceparent"] = unsampled_traceparent()
        if destination.compression != "none":
            headers["Content-Encoding"] = destination.compression
            body = compress(body, destination.compression)
        if not self._may_be_kept_alive(destination):
            headers["Connection"] = "close"
        _for_reserved.set(destination.reserved)
        try:
            return await self._post(destination, body, headers, seconds)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            # A connection that the other side closed just as it was used again: not worth a pause. Once.
            return await self._post_or_say_why(destination, body, headers, seconds)
        except Exception as error:  # noqa: BLE001 - whatever a connection can come to is an outcome
            return _failure(error)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def _post_or_say_why(
        self, destination: Destination, body: bytes, headers: dict[str, str], seconds: float
    ) -> Outcome:
        try:
            return await self._post(destination, body, headers, seconds)
        except Exception as error:  # noqa: BLE001 - as above
            return _failure(error)

    async def _post(self, destination: Destination, body: bytes, headers: dict[str, str], seconds: float) -> Outcome:
        async with self._session.post(
            self._url(destination.endpoint),
            data=body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
            ssl=self._context(destination) if uses_tls(destination) else True,
            proxy=destination.proxy,
        ) as response:
            answer = await _beginning(response)
            return of_response(response.status, response.headers, answer)

    def _url(self, endpoint: str) -> yarl.URL:
        url = self._urls.get(endpoint)
        if url is None:
            if len(self._urls) > HOSTS_KEPT_ALIVE * 16:
                self._urls.clear()
            url = self._urls[endpoint] = yarl.URL(endpoint, encoded=True)
        return url

    def _context(self, destination: Destination) -> ssl.SSLContext:
        tls = destination.tls
        known = self._tls.get(tls)
        of_files = last_changed(tls)
        if known is None or known[0] != of_files:  # certificates are renewed while a proxy runs
            known = self._tls[tls] = (of_files, _ssl_context(tls))
        return known[1]

    def _may_be_kept_alive(self, destination: Destination) -> bool:
        if destination.reserved:
            return True
        origin = str(self._url(destination.endpoint).origin())
        now = time.monotonic()
        if origin not in self._kept_alive and len(self._kept_alive) >= HOSTS_KEPT_ALIVE:
            recent = {each: used for each, used in self._kept_alive.items() if now - used < KEEP_ALIVE_SECONDS}
            self._kept_alive = recent
            if len(recent) >= HOSTS_KEPT_ALIVE:
                return False
        self._kept_alive[origin] = now
        return True


class _Resolver(AbstractResolver):
    """Looks names up in threads that nobody waits for at exit."""

    def __init__(self) -> None:
        self._threads = {reserved: DaemonThreads("litellm-otel-lookup", LOOKUP_THREADS) for reserved in (True, False)}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name."""
        threads = self._threads[_for_reserved.get()]
        return await threads.run(lambda: _look_up(host, port, family))

    async def close(self) -> None:
        """Nothing is held."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host, host=str(address[0]), port=int(address[1]), family=family_found, proto=proto, flags=numeric
        )
        for family_found, _, proto, _, address in found
    ]


def compress(body: bytes, compression: str) -> bytes:
    """The body as ``OTEL_EXPORTER_OTLP_COMPRESSION`` says."""
    if compression == "gzip":
        return gzip.compress(body, GZIP_LEVEL, mtime=0)
    return zlib.compress(body, GZIP_LEVEL)


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    answer = b""
    while not response.content.at_eof():
        answer += await response.content.readany()
        if len(answer) >= LARGEST_ANSWER_BYTES:
            response.close()  # the rest is not read, so the connection cannot be used again
            break
    return answer


# In this order: some are kinds of the later ones.
_FAILURES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((asyncio.TimeoutError, TimeoutError), "timeout"),
    ((aiohttp.ClientConnectorDNSError,), "name_not_found"),
    ((aiohttp.ClientSSLError, ssl.SSLError), "tls"),
    (UNREADABLE, UNREADABLE_CAUSE),
    ((aiohttp.ClientConnectorError,), "connection_refused"),
    ((aiohttp.ClientError, OSError), "connection_lost"),
)


def _failure(error: Exception) -> Outcome:
    """A connection that came to nothing: tried again, and named without its text, which can show an address."""
    cause = next((name for kinds, name in _FAILURES if isinstance(error, kinds)), type(error).__name__)
    return Outcome(Verdict.RETRY, cause)


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    context = _that_verifies(tls.ca_file) if tls.verify else _that_trusts_anybody()
    if tls.client_certificate_file:
        context.load_cert_chain(tls.client_certificate_file, tls.client_key_file)
    return context


def _that_verifies(authorities: str | None) -> ssl.SSLContext:
    if authorities is not None and Path(authorities).is_dir():
        return ssl.create_default_context(capath=authorities)
    context = ssl.create_default_context(cafile=authorities)
    if authorities is None:
        # Beside the system's own authorities, where there are any: slim images have none.
        context.load_verify_locations(cafile=certifi.where())
    return context


def _that_trusts_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
