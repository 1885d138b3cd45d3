"""What became of every span: accepted = sent + rejected + dropped + queued + in flight, per destination and in all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Reasons for which this side let a span go.
QUEUE_FULL = "queue_full"  # the destination's own bound
OVER_BUDGET = "over_budget"  # the memory for all destinations
INTAKE_FULL = "intake_full"  # the delivery's thread did not get to run
UNENCODABLE = "unencodable"
INTERNAL_ERROR = "internal_error"  # the delivery's own, between taking it off the intake and queueing it
SHUTDOWN = "shutdown"  # not delivered within the deadline
CLOSED = "closed"  # ended after the delivery had stopped
EVICTED = "evicted"  # of a tenant that made room for others, and whose backend could not be reached


@dataclass(frozen=True)
class Counts:
    """The account at one moment."""

    accepted: int = 0
    sent: int = 0
    rejected: int = 0
    queued: int = 0
    in_flight: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether every accepted span is somewhere."""
        settled = self.sent + self.rejected + sum(self.dropped.values())
        return self.accepted == settled + self.queued + self.in_flight

    @staticmethod
    def total(counts: Iterable[Counts]) -> Counts:
        """All of them together."""
        counts = list(counts)
        dropped: Counter[str] = Counter()
        for each in counts:
            dropped.update(each.dropped)
        return Counts(
            accepted=sum(each.accepted for each in counts),
            sent=sum(each.sent for each in counts),
            rejected=sum(each.rejected for each in counts),
            queued=sum(each.queued for each in counts),
            in_flight=sum(each.in_flight for each in counts),
            dropped=dict(dropped),
        )


@dataclass(frozen=True)
class DestinationStats:
    """One destination at one moment."""

    name: str
    protocol: str
    counts: Counts
    queued_bytes: int
    state: str
    problem: str


@dataclass(frozen=True)
class DeliveryStats:
    """The whole delivery at one moment. ``total`` counts destinations that are gone, too."""

    destinations: tuple[DestinationStats, ...]
    total: Counts
    held_bytes: int

    @property
    def balanced(self) -> bool:
        """Whether every account is, and the total too."""
        return self.total.balanced and all(each.counts.balanced for each in self.destinations)
