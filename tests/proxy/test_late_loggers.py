"""Backends that come and go while the proxy serves, and backends that one team alone asks for."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support import folded
from tests.support.config import PLUGIN
from tests.support.folded import same_trees_at, tree_at
from tests.support.gateway import running
from tests.support.late_loggers import CALLBACK, COMMAND
from tests.support.proxy import trace_id_of
from tests.support.receiver import OtlpReceiver
from tests.support.tenants import AUTHENTICATE, key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Self

    from tests.support.gateway import Gateway

CHAT = "/v1/chat/completions"
AT_ONCE = 8
ENOUGH = 60
NOBODY = key("nobody in particular")


@dataclass
class House:
    gateway: Gateway
    langfuse: OtlpReceiver
    levo: OtlpReceiver
    signoz: OtlpReceiver

    @property
    def collector(self) -> OtlpReceiver:
        return self.gateway.collector

    def chat(self, bearer: str = NOBODY, content: str = "hi") -> str:
        """The trace of a chat."""
        response = self.gateway.proxy.client.post(
            CHAT,
            json={"model": "mock", "messages": [{"role": "user", "content": content}]},
            headers={"authorization": f"Bearer {bearer}"},
        )
        assert response.status_code == 200, response.text
        return trace_id_of(response)

    def command(self, verb: str, *names: str) -> tuple[float, float]:
        """Have LiteLLM add or remove loggers; when that began, and when it was done."""
        began = time.monotonic()
        self.chat(content=COMMAND + " ".join((verb, *names)))
        return began, time.monotonic()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with OtlpReceiver() as langfuse, OtlpReceiver() as levo, OtlpReceiver() as signoz:
        environment = {**folded.langfuse(langfuse), **folded.levo(levo), **folded.signoz(signoz)}
        with running(
            PLUGIN, "otel", CALLBACK, environment=environment, general_settings={"custom_auth": AUTHENTICATE}
        ) as gateway:
            yield House(gateway, langfuse, levo, signoz)


# --- traffic ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    started: float
    ended: float
    trace_id: str


@dataclass
class Traffic:
    """Requests, several at a time, until the block ends."""

    url: str
    sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert self._failures == []

    def between(self, earliest: float = 0.0, latest: float = float("inf")) -> list[str]:
        """The traces of the requests that started and ended between two instants."""
        return [each.trace_id for each in tuple(self.sent) if each.started > earliest and each.ended < latest]

    def more(self, count: int, *, since: float | None = None) -> list[str]:
        """The traces of at least so many requests that started from now on, or from an instant on."""
        since = time.monotonic() if since is None else since
        deadline = time.monotonic() + 60
        while len(self.between(since)) < count:
            assert self._failures == []
            assert time.monotonic() < deadline, f"{len(self.between(since))} of {count} requests were answered"
            time.sleep(0.02)
        return self.between(since)

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as error:
            self._failures.append(error)

    async def _send_all(self) -> None:
        headers = {"authorization": f"Bearer {NOBODY}"}
        async with httpx.AsyncClient(base_url=self.url, timeout=30, headers=headers, trust_env=False) as client:
            await asyncio.gather(*(self._send(client) for _ in range(AT_ONCE)))

    async def _send(self, client: httpx.AsyncClient) -> None:
        body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
        while not self._stop.is_set():
            started = time.monotonic()
            response = await client.post(CHAT, json=body)
            assert response.status_code == 200, response.text
            self.sent.append(Sent(started, time.monotonic(), trace_id_of(response)))


def assert_whole(traces: Sequence[str], *receivers: OtlpReceiver) -> None:
    """Each of these traces is one whole tree at each of the receivers, and the same one."""
    same_trees_at(receivers, traces)


def assert_absent(traces: Sequence[str], receiver: OtlpReceiver) -> None:
    assert {span.trace_id for span in receiver.spans} & set(traces) == set()


# --- one team's backend ----------------------------------------------------------------------------------------------


def asking_for(name: str) -> dict[str, object]:
    return {"logging": [{"callback_name": name, "callback_type": "success_and_failure", "callback_vars": {}}]}


def test_a_backend_that_one_team_asks_for_gets_that_teams_requests_alone(house: House) -> None:
    askings = [
        key("asks by its key", metadata=asking_for("levo")),
        key("asks by its team", team_id="team", team_metadata=asking_for("levo")),
    ]
    others = [NOBODY, key("another", team_id="other", metadata={"logging": []})]
    first = [house.chat(bearer) for bearer in askings]
    asked, unasked = [], []
    for _ in range(5):
        unasked += [house.chat(bearer) for bearer in others]
        asked += [house.chat(bearer) for bearer in askings]
    assert_whole(asked, house.collector, house.levo)
    assert_whole(unasked, house.collector)
    folded.quiet([house.collector, house.levo])
    assert {span.trace_id for span in house.levo.spans} == {*first, *asked}
    assert {headers["authorization"] for _, headers in house.levo.requests} == {"Bearer levo-operator"}
    folded.assert_no_span_twice(house.levo)
    assert_absent([*first, *asked, *unasked], house.langfuse)


def test_the_first_request_that_asks_for_a_backend_is_whole_there_too(house: House) -> None:
    """LiteLLM makes that backend's logger while it serves this request, which is authenticated by then."""
    first = house.chat(key("asks first", metadata=asking_for("signoz")))
    assert_whole([first], house.collector, house.signoz)


