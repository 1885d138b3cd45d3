"""Spans to backends: queues, one loop, outcomes, accounting. Usable without LiteLLM.

from opentelemetry.sdk.trace import TracerProvider
from litellm_otel_plugin.delivery import DeliveryProcessor, Destination

provider = TracerProvider()
processor = DeliveryProcessor(Destination("http://collector:4318/v1/traces"))
provider.add_span_processor(processor)
...
processor.stats().total  # accepted = sent + rejected + dropped + queued + in flight
"""

from litellm_otel_plugin.delivery.accounts import Counts, DeliveryStats, DestinationStats
from litellm_otel_plugin.delivery.destination import Destination, DestinationError, Tls
from litellm_otel_plugin.delivery.directory import Directory
from litellm_otel_plugin.delivery.engine import Delivery
from litellm_otel_plugin.delivery.limits import Limits
from litellm_otel_plugin.delivery.processor import DeliveryProcessor
from litellm_otel_plugin.delivery.view import View

__all__ = [
    "Counts",
    "Delivery",
    "DeliveryProcessor",
    "DeliveryStats",
    "Destination",
    "DestinationError",
    "DestinationStats",
    "Directory",
    "Limits",
    "Tls",
    "View",
]
