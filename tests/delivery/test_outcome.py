"""What an answer comes down to, and how long to wait after it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from litellm_otel_plugin.delivery.backoff import (
    FIRST_WAIT_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    LONGEST_WAIT_SECONDS,
    wait_seconds,
)
from litellm_otel_plugin.delivery.outcome import Verdict, of_response, seconds_of

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *((status, Verdict.SENT) for status in (200, 202, 204)),
        *((status, Verdict.RETRY) for status in (429, 502, 503, 504)),
        *((status, Verdict.REFUSED) for status in (401, 403)),
        (413, Verdict.TOO_LARGE),
        *((status, Verdict.REJECTED) for status in (301, 302, 307, 308, 400, 404, 405, 422, 500, 501, 505)),
    ],
)
def test_statuses(status: int, verdict: Verdict) -> None:
    assert of_response(status, {}, b"").verdict is verdict


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("9" * 400, float("9" * 18)), ("", None), ("-1", None), ("1.5", None),
        ("soon", None), ("\ud800", None), ("\u0667", None),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0), ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 12:00:30", 30.0), ("Sat, 99 Nov 2026 12:00:30 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251607038399.0), (None, None),
    ],
)  # fmt: skip
def test_every_form_of_retry_after(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text, NOW) == seconds


def _partial(rejected: int) -> bytes:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    return response.SerializeToString()


@pytest.mark.parametrize(
    ("body", "content_type", "rejected"),
    [
        (_partial(3), "application/x-protobuf", 3),
        (_partial(-3), "application/x-protobuf", 0),
        (b'{"partialSuccess": {"rejectedSpans": "3"}}', "application/json", 3),
        (b'{"partialSuccess": null}', "application/json", 0),
        (b"[" * 100_000, "application/json", 0),
        (b"\xff\xff\xff", "application/x-protobuf", 0),
        (b"<html>", "text/html", 0),
        (b"", "", 0),
    ],
)
def test_partial_success(body: bytes, content_type: str, rejected: int) -> None:
    outcome = of_response(200, {"content-type": content_type}, body)
    assert (outcome.verdict, outcome.rejected) == (Verdict.SENT, rejected)


def test_waits_double_up_to_a_bound_and_are_jittered() -> None:
    assert [wait_seconds(n, chance=lambda: 0.0) for n in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert wait_seconds(1_000_000, chance=lambda: 0.0) == LONGEST_WAIT_SECONDS
    assert wait_seconds(1, chance=lambda: 1.0) == FIRST_WAIT_SECONDS / 2
    assert len({wait_seconds(5) for _ in range(100)}) > 90


def test_what_the_backend_asks_for_is_kept_to_within_a_bound() -> None:
    for chance in (0.0, 1.0):
        assert 20.0 <= wait_seconds(1, 20.0, chance=lambda chance=chance: chance) <= 21.0  # type: ignore[misc]
    assert wait_seconds(1, 1e9, chance=lambda: 0.0) == LONGEST_RETRY_AFTER_SECONDS
    assert wait_seconds(3, 0.0, chance=lambda: 0.0) == 4.0  # it may be asked again at once, and has failed three times
