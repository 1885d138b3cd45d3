"""Golden traces: whole trees that are kept as files, and read when they change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.trees import tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.receiver import ReceivedSpan

GOLDEN = Path(__file__).parents[1] / "proxy" / "golden"


def compare_with_golden(name: str, spans: Sequence[ReceivedSpan]) -> None:
    if "WRITE_GOLDEN" in os.environ:
        (GOLDEN / f"{name}.txt").write_text(tree(spans))
        pytest.fail("written: read the difference before you commit it")
    assert tree(spans) == (GOLDEN / f"{name}.txt").read_text()
