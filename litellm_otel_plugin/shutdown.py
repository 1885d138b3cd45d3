"""The flush when the proxy stops: LiteLLM's queued callbacks first, then every provider, under one deadline.

It runs inside the lifespan, after the last request has been answered: uvicorn raises the signal again once the
lifespan is over, so nothing that is registered with ``atexit`` would run.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace

from litellm_otel_plugin import upstream
from litellm_otel_plugin.backends.accounts import processors_beside_the_delivery
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.seams import SeamMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_otel_plugin.delivery import Delivery
    from litellm_otel_plugin.request.open_calls import OpenCalls

log = logging.getLogger("litellm_otel_plugin")

# LiteLLM's callbacks close the spans that are about to be flushed, but one that hangs (they may talk to a database)
# must not take the whole deadline from the spans that are there already.
SHARE_OF_CALLBACKS = 0.5
MILLISECONDS_PER_SECOND = 1_000

# Past the deadline, the delivery stops and counts what is left: that takes milliseconds, and is worth waiting for.
SECONDS_TO_COUNT = 1.0


async def flush_everything(
    deadline_seconds: float, delivery: Delivery | None = None, open_calls: OpenCalls | None = None
) -> None:
    """Deliver what is queued, for at most ``deadline_seconds``, and say so where that was not enough."""
    with contained("flushing at shutdown"):
        await _flush(deadline_seconds, delivery, open_calls)


async def _flush(deadline_seconds: float, delivery: Delivery | None, open_calls: OpenCalls | None) -> None:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + deadline_seconds
    with contained("waiting for LiteLLM's callbacks"):
        await _drain_callbacks(deadline_seconds * SHARE_OF_CALLBACKS)
    if open_calls is not None:
        with contained("ending calls that nobody told the end of"):
            open_calls.finish_everything()
    with contained("settling what is held back for tenants"):
        upstream.settle_tenant_trees()
    closing = None
    if delivery is not None:
        # It says itself what it could not deliver.
        closing = _FlushThread("spans", _ClosingDelivery(delivery), max(0.0, ends_at - loop.time()))
        closing.start()
    with contained("flushing what delivers by itself"):
        for flush in await _flushed_late(ends_at):
            # The SDK's own exit handler would wait for the same exporter again, for up to 30 s per backend.
            atexit.unregister(flush.provider.shutdown)
            log.warning("not all %s were delivered within %g s of shutdown", flush.signal, deadline_seconds)
    if closing is not None:
        await closing.done(max(0.0, ends_at - loop.time()) + SECONDS_TO_COUNT)


async def _flushed_late(ends_at: float) -> list[_FlushThread]:
    """Flush every provider, all at once; those that had more to deliver than the time allowed."""
    loop = asyncio.get_running_loop()
    flushes = [_FlushThread(name, provider, max(0.0, ends_at - loop.time())) for name, provider in _providers()]
    for flush in flushes:
        flush.start()
    return [flush for flush in flushes if not await flush.done(max(0.0, ends_at - loop.time()))]


async def _drain_callbacks(seconds: float) -> None:
    try:
        await asyncio.wait_for(upstream.drain_logging_worker(), seconds)
    except asyncio.TimeoutError:
        log.warning("LiteLLM's callbacks did not finish in time: the spans of the last calls may be missing")
    except SeamMissing as missing:
        log.warning("off: %s (%s)", missing.seam.lost, missing)


def _providers() -> list[tuple[str, Any]]:
    """Every provider of this process that can be flushed: each v2 logger's and the global ones."""
    traces = [each.tracer_provider for each in upstream.v2_loggers()]
    candidates = [
        *(("spans", provider) for provider in traces),
        ("spans", trace.get_tracer_provider()),
        ("metrics", metrics.get_meter_provider()),
        ("log records", _logs.get_logger_provider()),
    ]
    return [
        (name, _BesideTheDelivery(provider) if name == "spans" else provider)
        for n, (name, provider) in enumerate(candidates)
        if hasattr(provider, "force_flush") and all(provider is not earlier for _, earlier in candidates[:n])
    ]


class _BesideTheDelivery:
    """What a provider flushes apart from the delivery, which is closed by itself and says what it could not deliver."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.shutdown = getattr(provider, "shutdown", None)

    def force_flush(self, milliseconds: int) -> bool:
        """Flush each of the others; all of it where the provider does not tell its processors apart."""
        others = processors_beside_the_delivery(self._provider)
        if others is None:
            return self._provider.force_flush(milliseconds) is not False
        return all([each.force_flush(milliseconds) is not False for each in others])  # noqa: C419 - every one of them


class _ClosingDelivery:
    """The delivery's end, as a provider's flush."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def force_flush(self, milliseconds: int) -> bool:
        """Deliver what is left, count the rest."""
        self._delivery.close(milliseconds / MILLISECONDS_PER_SECOND)
        return True


class _FlushThread:
    """One provider's flush, in a daemon thread.

    The SDK's flush takes a timeout and does not keep it, and a thread of asyncio's own pool would be joined when the
    loop closes: a hung collector would hold the process open.
    """

    def __init__(self, signal: str, provider: Any, seconds: float) -> None:
        self.signal = signal
        self.provider = provider
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[bool] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run,
            args=(provider.force_flush, int(seconds * MILLISECONDS_PER_SECOND)),
            name=f"litellm-otel-plugin-flush-{signal}",
            daemon=True,
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    async def done(self, seconds: float) -> bool:
        """Whether everything was delivered within ``seconds``."""
        finished, _ = await asyncio.wait({self._finished}, timeout=seconds)
        return bool(finished) and self._finished.result()

    def _run(self, force_flush: Callable[[int], bool | None], milliseconds: int) -> None:
        delivered = False
        with contained("flushing a provider"):
            delivered = force_flush(milliseconds) is not False  # a meter provider answers None for done
        try:
            self._loop.call_soon_threadsafe(self._report, delivered)
        except RuntimeError:  # the loop has closed: nobody waits for the answer any more
            return

    def _report(self, delivered: bool) -> None:
        if not self._finished.done():
            self._finished.set_result(delivered)
