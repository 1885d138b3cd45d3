"""Which account an exporter writes to: where two write to the same one, it would get every span twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk.trace import SpanProcessor

Account = tuple[str, tuple[tuple[str, str], ...]]


def account_of(processor: SpanProcessor) -> Account | None:
    """Endpoint and headers that a processor's OTLP exporter presents, ``None`` for any other processor."""
    exporter = _exporter_of(processor)
    endpoint = getattr(exporter, "_endpoint", None)
    if not isinstance(endpoint, str):
        return None
    # The newer exporter keeps its headers on the client that it sends with.
    headers = getattr(exporter, "_headers", None) or getattr(getattr(exporter, "_client", None), "_headers", None) or {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    return endpoint.rstrip("/"), tuple(sorted((str(name).lower(), str(value)) for name, value in pairs))


def without_known_accounts(
    processors: Iterable[SpanProcessor], known: Iterable[SpanProcessor]
) -> tuple[list[SpanProcessor], list[SpanProcessor]]:
    """The processors to keep, and those whose account one of ``known`` writes to already."""
    accounts = {account_of(processor) for processor in known} - {None}
    keep: list[SpanProcessor] = []
    twice: list[SpanProcessor] = []
    for processor in processors:
        (twice if account_of(processor) in accounts else keep).append(processor)
    return keep, twice


def _exporter_of(processor: Any) -> Any:
    batch = getattr(processor, "_batch_processor", None)
    for owner, attribute in ((batch, "_exporter"), (processor, "span_exporter")):
        exporter = getattr(owner, attribute, None)
        if exporter is not None:
            return exporter
    return None
