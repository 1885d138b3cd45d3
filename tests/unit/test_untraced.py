from __future__ import annotations

import pytest
from opentelemetry.context import detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NoOpTracer

from litellm_otel_plugin.request.untraced import enter_untraced, leave_out_untraced


@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [
        (ALWAYS_ON, True),
        (DEFAULT_ON, True),
        (TraceIdRatioBased(1.0), True),
        (ALWAYS_OFF, False),
        (ParentBased(ALWAYS_OFF), False),
    ],
)
def test_nothing_is_made_for_a_request_that_is_not_traced_and_all_for_others(*, sampler: Sampler, wanted: bool) -> None:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    made_before = provider.get_tracer("before")
    leave_out_untraced(provider, made_before)
    leave_out_untraced(provider, made_before)
    assert provider.sampler.get_description() == sampler.get_description()
    for tracer in (made_before, provider.get_tracer("after")):
        assert tracer.start_span("traced").is_recording() == wanted
        untraced = enter_untraced()
        assert not tracer.start_span("not traced").is_recording()
        with tracer.start_as_current_span("a phase"):
            assert not tracer.start_span("below it").is_recording()
        detach(untraced)
        assert tracer.start_span("traced").is_recording() == wanted


def test_what_samples_nothing_is_left_alone() -> None:
    leave_out_untraced(NoOpTracer())
