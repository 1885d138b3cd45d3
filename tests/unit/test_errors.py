from __future__ import annotations

import pytest

from litellm_otel_plugin.request.errors import error_name


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


@pytest.mark.parametrize(
    ("exception", "stamped", "status", "name"),
    [
        (RateLimitError(), "ProxyException", 429, "RateLimitError"),
        (_implicitly(RateLimitError()), "ProxyException", 429, "RateLimitError"),
        (_explicitly(RateLimitError()), None, 429, "RateLimitError"),
        (ProxyException(), "ProxyException", 401, "401"),
        (_implicitly(ProxyException()), "ProxyException", 400, "400"),
        (None, "RequestValidationError", 422, "RequestValidationError"),
        (None, "500", 503, "503"),
        (None, None, 404, "404"),
        (None, "HTTPException", 403, "403"),
        (None, None, None, None),
    ],
)
def test_the_name_says_what_went_wrong(
    exception: BaseException | None, stamped: str | None, status: int | None, name: str | None
) -> None:
    assert error_name(exception, stamped, status) == name


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ProxyException(), ProxyException()
    first.__cause__, second.__cause__ = second, first
    assert error_name(first, None, 500) == "500"
