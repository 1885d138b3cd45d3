"""The end, where something of LiteLLM's or of a provider's is not as we know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from litellm_otel_plugin import shutdown, upstream
from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor, Destination
from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.shutdown import flush_everything
from tests.support import patience
from tests.support.receiver import OtlpReceiver
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import Callable


class RenamedError(AttributeError):
    """What a later release of LiteLLM could answer with."""


async def _breaks_later(*_: Any) -> None:
    raise RenamedError


def _breaks(*_: Any) -> None:
    raise RenamedError


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (upstream, "drain_logging_worker", _breaks_later),
        (upstream, "settle_tenant_trees", _breaks),
        (shutdown, "_providers", _breaks),
    ],
)
async def test_whatever_fails_beside_it_the_delivery_is_closed(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(guard, "strict", False)
    monkeypatch.setattr(shutdown, "_providers", list)  # those of other tests' are not this one's to flush
    monkeypatch.setattr(owner, name, broken)
    delivery, memory = Delivery(), SpanMemory()
    with OtlpReceiver() as collector:
        destination = Destination(f"{collector.url}/v1/traces")
        memory.provider.add_span_processor(DeliveryProcessor(destination, delivery=delivery))
        memory.provider.get_tracer("t").start_span("queued").end()
        await flush_everything(patience.SECONDS, delivery)
        assert [span.name for span in collector.spans] == ["queued"]
    assert delivery.stats().total.sent == 1
    assert guard.counts
    guard.counts.clear()
