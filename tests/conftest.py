"""What every test can ask for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.provider import MockProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

# LiteLLM looks its price list up on the internet when it is imported, as contract tests and test callbacks do.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock
