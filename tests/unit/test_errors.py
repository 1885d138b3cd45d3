from __future__ import annotations

import pytest

from litellm_otel_plugin.request.errors import error_event, error_name


class ProxyException(Exception):  # noqa: N818 - LiteLLM's name
    """An envelope, recognised by its name as LiteLLM's is."""


class RateLimitError(Exception):
    pass


def _explicitly(original: Exception) -> Exception:
    try:
        raise ProxyException("for the client") from original
    except ProxyException as error:
        return error


def _implicitly(original: Exception) -> Exception:
    try:
        try:
            raise original
        except Exception:
            raise ProxyException("for the client")  # noqa: B904 - as LiteLLM does
    except ProxyException as error:
        return error


class ExceptionGroup(Exception):  # noqa: N818 - as the built-in is named, which Python 3.10 has not
    def __init__(self, *exceptions: Exception) -> None:
        super().__init__()
        self.exceptions = exceptions


class HTTPException(Exception):  # noqa: N818 - Starlette's name
    def __init__(self, status_code: int) -> None:
        super().__init__()
        self.status_code = status_code


def _in_a_group(inner: Exception) -> Exception:
    """An exception whose context is the group that a task group put around it."""
    inner.__context__ = ExceptionGroup(inner)
    return inner


@pytest.mark.parametrize(
    ("exception", "stamped", "status", "name"),
    [
        (RateLimitError(), "ProxyException", "429", "RateLimitError"),
        (_implicitly(RateLimitError()), "ProxyException", "429", "RateLimitError"),
        (_explicitly(RateLimitError()), None, "429", "RateLimitError"),
        (ExceptionGroup(RateLimitError()), None, None, "RateLimitError"),
        (ExceptionGroup(RateLimitError(), RateLimitError()), None, "500", "500"),
        (_in_a_group(HTTPException(400)), "ExceptionGroup", None, "400"),
        (ProxyException(), "ProxyException", "401", "401"),
        (_implicitly(ProxyException()), "ProxyException", "400", "400"),
        (ProxyException(), "ProxyException", None, "_OTHER"),
        (None, "RequestValidationError", "422", "RequestValidationError"),
        (None, "500", "503", "503"),
        (None, None, "404", "404"),
        (None, "HTTPException", "403", "403"),
        (None, "HTTPException", None, "_OTHER"),
    ],
)
def test_the_name_says_what_went_wrong(
    exception: BaseException | None, stamped: str | None, status: str | None, name: str
) -> None:
    assert error_name(exception, stamped, status) == name


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ProxyException(), ProxyException()
    first.__cause__, second.__cause__ = second, first
    assert error_name(first, None, "500") == "500"


@pytest.mark.parametrize(
    ("piece", "name"),
    [
        (b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n', "overloaded_error"),
        (b'event: error\ndata: {"type": "error", "code": "rate_limited"}\n\n', "error"),
        (b'event: ping\ndata: {}\n\nevent: error\ndata: {"error": {"type": "later"}}\n\n', "later"),
        (b'data: {"text": "event: error"}\n\n', None),
        (b"event: error\ndata: no JSON\n\n", "_OTHER"),
        (b"event: error\n\n", "_OTHER"),
        (b'event: error\ndata: ["a list"]\n\n', "_OTHER"),
        (b'event: error\ndata: {"error": "a sentence"}\n\n', "_OTHER"),
        (b"event: error\ndata: " + b"[" * 100_000, "_OTHER"),
        (b'event: message_start\ndata: {"error": {"type": "quoted"}}\n\n', None),
        (b"", None),
    ],
)
def test_an_error_that_a_stream_tells_of(piece: bytes, name: str | None) -> None:
    assert error_event(piece) == name
