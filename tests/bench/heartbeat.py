"""What tracing does to the proxy's event loop while the collector fails, against LiteLLM's own v2 tracing.

    python -m tests.bench.heartbeat [seconds]

A task in each proxy's loop sleeps for a millisecond, over and over: how much later it wakes is how long a request would
have waited. Both proxies are asked at the same time, 20 times a second each, half a turn apart.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.support import PRODUCTION, SIDES, collector, show
from tests.support.config import config
from tests.support.ports import free_port
from tests.support.proxy import Proxy

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # no look-up on the internet

from litellm.integrations.custom_logger import CustomLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEARTBEAT_FILE = "BENCH_HEARTBEAT_FILE"
SECONDS_BETWEEN_BEATS = 0.001
BEATS_AT_ONCE = 1_000
REQUESTS_PER_SECOND = 20
WARM_SECONDS = 6.0
MOST = 1.2

FAULTS = ("ok", "refuses", "hang", "503")


class Heartbeat(CustomLogger):
    """Beats from the first request on, and writes (when, how much later than asked for) to a file."""

    def __init__(self) -> None:
        super().__init__()
        self._beating: asyncio.Task[None] | None = None

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> None:
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat(Path(os.environ[HEARTBEAT_FILE])))

    @staticmethod
    async def _beat(file: Path) -> None:
        beats = array.array("d")
        while True:
            before = time.monotonic()
            await asyncio.sleep(SECONDS_BETWEEN_BEATS)
            now = time.monotonic()
            beats.extend((now, now - before))
            if len(beats) >= 2 * BEATS_AT_ONCE:
                with file.open("ab") as opened:
                    beats.tofile(opened)
                del beats[:]


heartbeat = Heartbeat()


def beats_of(file: Path, since: float) -> list[float]:
    beats = array.array("d")
    beats.frombytes(file.read_bytes())
    return sorted(gap * 1_000 for when, gap in zip(beats[::2], beats[1::2], strict=True) if when >= since)


def ask(proxies: Sequence[Proxy], seconds: float) -> None:
    """Each proxy, so many times a second, in turn."""
    turns = int(seconds * REQUESTS_PER_SECOND * len(proxies))
    began = time.monotonic()
    for number, proxy in zip(range(turns), itertools.cycle(proxies)):
        due = began + number / REQUESTS_PER_SECOND / len(proxies)
        time.sleep(max(0.0, due - time.monotonic()))
        assert proxy.chat(model="canned").status_code == 200


def gaps(fault: str, seconds: float) -> dict[str, list[float]]:
    """The sorted gaps, in milliseconds, of each side under one fault."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heartbeat-")))
        proxies, files = {}, {}
        for number, (name, (callback, environment)) in enumerate(SIDES.items()):
            url = f"http://127.0.0.1:{free_port()}" if fault == "refuses" else stack.enter_context(collector(fault))
            files[name] = folder / str(number)
            proxies[name] = Proxy(
                config(url, callback, "tests.bench.heartbeat.heartbeat"),
                {"OTEL_EXPORTER_OTLP_ENDPOINT": url, HEARTBEAT_FILE: str(files[name]), **PRODUCTION, **environment},
            )
            # A proxy that cannot deliver takes its time to stop, and nothing here asks about that.
            stack.callback(proxies[name].kill)
        both = list(proxies.values())
        ask(both, WARM_SECONDS)
        since = time.monotonic()
        ask(both, seconds)
        time.sleep(2 * BEATS_AT_ONCE * SECONDS_BETWEEN_BEATS)
        return {name: beats_of(file, since) for name, file in files.items()}


def percentile(share: float) -> Callable[[Sequence[float]], float]:
    return lambda ordered: ordered[min(len(ordered) - 1, int(len(ordered) * share))]


FIGURES: dict[str, Callable[[Sequence[float]], float]] = {
    "p50": statistics.median,
    "p99": percentile(0.99),
    "p99.9": percentile(0.999),
    "max": max,
}


def main(seconds: float) -> None:
    for fault in FAULTS:
        measured = gaps(fault, seconds)
        ours, theirs = measured["plugin"], measured["v2 alone"]
        details = ", ".join(
            f"{name} {figure(ours) / figure(theirs):.2f} ({figure(ours):.1f} / {figure(theirs):.1f} ms)"
            for name, figure in FIGURES.items()
        )
        p999 = FIGURES["p99.9"]
        show(f"gap of the loop, p99.9, collector {fault}, plugin / v2", p999(ours) / p999(theirs), MOST, details)


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 20.0)