def test_a_client_cannot_have_its_spans_sent_to_a_backend_that_nobody_asked_for(house: House) -> None:
    """LiteLLM takes `success_callback` from a request's body."""
    body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "success_callback": ["levo"]}
    bearer = {"authorization": f"Bearer {key('a client')}"}
    response = house.gateway.proxy.client.post("/v1/chat/completions", json=body, headers=bearer)
    assert response.status_code == 200, response.text
    assert_whole([trace_id_of(response)], house.collector)
    folded.quiet([house.levo])
    assert_absent([trace_id_of(response)], house.levo)


# --- loggers that come and go ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("by", ["add", "configure"])
def test_a_logger_that_is_added_and_removed_under_load(house: House, by: str) -> None:
    removal = ("remove", "langfuse_otel") if by == "add" else ("configure",)
    with Traffic(house.gateway.proxy.url) as traffic:
        before = traffic.more(20)
        assert_whole(before, house.collector)
        for _ in range(2):  # the second time is adding it again
            _, added = house.command(by, "langfuse_otel")
            during = traffic.more(ENOUGH, since=added)
            assert_whole(during, house.collector, house.langfuse)
            _, removed = house.command(*removal)
            after = traffic.more(ENOUGH, since=removed)
            assert_whole(after, house.collector)
            before += after
    folded.quiet([house.collector, house.langfuse])
    assert_absent(before, house.langfuse)
    assert_whole(traffic.between(), house.collector)
    folded.assert_no_span_twice(house.collector)
    folded.assert_no_span_twice(house.langfuse)
    assert not folded.words_of(house.collector.spans, folded.LANGFUSE)


@pytest.mark.slow
def test_without_otel_the_collector_gets_nothing_and_the_others_everything(house: House) -> None:
    house.command("configure", "langfuse_otel")
    with Traffic(house.gateway.proxy.url) as traffic:
        with_both = traffic.more(ENOUGH)
        assert_whole(with_both, house.collector, house.langfuse)
        _, removed = house.command("remove", "otel")
        without = traffic.more(ENOUGH, since=removed)
        assert_whole(without, house.langfuse)
        _, back = house.command("add", "otel")
        again = traffic.more(ENOUGH, since=back)
        assert_whole(again, house.collector, house.langfuse)
    folded.quiet([house.collector, house.langfuse])
    assert_absent(without, house.collector)
    assert_whole(traffic.between(), house.langfuse)
    folded.assert_no_span_twice(house.collector)
    folded.assert_no_span_twice(house.langfuse)
    house.command("configure")
    nothing_more = house.chat()
    tree_at(house.collector, nothing_more)
    folded.quiet([house.langfuse])
    assert_absent([nothing_more], house.langfuse)


# --- LiteLLM's earlier loggers ---------------------------------------------------------------------------------------


def test_an_earlier_logger_that_litellm_falls_back_to_sends_no_copy_to_a_backend_that_is_fed() -> None:
    body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "success_callback": ["langfuse_otel"]}
    with OtlpReceiver() as langfuse, OtlpReceiver() as logfire, OtlpReceiver() as levo, OtlpReceiver() as signoz:
        environment = {"LOGFIRE_TOKEN": "token", "LOGFIRE_BASE_URL": logfire.url}
        settings = {"custom_auth": AUTHENTICATE}
        with running(PLUGIN, "otel", CALLBACK, environment=environment, general_settings=settings) as gateway:
            house = House(gateway, langfuse, levo, signoz)
            bearer = {"authorization": f"Bearer {NOBODY}"}
            responses = [gateway.proxy.client.post(CHAT, json=body, headers=bearer) for _ in range(3)]
            asked_by_a_client = [trace_id_of(response) for response in responses]
            house.command("add", "langfuse_otel", "logfire")
            house.command("configure", "langfuse_otel")
            without = [*asked_by_a_client, house.chat(), house.chat()]
            assert_whole(without, house.collector)
            logfire.wait_until(lambda spans: any(span.name in folded.EARLIER_NAMES for span in spans))

            house.command("set", *(f"{name}={value}" for name, value in folded.langfuse(langfuse).items()))
            house.command("configure", "langfuse_otel")
            with_langfuse = [house.chat(), house.chat()]
            assert_whole(with_langfuse, house.collector, langfuse)
            folded.quiet([house.collector, langfuse])
            assert not {span.name for span in (*house.collector.spans, *langfuse.spans)} & folded.EARLIER_NAMES
            assert_absent(without, langfuse)
            log = gateway.proxy.log
            assert log.count("LiteLLM's earlier langfuse_otel logger is taken out") == 1
            assert log.count("LiteLLM's earlier tracing runs beside this: logfire") == 1
