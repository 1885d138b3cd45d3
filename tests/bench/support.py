"""What the benchmarks share: a collector in a process of its own, CPU clocks, a table, and keys without a database."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, build_opener

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.config import PLUGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# The two proxies that are compared: the callback that each has, and its environment.
SIDES: dict[str, tuple[str, dict[str, str]]] = {
    "v2 alone": ("otel", {"LITELLM_OTEL_V2": "true"}),
    "plugin": (PLUGIN, {}),
}

# The SDK's own default: the proxies of tests send sooner.
PRODUCTION = {"OTEL_BSP_SCHEDULE_DELAY": "5000"}

# The host of the tenants' accounts, for ``authenticate``.
TENANT_HOST = "BENCH_TENANT_HOST"

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
BACKLOG = 4096

# --- the collector ---------------------------------------------------------------------------------------------------


@dataclass
class Received:
    requests: int = 0
    spans: int = 0


class Collector(asyncio.Protocol):
    """Answers every export as ``mode`` says: ``ok``, ``503``, or ``hang`` (never). ``GET`` tells what it has had."""

    def __init__(self, mode: str, received: Received) -> None:
        self._mode = mode
        self._received = received
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            length = int(rest.partition(b"\r\n")[0]) if found else 0
            whole = end + 4 + length
            if len(self._buffer) < whole:
                return
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get "):
            told = json.dumps(vars(self._received)).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
            return
        self._received.requests += 1
        if self._mode == "hang":
            return
        if self._mode == "503":
            self._transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            return
        export = ExportTraceServiceRequest.FromString(body)
        self._received.spans += sum(
            len(scope.spans) for resource in export.resource_spans for scope in resource.scope_spans
        )
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def _collect(mode: str) -> None:
    received = Received()
    server = await asyncio.get_running_loop().create_server(
        lambda: Collector(mode, received), "127.0.0.1", 0, backlog=BACKLOG
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def collector(mode: str = "ok") -> Iterator[str]:
    """The URL of a collector in a process of its own, whose CPU is nobody's."""
    command = [sys.executable, "-m", "tests.bench.support", mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def received_by(url: str) -> Received:
    # Only ever a collector of ours, on this machine.
    with build_opener(ProxyHandler({})).open(url) as response:
        return Received(**json.load(response))


# --- measuring -------------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def threads_of(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def in_a_fresh_process(module: str, *arguments: str) -> dict[str, float]:
    """What one measurement printed, run as ``python -m module …`` with nothing of the machine's own settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def alternating(
    rounds: int, sides: Sequence[str], measure: Callable[[str], Mapping[str, float]]
) -> dict[str, dict[str, list[float]]]:
    """Each figure of each side, round by round: what the machine does to one side it does to all."""
    figures: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else list(reversed(sides)):
            for name, value in measure(side).items():
                figures[side].setdefault(name, []).append(value)
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of each round's own ratio."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def show(what: str, value: float, most: float, details: str = "", form: str = ".2f") -> None:
    """One line: what was measured, the requirement beside it, and whether it is met."""
    verdict = "met" if value <= most else "MISSED"
    sys.stdout.write(f"{what:<68} {value:>8{form}}  (at most {most:g}: {verdict}){'  ' * bool(details)}{details}\n")
    sys.stdout.flush()


# --- inside the proxy ------------------------------------------------------------------------------------------------


async def authenticate(request: Any, api_key: str) -> Any:
    """As ``general_settings.custom_auth``: each ``sk-tenant-<number>`` has a Langfuse account of its own."""
    from litellm.proxy._types import UserAPIKeyAuth  # noqa: PLC0415 - the collector's process does without LiteLLM

    tenant = api_key.rpartition("-")[2]
    account = {
        "langfuse_public_key": f"pk-{tenant}",
        "langfuse_secret_key": f"sk-{tenant}",
        "langfuse_host": os.environ[TENANT_HOST],
    }
    logging = [{"callback_name": "langfuse_otel", "callback_type": "success_and_failure", "callback_vars": account}]
    return UserAPIKeyAuth(api_key=api_key, metadata={"logging": logging})


if __name__ == "__main__":
    asyncio.run(_collect(sys.argv[1]))
