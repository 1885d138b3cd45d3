"""A few daemon threads for calls that block: name look-ups and exporters that are not ours.

Those of ``concurrent.futures`` are joined when the interpreter exits, so that one call that hangs would hold the
process open.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class DaemonThreads:
    """Runs one call per thread, at most ``limit`` at a time; the others wait their turn."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._turn = asyncio.Semaphore(limit)

    async def run(self, call: Callable[[], Result]) -> Result:
        """The call's result. A caller that is cancelled does not wait for it; its thread is held until it returns."""
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def finish(result: Result | None, error: BaseException | None) -> None:
            self._turn.release()
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except Exception as raised:  # noqa: BLE001 - handed to whoever waits for it
                error = raised
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:  # the loop has closed: nobody waits any more
                return

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # none to be had, or the interpreter is about to exit: better late than never
            work()
        return await future
