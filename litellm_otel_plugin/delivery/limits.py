"""The bounds of delivery: how many spans wait, how much memory they take, when a batch goes."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_EXPORT_TIMEOUT,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("litellm_otel_plugin")

MILLISECONDS_PER_SECOND = 1_000

# Ten minutes of an outage at 20 requests a second are 12,000 requests; 131,072 spans are ten of each, and a request
# has four to eight.
QUEUE_SPANS = 131_072

# What those ten minutes weigh at four spans a request, with a reserve (the README has the measured bytes per span).
QUEUE_BYTES = 64 * 1024 * 1024

# A batch before compression. A Collector's gRPC receiver refuses more than 4 MiB unless told otherwise.
BATCH_BYTES = 3 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What a delivery holds itself to. The defaults are those of ``OTEL_BSP_*``, the queue's length aside."""

    schedule_delay_seconds: float = 5.0
    batch_spans: int = 512
    batch_bytes: int = BATCH_BYTES
    export_timeout_seconds: float = 30.0
    queue_spans: int = QUEUE_SPANS
    queue_bytes: int = QUEUE_BYTES

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, queue_bytes: int = QUEUE_BYTES
    ) -> Limits:
        """The standard variables, each for one destination; what cannot be used is said and left at its default."""
        environment = os.environ if environment is None else environment
        standard = cls()
        batch_spans = _positive(environment, OTEL_BSP_MAX_EXPORT_BATCH_SIZE, standard.batch_spans)
        queue_spans = _positive(environment, OTEL_BSP_MAX_QUEUE_SIZE, standard.queue_spans)
        delay = _positive(
            environment, OTEL_BSP_SCHEDULE_DELAY, int(standard.schedule_delay_seconds * MILLISECONDS_PER_SECOND)
        )
        timeout = _positive(
            environment, OTEL_BSP_EXPORT_TIMEOUT, int(standard.export_timeout_seconds * MILLISECONDS_PER_SECOND)
        )
        return cls(
            schedule_delay_seconds=delay / MILLISECONDS_PER_SECOND,
            batch_spans=min(batch_spans, queue_spans),
            export_timeout_seconds=timeout / MILLISECONDS_PER_SECOND,
            queue_spans=queue_spans,
            queue_bytes=queue_bytes,
        )


def _positive(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not math.isfinite(value) or value < 1:
        log.warning("%s is not a positive number: %d is used", name, default)
        return default
    return int(value)
