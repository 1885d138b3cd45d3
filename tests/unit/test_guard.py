from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from litellm_otel_plugin.guard import contained, guard

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _lenient() -> Iterator[None]:
    guard.strict = False
    guard.counts.clear()
    guard._reported_at.clear()
    yield
    guard.strict = True
    guard.counts.clear()


def test_under_test_our_own_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError), contained("dividing"):
        _ = 1 / 0


@pytest.mark.usefixtures("_lenient")
def test_a_failure_is_counted_said_once_a_minute_and_forgotten(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("litellm_otel_plugin.guard.time.monotonic", lambda: now[0])

    def fail() -> None:
        with contained("talking"):
            raise ValueError("the value is secret")

    with caplog.at_level(logging.ERROR, logger="litellm_otel_plugin"):
        for seconds in (0.0, 1.0, 59.9):
            now[0] = seconds
            fail()
        assert len(caplog.records) == 1
        now[0] = 60.0
        fail()
    assert guard.counts["talking"] == 4
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "internal error while talking (1 so far)",
        "internal error while talking (4 so far)",
    ]
    assert "secret" not in caplog.text
    assert "ValueError at unit/test_guard.py:" in caplog.text


@pytest.mark.usefixtures("_lenient")
def test_different_failures_are_reported_apart(caplog: pytest.LogCaptureFixture) -> None:
    for doing in ("one", "two"):
        with contained(doing):
            raise KeyError(doing)
    assert len(caplog.records) == 2


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize("passing", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_is_no_error_passes(passing: type[BaseException]) -> None:
    with pytest.raises(passing), contained("waiting"):
        raise passing
    assert not guard.counts
