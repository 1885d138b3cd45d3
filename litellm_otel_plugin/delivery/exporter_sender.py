"""Exporters that are not ours, behind the same queue: each blocks a thread of a small pool, never the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.export import SpanExportResult

from litellm_otel_plugin.delivery.outcome import SENT, Outcome, Verdict
from litellm_otel_plugin.delivery.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

# Exporters of a kind that OTLP does not cover are few; one that hangs holds one of these.
EXPORTER_THREADS = 4


class ExporterSender:
    """Calls a ``SpanExporter`` off the loop."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("litellm-otel-exporter", EXPORTER_THREADS)
        self._exporters: dict[int, SpanExporter] = {}

    async def send(self, exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> Outcome:
        """Export one batch. An exporter does its own retries; what it gives up on is rejected."""
        self._exporters[id(exporter)] = exporter

        def export() -> SpanExportResult:
            with suppress_instrumentation():
                return exporter.export(spans)

        try:
            result = await self._threads.run(export)
        except Exception as error:  # noqa: BLE001 - whatever somebody's exporter raises
            return Outcome(Verdict.REJECTED, type(error).__name__)
        return SENT if result is SpanExportResult.SUCCESS else Outcome(Verdict.REJECTED, "exporter_failed")

    async def close(self) -> None:
        """Tell the exporters that this was all: some keep spans back until then."""
        ended = (self._threads.run(exporter.shutdown) for exporter in self._exporters.values())
        await asyncio.gather(*ended, return_exceptions=True)
