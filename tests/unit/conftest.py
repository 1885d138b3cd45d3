"""Units run with our own errors raised, as every test does."""

from __future__ import annotations

import pytest

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.request import record


@pytest.fixture(autouse=True, scope="session")
def _strict() -> None:
    guard.strict = True


@pytest.fixture(autouse=True)
def _outside_of_a_request() -> None:
    """A test that opens a record without a loop of its own leaves it to those that follow."""
    record._record.set(None)
