from __future__ import annotations

import pytest

from litellm_otel_plugin.privacy import printable_endpoint, redact_query


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        ("", ""),
        ("limit=10&after=x", "limit=10&after=x"),
        ("key=sk-1234&alt=sse", "key=REDACTED&alt=sse"),
        ("k%65y=sk-1234", "k%65y=REDACTED"),
        ("api-version=2024-01-01&api-key=abc", "api-version=2024-01-01&api-key=REDACTED"),
        ("X-Amz-Signature=abc&X-Amz-Credential=def", "X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED"),
        ("access_token=abc&token", "access_token=REDACTED&token"),
        ("code=abc&state=def&sig=1&sort=asc", "code=REDACTED&state=REDACTED&sig=REDACTED&sort=asc"),
        ("a=1&&b=2&", "a=1&&b=2&"),
    ],
)
def test_credentials_leave_the_query(query: str, redacted: str) -> None:
    assert redact_query(query) == redacted


@pytest.mark.parametrize(
    ("endpoint", "printed"),
    [
        ("https://user:pass@collector:4318/v1/traces", "https://collector:4318/v1/traces"),
        ("https://collector/v1/traces?api_key=abc#frag", "https://collector/v1/traces"),
        ("https://collector/ingest/dt0c01abcdefghijklmnop1234/v1/traces", "https://collector/ingest/…/v1/traces"),
        (
            "https://otlp-gateway-prod-eu-west-2.grafana.net/otlp",
            "https://otlp-gateway-prod-eu-west-2.grafana.net/otlp",
        ),
        ("collector:4317", "collector:4317"),
        ("http://[::1]:4318", "http://[::1]:4318"),
        ("http://host:port", "an endpoint that is no URL"),
        ("http://[", "an endpoint that is no URL"),
    ],
)
def test_an_endpoint_is_printed_without_its_credentials(endpoint: str, printed: str) -> None:
    assert printable_endpoint(endpoint) == printed
