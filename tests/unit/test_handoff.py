from __future__ import annotations

import time
from typing import Any

import pytest

from litellm_otel_plugin.request.handoff import MOST_CALLS, Handoffs


class Own:
    """A call as LiteLLM's logging object describes it."""

    def __init__(self, details: dict[str, Any], call_id: str | None = None, noted: float | None = None) -> None:
        self.details = details
        self.call_id = call_id
        self.noted = noted

    def is_described_by(self, details: object) -> bool:
        return details is self.details

    def first_handoff_at(self) -> float | None:
        return self.noted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Milliseconds, to be moved by hand."""
    now = [0]
    monkeypatch.setattr("litellm_otel_plugin.request.handoff.time.perf_counter_ns", lambda: now[0] * 1_000_000)
    return now


def _at(clock: list[int], milliseconds: int, handoffs: Handoffs, details: dict[str, Any]) -> None:
    clock[0] = milliseconds
    handoffs.begin(details, details.get("litellm_call_id"))


def test_retries_and_their_backoff_do_not_count_as_preprocessing(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    details = {"litellm_call_id": "a"}
    for milliseconds in (12, 5_000, 9_000):
        _at(clock, milliseconds, handoffs, details)
        handoffs.ended(details, ValueError())
    assert handoffs.preprocessing_ms("a") == 12.0
    assert handoffs.attempts("a") == 3


def test_no_provider_reached(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    assert handoffs.preprocessing_ms("a") is None
    assert handoffs.attempts("a") == 0


def test_a_guardrails_call_to_a_model_is_not_the_requests_own(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    own, judge = {"litellm_call_id": "a"}, {"litellm_call_id": "judge"}
    _at(clock, 5, handoffs, judge)
    handoffs.own = Own(own, "a")
    assert (handoffs.preprocessing_ms("a"), handoffs.attempts("a")) == (None, 0)
    _at(clock, 20, handoffs, own)
    assert (handoffs.preprocessing_ms("a"), handoffs.attempts("a")) == (20.0, 1)


def test_the_own_call_is_known_by_its_object_even_where_ids_are_equal(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    own, other = {"litellm_call_id": "chosen"}, {"litellm_call_id": "chosen"}
    handoffs.own = Own(own, "chosen")
    _at(clock, 5, handoffs, other)
    _at(clock, 9, handoffs, own)
    assert (handoffs.preprocessing_ms("chosen"), handoffs.attempts("chosen")) == (9.0, 1)


def test_where_the_object_is_unknown_the_answered_call_id_tells(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    _at(clock, 5, handoffs, {"litellm_call_id": "judge"})
    _at(clock, 9, handoffs, {"litellm_call_id": "a"})
    assert handoffs.preprocessing_ms("a") == 9.0
    assert handoffs.preprocessing_ms(None) == 5.0


def test_what_is_sent_unannounced_counts_where_nothing_was_announced(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    clock[0] = 8
    handoffs.sent_unannounced(is_attempt=True)
    clock[0] = 900
    handoffs.sent_unannounced(is_attempt=False)
    assert (handoffs.preprocessing_ms(None), handoffs.attempts(None)) == (8.0, 1)


def test_a_request_of_an_announced_call_is_not_unannounced(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    _at(clock, 5, handoffs, {"litellm_call_id": "judge"})
    handoffs.sent_unannounced(is_attempt=True)
    assert handoffs.preprocessing_ms("a") is None


@pytest.mark.parametrize(("after", "expected"), [(0.25, 250.0), (-0.001, None), (3_600.0, None), (-3_600.0, None)])
def test_litellms_own_note_is_believed_within_the_requests_life(after: float, expected: float | None) -> None:
    received_at = time.time() - 1.0
    handoffs = Handoffs(received_at=received_at, own=Own({}, "a", noted=received_at + after))
    measured = handoffs.preprocessing_ms("a")
    assert measured == (pytest.approx(expected, abs=0.01) if expected is not None else None)
    assert handoffs.attempts("a") == (0 if expected is None else 1)


def test_a_session_that_makes_call_after_call_is_bounded(clock: list[int]) -> None:
    handoffs = Handoffs(received_ns=0)
    kept = [{"litellm_call_id": str(n)} for n in range(MOST_CALLS * 10)]
    for details in kept:
        handoffs.begin(details, details["litellm_call_id"])
    assert len(handoffs._calls) == MOST_CALLS
    handoffs.forget()
    assert not handoffs._calls
