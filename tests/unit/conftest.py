"""Units run with our own errors raised, as every test does."""

from __future__ import annotations

import pytest

from litellm_otel_plugin.guard import guard


@pytest.fixture(autouse=True, scope="session")
def _strict() -> None:
    guard.strict = True
