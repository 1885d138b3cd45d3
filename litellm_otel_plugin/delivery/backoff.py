"""How long to wait before a destination is tried again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_WAIT_SECONDS = 1.0

# A recovered collector is found within half a minute; asking more often than that helps nobody while it is down.
LONGEST_WAIT_SECONDS = 30.0

# A backend that asks for an hour would cost an hour's spans: the queue holds ten minutes.
LONGEST_RETRY_AFTER_SECONDS = 120.0

# One probe a minute where credentials were refused: enough to notice that they work again.
PROBE_SECONDS = 60.0

# Up to this share of a wait is left to chance, so that a fleet of proxies does not come back as one.
JITTER = 0.5


def wait_seconds(
    failures: int, retry_after_seconds: float | None = None, chance: Callable[[], float] = random.random
) -> float:
    """The wait after this many failures in a row; what the backend asked for is the least, within a bound."""
    exponential = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 16))
    jittered = exponential * (1 - JITTER * chance())
    if retry_after_seconds is None:
        return jittered
    asked = min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
    return max(jittered, asked + min(asked, FIRST_WAIT_SECONDS) * JITTER * chance())
