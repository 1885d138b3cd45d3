"""What every test can ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.provider import MockProvider

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as mock:
        yield mock
