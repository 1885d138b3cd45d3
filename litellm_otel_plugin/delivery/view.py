"""What a destination gets to see of a span. Destinations with the same view share one encoding of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, eq=False)
class View:
    """A name and the function that makes the view of a span. Equal only to itself.

    ``of`` runs on the delivery's thread, some time after the span ended.
    """

    name: str
    of: Callable[[ReadableSpan], ReadableSpan]


WHOLE = View("whole", lambda span: span)
