"""Containment: our own failures are counted, said once a minute and kept away from the request.

``contained`` goes around telemetry lines only, never around the application's call. Under test it re-raises, so that
containment cannot hide a bug.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("litellm_otel_plugin")

# A broken feature fails on every request: one line a minute is enough to be seen and too little to fill a disk.
SECONDS_BETWEEN_REPORTS = 60.0


class Guard:
    """What failed inside our own code, and how often."""

    def __init__(self) -> None:
        self.strict = False
        self.counts: Counter[str] = Counter()
        self._reported_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def renew_lock(self) -> None:
        """In a forked child."""
        self._lock = threading.Lock()

    def failed(self, doing: str, error: BaseException) -> None:
        """Count a failure, and report it unless the same one was reported less than a minute ago."""
        with self._lock:
            self.counts[doing] += 1
            count = self.counts[doing]
            now = time.monotonic()
            last = self._reported_at.get(doing)
            if last is not None and now - last < SECONDS_BETWEEN_REPORTS:
                return
            self._reported_at[doing] = now
        log.error(
            "internal error while %s (%d so far): %s at %s. The request goes on without it.",
            doing,
            count,
            type(error).__name__,
            _where(error),
        )


guard = Guard()

if hasattr(os, "register_at_fork"):
    # A thread of the parent's can hold the lock while it forks; in the child nobody would ever let go of it.
    os.register_at_fork(after_in_child=guard.renew_lock)


class contained:  # noqa: N801 - reads as the statement it is: `with contained("…")`
    """Run telemetry lines such that an exception of theirs ends here.

    A class and not a generator: this runs several times in every request, and a generator costs three times as much.
    """

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # BaseException stays untouched: a cancelled task must stay cancelled.
        if not isinstance(error, Exception):
            return False
        guard.failed(self._doing, error)
        return not guard.strict


def _where(error: BaseException) -> str:
    """File and line of the failure: an exception's own text can hold a value, so it is never logged."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown line"
    last = frames[-1]
    return f"{'/'.join(last.filename.split('/')[-2:])}:{last.lineno}"
