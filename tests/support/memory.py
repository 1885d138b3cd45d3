"""What is still in memory after something was done many times."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING = 64
"""Bytes for each time. The smallest object with a place in a map is more; what other threads of the test process take
meanwhile, spread over thousands of times, is less."""


def kept_each_time(do: Callable[[int], None], times: int) -> float:
    """Bytes that stay for each time. It is done a few times first: what is made once does not count."""

    def in_use_after(count: int) -> int:
        do(count)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = in_use_after(times // 10)
        return (in_use_after(times) - before) / times
    finally:
        tracemalloc.stop()
