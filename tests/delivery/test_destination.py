"""What can be sent to, and what is refused: by the name of the field, never with its value."""

from __future__ import annotations

from typing import Any

import pytest

from litellm_otel_plugin.delivery import Destination, DestinationError, Tls
from litellm_otel_plugin.delivery.destination import grpc_target, uses_tls
from litellm_otel_plugin.delivery.environment import destination_from_environment

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://collector:4318/v1/traces", "http/protobuf"),
        ("https://[::1]:4318/v1/traces?x=1", "http/json"),
        ("https://otlp.arize.com/v1", "grpc"),
        ("collector:4317", "grpc"),
    ],
)
def test_endpoints_that_can_be_sent_to(endpoint: str, protocol: Any) -> None:
    assert Destination(endpoint, protocol).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "", " ", "collector", "/v1/traces", "ftp://c/x", "file:///etc/passwd", "gopher://c", "javascript:alert(1)",
        f"http://user:{SECRET}@collector", f"http://{SECRET}@collector", "http://", "http://:4318", "http://c:0",
        "http://c:99999", "http://c:x", "http://[::1", f"http://c/\r\nX: {SECRET}", "http://c/\0", "http://c/ä",
        "http://c /x", "http://c\t/x", "http://a\\@b", "http://c/#f", None, 7, "unix:///run/x.sock",
    ],
)  # fmt: skip
def test_endpoints_that_are_refused(endpoint: Any) -> None:
    with pytest.raises(DestinationError, match=r"^endpoint: ") as refused:
        Destination(endpoint)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("value", [
    f"{SECRET}\r\nX-Evil: 1", f"{SECRET}\n", f"{SECRET}\0", f"{SECRET}ä", f" {SECRET}", f"{SECRET} ", 7, None,
    f"{SECRET}\x7f", f"{SECRET}\u2028",
])  # fmt: skip
def test_credentials_that_no_header_can_carry_are_refused(value: Any) -> None:
    for protocol in ("http/protobuf", "http/json", "grpc"):
        with pytest.raises(DestinationError, match=r"^headers\.x-api-key: ") as refused:
            Destination("http://collector", protocol, headers={"x-api-key": value})
        assert SECRET not in str(refused.value)
        assert refused.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä", "a\0", 7])
def test_header_names_that_are_refused(name: Any) -> None:
    with pytest.raises(DestinationError, match=r"^headers: "):
        Destination("http://collector", headers={name: "x"})


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "connection", "Content-Type"])
def test_headers_that_frame_the_message_are_the_clients(name: str) -> None:
    with pytest.raises(DestinationError, match="is for the client to set"):
        Destination("http://collector", headers={name: "x"})


def test_one_name_in_two_spellings_is_refused() -> None:
    with pytest.raises(DestinationError, match="is there twice"):
        Destination("http://collector", headers={"X-Key": "a", "x-key": "b"})


def test_nothing_secret_is_in_what_is_printed() -> None:
    destination = Destination(
        "https://collector/v1/traces?token=" + SECRET, headers={"authorization": SECRET}, proxy="http://proxy:3128"
    )
    assert SECRET not in repr(destination)
    assert SECRET not in str(destination)
    assert SECRET not in destination.name


def test_what_makes_two_destinations_the_same() -> None:
    first = Destination("http://collector", headers={"a": "1", "b": "2"})
    assert first.key == Destination("http://collector", headers={"b": "2", "a": "1"}, name="another").key
    for other in (
        Destination("http://collector:1", headers={"a": "1", "b": "2"}),
        Destination("http://collector", "http/json", headers={"a": "1", "b": "2"}),
        Destination("http://collector", headers={"a": "1", "b": "3"}),
        Destination("http://collector", headers={"a": "1", "b": "2"}, resource_overrides={"service.name": "x"}),
        Destination("http://collector", headers={"a": "1", "b": "2"}, resource_change=lambda resource: resource),
    ):
        assert other.key != first.key


def test_grpc_targets() -> None:
    assert grpc_target("https://otlp.arize.com/v1") == "otlp.arize.com"
    assert grpc_target("collector:4317") == "collector:4317"
    endpoints = ("https://x", "x:4317", "http://x", "HTTP://x", "grpc://x:4317")
    assert [uses_tls(Destination(each, "grpc")) for each in endpoints] == [True, True, False, False, True]
    insecure = Tls(insecure=True)
    assert [uses_tls(Destination(each, "grpc", tls=insecure)) for each in endpoints] == [
        True,
        False,
        False,
        False,
        False,
    ]


ENVIRONMENT = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://base:4318/",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=general,other=x%20y",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=specific",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/client.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/client.key",
}


def test_the_standard_variables() -> None:
    destination = destination_from_environment(ENVIRONMENT)
    assert destination.endpoint == "http://base:4318/v1/traces"
    assert dict(destination.headers) == {"api-key": "specific", "other": "x y"}
    assert (destination.compression, destination.timeout_seconds) == ("gzip", 3.0)
    assert (destination.tls.ca_file, destination.tls.client_certificate_file) == ("/ca.pem", "/client.pem")


def test_the_traces_own_variables_come_first() -> None:
    specific = {
        **ENVIRONMENT,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:1/exactly",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "4",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
    }
    destination = destination_from_environment(specific)
    assert destination.endpoint == "http://traces:1/exactly"
    assert (destination.protocol, destination.compression, destination.timeout_seconds) == ("http/json", "none", 4.0)


def test_defaults_without_any_variable() -> None:
    assert destination_from_environment({}).endpoint == "http://localhost:4318/v1/traces"
    assert destination_from_environment({}, protocol="grpc").endpoint == "http://localhost:4317"


@pytest.mark.parametrize("value", ["x", "-1", "0", "nan", "inf"])
def test_unusable_timeouts_are_said_and_left(value: str, caplog: pytest.LogCaptureFixture) -> None:
    assert destination_from_environment({"OTEL_EXPORTER_OTLP_TIMEOUT": value}).timeout_seconds == 10.0
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" in caplog.text


def test_a_protocol_that_is_none_is_refused() -> None:
    with pytest.raises(DestinationError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        destination_from_environment({"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier pigeon"})
