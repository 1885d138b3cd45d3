"""What became of one batch, and what that means for the next."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the OTLP specification calls retryable; every other 4xx and 5xx must not be retried.
RETRYABLE_STATUSES = frozenset({
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
})  # fmt: skip
REFUSED_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
FIRST_UNSUCCESSFUL_STATUS = 300


class Verdict(Enum):
    """What a backend's answer comes down to."""

    SENT = "sent"
    RETRY = "retry"  # not now
    REJECTED = "rejected"  # not these spans, whenever they come
    TOO_LARGE = "too large"
    REFUSED = "refused"  # not with these credentials


@dataclass(frozen=True)
class Outcome:
    """A verdict, its cause in a word that holds no value, and what came with it."""

    verdict: Verdict
    cause: str = ""
    rejected: int = 0
    retry_after_seconds: float | None = None


SENT = Outcome(Verdict.SENT)


def of_response(status: int, headers: Mapping[str, str], body: bytes, now: datetime | None = None) -> Outcome:
    """The outcome of an OTLP/HTTP export."""
    cause = f"http_{status}"
    if status < FIRST_UNSUCCESSFUL_STATUS:
        return Outcome(Verdict.SENT, rejected=_rejected_spans(body, headers.get("content-type", "")))
    if status in RETRYABLE_STATUSES:
        return Outcome(Verdict.RETRY, cause, retry_after_seconds=seconds_of(headers.get("retry-after"), now))
    if status in REFUSED_STATUSES:
        return Outcome(Verdict.REFUSED, cause)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Outcome(Verdict.TOO_LARGE, cause)
    # A redirect is among these: credentials and spans are for the host that was configured, and no other.
    return Outcome(Verdict.REJECTED, cause)


def seconds_of(retry_after: str | None, now: datetime | None = None) -> float | None:
    """A ``Retry-After`` in either form, ``None`` where it says nothing that can be understood."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:18])  # more digits than any wait has; int() would refuse thousands of them
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    try:
        return max(0.0, (instant - (now or datetime.now(timezone.utc))).total_seconds())
    except OverflowError:
        return None


def _rejected_spans(body: bytes, content_type: str) -> int:
    """How many spans a partial success says were not taken. An answer that cannot be read says none."""
    if not body:
        return 0
    try:
        if "json" in content_type:
            return max(0, int(json.loads(body).get("partialSuccess", {}).get("rejectedSpans", 0)))
        return max(0, int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans))
    except (DecodeError, ValueError, TypeError, AttributeError, RecursionError):
        return 0
