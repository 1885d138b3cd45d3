"""Golden traces: whole trees that are kept as files, and read when they change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.trees import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.receiver import ReceivedSpan

GOLDEN = Path(__file__).parents[1] / "proxy" / "golden"


def compare_with_golden(
    name: str, spans: Sequence[ReceivedSpan], masked: Callable[[str], str] = lambda text: text
) -> None:
    """``masked`` takes out of the tree what is another one in each run."""
    text = masked(tree(spans))
    if "WRITE_GOLDEN" in os.environ:
        (GOLDEN / f"{name}.txt").write_text(text)
        pytest.fail("written: read the difference before you commit it")
    assert text == (GOLDEN / f"{name}.txt").read_text()
