"""A clock that is moved by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

NANOSECONDS_PER_MILLISECOND = 1_000_000
MODULES_OF_A_REQUEST = ("attempts", "handoff", "layer", "open_calls")


class Clock:
    """Stands where a module has ``time``; both its clocks move together."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def perf_counter_ns(self) -> int:
        return self.now_ms * NANOSECONDS_PER_MILLISECOND

    def time(self) -> float:
        return 1_700_000_000 + self.now_ms / 1_000

    def passes(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    def rules(self, patch: pytest.MonkeyPatch) -> None:
        """Every module that looks at the time of a request looks here."""
        for name in MODULES_OF_A_REQUEST:
            patch.setattr(f"litellm_otel_plugin.request.{name}.time", self)
