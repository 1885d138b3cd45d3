"""Forks and exits, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.forking import CHILDREN, SPANS
from tests.support.proxy import REPOSITORY
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("when", ["spans-before", "no-spans-before", "connected"])
def test_each_process_delivers_its_own_spans_each_once(collector: OtlpReceiver, when: str) -> None:
    done = _python("-m", "tests.support.forking", collector.url, when)
    assert done.returncode == -signal.SIGTERM, done.stderr
    names = Counter(span.name for span in collector.spans)
    expected = {"child": CHILDREN * SPANS, "parent, after": SPANS}
    if when != "no-spans-before":
        expected["parent, before"] = 2 * SPANS
    assert dict(names) == expected, done.stderr
    assert len({span.span_id for span in collector.spans}) == sum(expected.values())


SCRIPT = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from litellm_otel_plugin.delivery import DeliveryProcessor, Destination
provider = TracerProvider()
provider.add_span_processor(DeliveryProcessor(Destination(sys.argv[1] + "/v1/traces")))
with provider.get_tracer("t").start_as_current_span("last words"):
    pass
{ending}
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)"])
def test_the_sdks_own_exit_handler_delivers(collector: OtlpReceiver, ending: str) -> None:
    done = _python("-c", SCRIPT.format(ending=ending), collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert [span.name for span in collector.spans] == ["last words"]


def test_the_delivery_loads_no_litellm() -> None:
    done = _python("-c", "import sys, litellm_otel_plugin.delivery.engine; assert 'litellm' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["grpc", "resource"])  # an extra, and what Windows does not have
def test_a_proxy_without_grpc_destinations_needs_neither(missing: str) -> None:
    script = f"import sys; sys.modules['{missing}'] = None\n" + SCRIPT.format(ending="")
    with OtlpReceiver() as receiver:
        done = _python("-c", script, receiver.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(receiver.spans) == 1
