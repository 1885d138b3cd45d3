"""Whether a client is still there, at servers whose channels are of different kinds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from litellm_otel_plugin.request.client import Client

BODY = {"type": "http.request", "body": b"{}", "more_body": False}
HALF_A_BODY = {"type": "http.request", "body": b"{", "more_body": True}
GONE = {"type": "http.disconnect"}


class Queued:
    """A channel that is a queue: a message that was taken is gone."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def tell(self, message: Any) -> None:
        self._queue.put_nowait(message)

    async def receive(self) -> Any:
        return await self._queue.get()


class Promising(Queued):
    """A channel that looks for a message from when it is asked, and tells of it in its own time."""

    def receive(self) -> Any:
        return asyncio.ensure_future(super().receive())


@pytest.fixture(params=[Queued, Promising])
def server(request: pytest.FixtureRequest) -> Queued:
    made: Queued = request.param()
    return made


async def test_one_that_waits_has_not_left(server: Queued) -> None:
    client = Client(server.receive)
    server.tell(BODY)
    assert await client.receive() == BODY
    assert not client.has_left()
    assert not client.has_left()


async def test_one_that_left_has_left_for_the_application_too(server: Queued) -> None:
    client = Client(server.receive)
    server.tell(BODY)
    await client.receive()
    server.tell(GONE)
    await asyncio.sleep(0.01)
    assert client.has_left()
    assert client.has_left()
    assert await client.receive() == GONE


@pytest.mark.parametrize("read", [[], [HALF_A_BODY]])
async def test_a_body_that_is_not_read_to_its_end_is_left_to_the_application(server: Queued, read: list[Any]) -> None:
    client = Client(server.receive)
    for message in [*read, BODY]:
        server.tell(message)
    for message in read:
        assert await client.receive() == message
    assert not client.has_left()
    assert await client.receive() == BODY


@pytest.mark.parametrize("kind", [Queued, Promising])
async def test_a_wrapper_around_the_channel_is_waited_for_by_the_application_alone(kind: type[Queued]) -> None:
    server = kind()

    async def takes_and_waits() -> Any:
        message = await server.receive()
        await asyncio.sleep(0)
        return message

    client = Client(takes_and_waits)
    server.tell(BODY)
    await client.receive()
    server.tell(GONE)
    assert not client.has_left()
    assert await client.receive() == GONE


async def test_a_promise_that_the_server_takes_back_says_nothing() -> None:
    server = Promising()
    client = Client(server.receive)
    server.tell(BODY)
    await client.receive()
    assert client._promised is not None
    client._promised.cancel()
    await asyncio.sleep(0)
    assert not client.has_left()


async def test_a_message_that_comes_later_is_the_applications(server: Queued) -> None:
    client = Client(server.receive)
    server.tell(BODY)
    await client.receive()
    assert not client.has_left()  # nobody waits in the queue in the application's place
    waits = asyncio.create_task(client.receive())
    await asyncio.sleep(0)
    assert not client.has_left()  # the application is told first
    server.tell(GONE)
    assert await waits == GONE
