"""Requests whose path is not traced: they have no SERVER span, and none below it either.

Each of those would be the root of a trace of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, get_value, set_value
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context

_UNTRACED = create_key("litellm-otel-plugin-untraced")


class WithoutUntraced(Sampler):
    """Samples as another does, but for what is made for a request that is not traced.

    A parent that is not sampled would say the same to some samplers only.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(self, parent_context: Context | None, *args: Any, **kwargs: Any) -> SamplingResult:
        """Answer the SDK, which hands over the same arguments in every version and not by the same names."""
        if get_value(_UNTRACED, parent_context):
            return SamplingResult(Decision.DROP)
        return self._sampler.should_sample(parent_context, *args, **kwargs)

    def get_description(self) -> str:
        """The other one's."""
        return self._sampler.get_description()


def leave_out_untraced(*samples: Any) -> None:
    """Have a provider, and tracers that it has made, make no span for a request that is not traced."""
    for each in samples:
        sampler = getattr(each, "sampler", None)  # a tracer of a disabled SDK has none
        if sampler is not None and not isinstance(sampler, WithoutUntraced):
            each.sampler = WithoutUntraced(sampler)


def enter_untraced() -> Token[Context]:
    """From here on nothing is traced; to be detached."""
    return attach(set_value(_UNTRACED, True))  # noqa: FBT003 - OpenTelemetry's own order
