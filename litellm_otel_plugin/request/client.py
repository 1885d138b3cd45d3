"""What comes from the client of one request: its messages, and whether it is still there."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]


class Client:
    """The server's channel for one request."""

    __slots__ = ("_ahead", "_body_read", "_promised", "_receive", "_waited_for")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ahead: Message | None = None
        # Of a server that looks for a message from when it is asked, and tells in its own time.
        self._promised: asyncio.Future[Message] | None = None
        self._body_read = False
        self._waited_for = False

    async def receive(self) -> Message:
        """The next message."""
        if self._ahead is not None:
            message, self._ahead = self._ahead, None
            return message
        coming: Awaitable[Message] = self._promised or self._receive()
        self._promised = None
        self._waited_for = True
        try:
            message = await coming
        finally:
            self._waited_for = False
        self._body_read = message["type"] == "http.request" and not message.get("more_body", False)
        if self._body_read and asyncio.isfuture(coming):
            self._promised = asyncio.ensure_future(self._receive())
        return message

    def has_left(self) -> bool:
        """Whether the server knows by now that nobody waits for the answer.

        An application that makes its answer in one piece does not ask, and the server takes it without a word. After
        the body the only message to come is that the client has left.
        """
        if not self._body_read or self._waited_for:
            return False  # what comes next is the body, or goes to who waits for it
        promised = self._promised
        if promised is not None:
            arrived = promised.done() and not promised.cancelled() and promised.exception() is None
            return arrived and _says_so(promised.result())
        if not inspect.ismethod(self._receive):
            return False  # somebody's wrapper: one that takes a message and waits on would lose it if it is not awaited
        if self._ahead is None:
            self._ahead = _at_once(self._receive())
        return self._ahead is not None and _says_so(self._ahead)


def _says_so(message: Message) -> bool:
    return bool(message["type"] == "http.disconnect")


def _at_once(coming: Awaitable[Message]) -> Message | None:
    """A message that is there already; ``None`` where it had to be waited for. No turn of the event loop is taken."""
    if not isinstance(coming, Coroutine):
        return None
    try:
        coming.send(None)
    except StopIteration as there:
        arrived: Message = there.value
        return arrived
    coming.close()
    return None
