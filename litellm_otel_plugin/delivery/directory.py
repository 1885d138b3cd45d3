"""The destinations that come and go: tenants', by key, the most recently used of them."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from litellm_otel_plugin.delivery.destination import Destination
    from litellm_otel_plugin.delivery.engine import Delivery
    from litellm_otel_plugin.delivery.lane import Lane


class Directory:
    """Finds the way to a destination, and forgets those that were not used for longest.

    Nothing is shut down here: the delivery lets a forgotten destination go once its spans are delivered. Each step on
    the dictionary is one call that no other thread can come between, so there is no lock that a fork could leave held.
    """

    def __init__(self, delivery: Delivery, most: int) -> None:
        self._delivery = delivery
        self._most = most
        self._lanes: OrderedDict[Hashable, tuple[Lane, ...]] = OrderedDict()

    def lanes(self, key: Hashable, make: Callable[[], Destination]) -> tuple[Lane, ...]:
        """The way to a destination, as ``Delivery.accept`` takes it; raises what ``make`` raises."""
        known = self._lanes.get(key)
        if known is not None and not known[0].retiring:
            with contextlib.suppress(KeyError):  # another thread has just made room
                self._lanes.move_to_end(key)
            return known
        # Asking for it keeps the delivery from forgetting it: another key can have led to the same destination.
        lanes = self._lanes[key] = (self._delivery.lane(make()),)
        if len(self._lanes) > self._most:
            _, (evicted,) = self._lanes.popitem(last=False)
            if evicted is not lanes[0]:
                self._delivery.retire(evicted)
        return lanes
