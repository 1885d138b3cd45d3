"""A trace as text: the whole tree, with what differs from run to run replaced by what it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.receiver import ReceivedSpan

# Values that no two runs share. They are replaced by their type, so that a missing or mistyped one still shows.
_VOLATILE = re.compile(
    r"(duration_ms$|^server\.port$|^client\.port$|call_id$|response_time|time_to_first|litellm\.model\.id$|stack_?trace$"
    r"|^user_agent\.original$|litellm\.cost\.|litellm\.guardrail\.duration$|\.trace_id$|^network\.protocol\.version$|^server\.address$)"
)


def tree(spans: Sequence[ReceivedSpan]) -> str:
    """Every span with every attribute and event, children below their parents in the order in which they started."""
    by_parent: dict[str, list[ReceivedSpan]] = {}
    ids = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda each: (each.start_ns, each.name)):
        by_parent.setdefault(span.parent_id if span.parent_id in ids else "", []).append(span)
    lines: list[str] = []

    def write(parent: str, depth: int) -> None:
        for span in by_parent.get(parent, ()):
            pad = "  " * depth
            orphan = " ORPHAN" if parent == "" and span.parent_id else ""
            lines.append(f"{pad}{span.kind} {span.name} {span.status}{orphan}")
            lines.extend(f"{pad}  {name}={value}" for name, value in _shown(span.attributes))
            for event in span.events:
                shown = "".join(f" {name}={value}" for name, value in _shown(event.attributes))
                lines.append(f"{pad}  * {event.name}{shown}")
            write(span.span_id, depth + 1)

    write("", 0)
    assert len([line for line in lines if re.match(r"\s*(SERVER|CLIENT|INTERNAL) ", line)]) == len(spans)
    return "\n".join(lines) + "\n"


def _shown(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"<{type(value).__name__}>" if _VOLATILE.search(name) else repr(value))
        for name, value in sorted(attributes.items())
    ]


def outline(spans: Sequence[ReceivedSpan]) -> str:
    """The tree's shape alone: kind (but for INTERNAL) and name of each span, and its status where it has one."""
    lines = []
    for line in tree(spans).splitlines():
        span = re.fullmatch(r"(\s*)(SERVER|CLIENT|INTERNAL) (.*?) (UNSET|OK|ERROR)( ORPHAN)?", line)
        if span is not None:
            indent, kind, name, status, orphan = span.groups()
            words = (
                "" if kind == "INTERNAL" else kind,
                name,
                "" if status == "UNSET" else status,
                (orphan or "").strip(),
            )
            lines.append(indent + " ".join(filter(None, words)))
    assert len(lines) == len(spans)
    return "\n".join(lines) + "\n"
