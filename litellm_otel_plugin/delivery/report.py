"""What the log says of deliveries that fail: one line a minute for all of them, and one when they work again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("litellm_otel_plugin")

# A collector that is down fails on every batch: one line a minute is enough to be seen and too little to fill a disk.
SECONDS_BETWEEN_LINES = 60.0

# The first line waits this long for other destinations that fail with it.
SECONDS_TO_THE_FIRST_LINE = 1.0

# Of ten thousand tenants whose backends are down, the first few are as good as all.
NAMED_DESTINATIONS = 5


def say_failing(failing: Sequence[str], waiting: int, dropped: int) -> None:
    """Name the destinations that take no spans now, and what waits for them."""
    lost = f"; {dropped} of theirs were let go so far" if dropped else ""
    log.warning("spans are not reaching %s. %d wait%s", _named(failing), waiting, lost)


def say_rejected(rejecting: Sequence[str], rejected: int) -> None:
    """Name the destinations that refuse spans for good."""
    log.warning("%d spans were rejected for good by %s", rejected, _named(rejecting))


def say_recovered() -> None:
    """Nothing is failing any more."""
    log.info("spans reach every destination again")


def say_undelivered(lost: Sequence[tuple[str, int]], seconds: float) -> None:
    """What was not delivered when the proxy stopped, per destination."""
    named = lost[:NAMED_DESTINATIONS]
    for name, spans in named:
        # Rounded: what came before the flush has taken its milliseconds of the deadline that the operator set.
        log.warning("%d spans for %s were not delivered within %g s of shutdown", spans, name, round(seconds, 1))
    rest = lost[NAMED_DESTINATIONS:]
    if rest:
        log.warning("nor were %d spans for %d other destinations", sum(spans for _, spans in rest), len(rest))


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED_DESTINATIONS
    return ", ".join(names[:NAMED_DESTINATIONS]) + (f" and {more} more" if more > 0 else "")
