"""What went wrong, by name: ``error.type`` of a failed request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLIENT_DISCONNECTED = "client_disconnected"
CANCELLED = "cancelled"
# The conventions' own value for a failure that has no name.
UNNAMED = "_OTHER"

ERROR_EVENT = b"event: error"
# An error's event is a name and a sentence.
LONGEST_EVENT = 65_536

# Exceptions that only carry a status to the client. Their names say nothing about what went wrong.
ENVELOPES = frozenset({"ProxyException", "HTTPException", "WebSocketException"})
# What a task group makes of the exception that ended it.
GROUPS = frozenset({"ExceptionGroup", "BaseExceptionGroup"})


def error_name(exception: BaseException | None, stamped: str | None, status: str | None) -> str:
    """The exception that LiteLLM wrapped; else what it stamped on the span itself; else the status as text."""
    own = exception_name(exception)
    if own is not None:
        return own
    if stamped and stamped not in ENVELOPES | GROUPS and not stamped.isdecimal():
        return stamped
    return status or _status_of(exception) or UNNAMED


def error_event(body: bytes) -> str | None:
    """The name of an error that a piece of a stream tells of, as Anthropic does after a 200; ``None`` for other pieces.

    LiteLLM passes such an event on and takes the stream for answered.
    """
    start = 0 if body.startswith(ERROR_EVENT) else body.find(b"\n" + ERROR_EVENT)  # a line: no data has a raw line end
    if start < 0:
        return None
    _, _, data = body[start : start + LONGEST_EVENT].partition(b"data:")
    try:
        told = json.loads(data.partition(b"\n")[0])
        error = told.get("error") or told
        return str(error.get("type") or UNNAMED)
    except (ValueError, AttributeError, RecursionError):
        return UNNAMED


def exception_name(exception: BaseException | None) -> str | None:
    """The name of an exception or of the one that it wraps; ``None`` where nothing but a status is in it."""
    for cause in _chain(exception):
        name = type(cause).__name__
        if name not in ENVELOPES | GROUPS:
            return name
    return None


def _status_of(exception: BaseException | None) -> str | None:
    for cause in _chain(exception):
        status = getattr(cause, "status_code", None) or getattr(cause, "code", None)
        if status is not None and str(status).isdecimal():
            return str(status)
    return None


def _chain(exception: BaseException | None) -> Iterator[BaseException]:
    """An envelope and what it was explicitly or implicitly raised from, outermost first."""
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        name = type(exception).__name__
        if name in GROUPS:
            inner: Sequence[BaseException] = getattr(exception, "exceptions", ())
            exception = inner[0] if len(inner) == 1 else None
        elif name in ENVELOPES:
            original = getattr(exception, "original_exception", None)
            raised_from = exception.__cause__ or exception.__context__
            exception = original if isinstance(original, BaseException) else raised_from
        else:
            return
