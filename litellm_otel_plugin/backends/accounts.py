"""Which account an exporter writes to: where two write to the same one, it would get every span twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from litellm_otel_plugin import upstream
from litellm_otel_plugin.delivery import DeliveryProcessor
from litellm_otel_plugin.delivery.destination import grpc_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk.trace import SpanProcessor

# What an exporter sends to whatever account it writes to.
_OF_EVERY_EXPORT = frozenset({"content-type", "user-agent"})

# gRPC's own is 443, with and without encryption.
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 443}

Account = tuple[str, tuple[tuple[str, str], ...]]


def account_of(processor: SpanProcessor) -> Account | None:
    """Endpoint and headers that a processor's OTLP exporter presents, ``None`` for any other processor."""
    inner = innermost(processor)
    if isinstance(inner, DeliveryProcessor):
        if len(inner.destinations) != 1 or inner.destinations[0].exporter is not None:
            return None
        (destination,) = inner.destinations
        is_grpc = destination.protocol == "grpc"
        address = grpc_target(destination.endpoint) if is_grpc else destination.endpoint
        return _in_one_spelling(address), _lower_names(destination.headers)
    exporter = _exporter_of(inner)
    endpoint = getattr(exporter, "_endpoint", None)
    if not isinstance(endpoint, str):
        return None
    # The newer exporter keeps its headers on the client that it sends with.
    headers = getattr(exporter, "_headers", None) or getattr(getattr(exporter, "_client", None), "_headers", None) or {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    return _in_one_spelling(endpoint), _lower_names(pairs)


def innermost(processor: Any) -> Any:
    """A processor without what we and LiteLLM put around it."""
    while hasattr(processor, "inner"):
        processor = processor.inner
    return upstream.unwrapped(processor)


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


def processors_of_provider(provider: Any) -> tuple[SpanProcessor, ...] | None:
    """A provider's processors; ``None`` where it does not tell. The SDK has no public list."""
    processors: tuple[SpanProcessor, ...] | None = getattr(
        getattr(provider, "_active_span_processor", None), "_span_processors", None
    )
    return processors


def exchange_processor(provider: Any, old: SpanProcessor, new: SpanProcessor) -> None:
    """Put ``new`` in the place of one of a provider's processors. It is told last, as what it needs can be newer."""
    every = provider._active_span_processor  # noqa: SLF001 - as above
    with every._lock:  # noqa: SLF001 - as above
        # At once: a span that ends meanwhile is one's or the other's.
        every._span_processors = (*(each for each in every._span_processors if each is not old), new)  # noqa: SLF001


def processors_beside_the_delivery(provider: Any) -> list[SpanProcessor] | None:
    """Those of a provider's processors that are to be flushed by themselves, ``None`` where it does not tell."""
    processors = processors_of_provider(provider)
    if processors is None:
        return None
    return [each for each in processors if not isinstance(innermost(each), DeliveryProcessor)]


def _in_one_spelling(endpoint: str) -> str:
    """An endpoint, however it was written. One without a scheme is gRPC's: its exporters keep host and port alone."""
    target = endpoint.removeprefix("dns:///")  # gRPC's default way to find a host
    try:
        url = urlsplit(target if "://" in target else f"grpc://{target}")
    except ValueError:  # somebody else's exporter can have been given anything
        return endpoint
    user, at, host = url.netloc.rpartition("@")
    host = host.lower().removesuffix(f":{_DEFAULT_PORTS.get(url.scheme)}")
    return url._replace(netloc=f"{user}{at}{host}", path=url.path.rstrip("/")).geturl()


def _lower_names(pairs: Any) -> tuple[tuple[str, str], ...]:
    lower = ((str(name).lower(), str(value)) for name, value in pairs)
    return tuple(sorted((name, value) for name, value in lower if name not in _OF_EVERY_EXPORT))


def _exporter_of(processor: Any) -> Any:
    batch = getattr(processor, "_batch_processor", None)
    for owner, attribute in ((batch, "_exporter"), (processor, "span_exporter")):
        exporter = getattr(owner, attribute, None)
        if exporter is not None:
            return exporter
    return None
