"""A proxy between a scripted provider and a receiver: what most tests on a real proxy need."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.config import PLUGIN, config, provider_environment
from tests.support.provider import MockProvider
from tests.support.proxy import Proxy, trace_id_of
from tests.support.receiver import OtlpReceiver, ReceivedSpan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import httpx


@dataclass
class Gateway:
    """The three, running."""

    proxy: Proxy
    provider: MockProvider
    collector: OtlpReceiver

    def trace_of(self, response: httpx.Response, *, kinds: Sequence[str] = ("SERVER",)) -> list[ReceivedSpan]:
        """The whole trace of a response, once a span of each of ``kinds`` has arrived."""
        return self.trace(trace_id_of(response), kinds=kinds)

    def trace(self, trace_id: str, *, kinds: Sequence[str] = ("SERVER",)) -> list[ReceivedSpan]:
        def arrived(spans: list[ReceivedSpan]) -> bool:
            return {span.kind for span in spans if span.trace_id == trace_id} >= set(kinds)

        self.collector.wait_until(arrived)
        return self.collector.trace(trace_id)

    def server_span(self, response: httpx.Response, *, kinds: Sequence[str] = ("SERVER",)) -> ReceivedSpan:
        """The one SERVER span of a response."""
        spans = self.trace_of(response, kinds=kinds)
        (server,) = [span for span in spans if span.kind == "SERVER"]
        return server

    def newest_trace_of_path(self, path: str) -> list[ReceivedSpan]:
        """For exchanges that have no response to ask: the trace whose SERVER span is of this path."""

        def match(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            return [span for span in spans if span.kind == "SERVER" and span.attributes.get("url.path") == path]

        spans = self.collector.wait_until(lambda spans: bool(match(spans)))
        return self.collector.trace(match(spans)[-1].trace_id)


@contextmanager
def running(
    *callbacks: str,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    program: Sequence[str] | None = None,
    port: int | None = None,
    expects_contained: bool = False,
    **more: Any,
) -> Iterator[Gateway]:
    """A gateway with these callbacks (our line where none is given) until the block ends.

    A section of ``more`` that names the provider is a function of its address.
    """
    with MockProvider() as provider, OtlpReceiver() as collector:
        environ = {
            **provider_environment(provider.url),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            **(environment or {}),
        }
        sections = {name: section(provider.url) if callable(section) else section for name, section in more.items()}
        document = config(provider.url, *(callbacks or (PLUGIN,)), **sections)
        with Proxy(
            document, environ, flags=flags, program=program, port=port, expects_contained=expects_contained
        ) as proxy:
            yield Gateway(proxy, provider, collector)


def unique_path() -> str:
    """A path that nothing else requests."""
    return f"/nope/{uuid.uuid4().hex}"
