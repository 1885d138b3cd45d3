"""What went wrong, by name: ``error.type`` of a failed request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT_DISCONNECTED = "client_disconnected"

# Exceptions that only carry a status to the client. Their names say nothing about what went wrong.
ENVELOPES = frozenset({"ProxyException", "HTTPException", "WebSocketException", "WebSocketRequestValidationError"})


def error_name(exception: BaseException | None, stamped: str | None, status: int | None) -> str | None:
    """The exception that LiteLLM wrapped; else what it stamped on the span itself; else the status as text."""
    for cause in _chain(exception):
        name = type(cause).__name__
        if name not in ENVELOPES:
            return name
    if stamped and stamped not in ENVELOPES and not stamped.isdecimal():
        return stamped
    return str(status) if status is not None else None


def _chain(exception: BaseException | None) -> Iterator[BaseException]:
    """An envelope and the exceptions it was explicitly or implicitly raised from, outermost first."""
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        if type(exception).__name__ not in ENVELOPES:
            return
        original = getattr(exception, "original_exception", None)
        exception = original if isinstance(original, BaseException) else exception.__cause__ or exception.__context__
