"""OTLP/gRPC on the delivery's loop: one channel per host, credentials with each call. Needs the extra ``grpc``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from litellm_otel_plugin.delivery.certificates import UNREADABLE, UNREADABLE_CAUSE, authorities, last_changed
from litellm_otel_plugin.delivery.destination import grpc_target, uses_tls
from litellm_otel_plugin.delivery.outcome import Outcome, Verdict
from litellm_otel_plugin.delivery.traceparent import unsampled_traceparent

if TYPE_CHECKING:
    from litellm_otel_plugin.delivery.destination import Destination, Tls

log = logging.getLogger("litellm_otel_plugin")

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
STATUS_DETAILS = "grpc-status-details-bin"

# Channels stay open between batches; tenants of one vendor share one, and a host that is not among the last so many
# used opens its channel anew.
CHANNELS = 64

# The library keeps the time by itself; where it does not, a destination must not be lost with its call.
SECONDS_OF_GRACE = 1.0

# What the servers of Go, C++ and Java say of a message over their limit; the code alone also means "not now".
TOO_LARGE = "larger than max"

# A collector that is back is found soon: left to itself, a channel waits up to two minutes between two attempts.
FIRST_RECONNECT_MILLISECONDS = 500
LONGEST_RECONNECT_MILLISECONDS = 5_000

# What the OTLP specification calls retryable.
RETRYABLE = frozenset({
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
})  # fmt: skip
REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


class GrpcSender:
    """One client for every OTLP/gRPC destination. Made and used on the delivery's loop."""

    def __init__(self, user_agent: str) -> None:
        self._user_agent = user_agent
        # Each with the times of the files that it was opened with.
        self._channels: OrderedDict[tuple[str, bool, Tls], tuple[tuple[int, ...], grpc.aio.Channel]] = OrderedDict()
        self._busy: dict[tuple[str, bool, Tls], int] = {}
        self._said_verified = False

    async def send(self, destination: Destination, body: bytes, seconds: float) -> Outcome:
        """Export one batch."""
        secure = uses_tls(destination)
        key = (grpc_target(destination.endpoint), secure, destination.tls)
        self._busy[key] = self._busy.get(key, 0) + 1
        try:
            # Held here: one that is replaced meanwhile closes with the last of its calls.
            channel = self._channel(key)
            call: Any = channel.unary_unary(EXPORT)
            answer = await asyncio.wait_for(
                call(
                    body,
                    timeout=seconds,
                    metadata=(*destination.headers, ("traceparent", unsampled_traceparent())),
                    compression=_COMPRESSION[destination.compression],
                ),
                seconds + SECONDS_OF_GRACE,
            )
        except asyncio.TimeoutError:
            return Outcome(Verdict.RETRY, "timeout")
        except grpc.aio.AioRpcError as error:
            return _of_error(error)
        except UNREADABLE:
            return Outcome(Verdict.RETRY, UNREADABLE_CAUSE)
        except Exception as error:  # noqa: BLE001 - whatever a channel cannot be opened with
            return Outcome(Verdict.RETRY, type(error).__name__)
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]
        return Outcome(Verdict.SENT, rejected=_rejected_spans(answer))

    async def close(self) -> None:
        """Close every channel."""
        for _, channel in self._channels.values():
            await channel.close(grace=None)
        self._channels.clear()

    def _channel(self, key: tuple[str, bool, Tls]) -> grpc.aio.Channel:
        _, secure, tls = key
        of_files = last_changed(tls) if secure else ()
        known = self._channels.get(key)
        if known is None or known[0] != of_files:  # certificates are renewed while a proxy runs
            known = self._channels[key] = (of_files, self._open(key))
            self._forget_idle()
        self._channels.move_to_end(key)
        return known[1]

    def _open(self, key: tuple[str, bool, Tls]) -> grpc.aio.Channel:
        target, secure, tls = key
        options = (
            ("grpc.enable_http_proxy", 0),  # the environment's proxies are not this destination's
            ("grpc.enable_retries", 0),  # what is retried, and when, is the delivery's to say
            ("grpc.primary_user_agent", self._user_agent),
            ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MILLISECONDS),
            ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MILLISECONDS),
        )
        if secure:
            if not tls.verify:
                self._say_verified()
            return grpc.aio.secure_channel(target, _credentials(tls), options=options)
        return grpc.aio.insecure_channel(target, options=options)

    def _say_verified(self) -> None:
        # Not refused: most of these are a vendor's, whose certificate anybody can verify.
        if not self._said_verified:
            self._said_verified = True
            log.warning(
                "verification is switched off, but gRPC always verifies: a collector whose certificate no public "
                "authority has signed needs OTEL_EXPORTER_OTLP_CERTIFICATE"
            )

    def _forget_idle(self) -> None:
        for key in list(self._channels):
            if len(self._channels) <= CHANNELS:
                return
            if key not in self._busy:
                # A channel that nothing refers to any more closes its connections.
                del self._channels[key]


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=authorities(tls.ca_file),
        private_key=_content(tls.client_key_file),
        certificate_chain=_content(tls.client_certificate_file),
    )


def _content(file: str | None) -> bytes | None:
    return Path(file).read_bytes() if file else None


def _of_error(error: grpc.aio.AioRpcError) -> Outcome:
    code = error.code()
    cause = f"grpc_{code.name.lower()}"
    if code in REFUSED:
        return Outcome(Verdict.REFUSED, cause)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        asked = _retry_delay(error)
        if asked is None and TOO_LARGE in (error.details() or ""):
            return Outcome(Verdict.TOO_LARGE, cause)
        return Outcome(Verdict.RETRY, cause, retry_after_seconds=asked)
    if code in RETRYABLE:
        return Outcome(Verdict.RETRY, cause, retry_after_seconds=_retry_delay(error))
    return Outcome(Verdict.REJECTED, cause)


def _retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    for name, value in error.trailing_metadata() or ():
        if name != STATUS_DETAILS or not isinstance(value, bytes):
            continue
        with contextlib.suppress(DecodeError):
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Is(RetryInfo.DESCRIPTOR) and detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
    return None


def _rejected_spans(answer: bytes) -> int:
    try:
        return max(0, int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans))
    except (DecodeError, TypeError, ValueError):
        return 0
