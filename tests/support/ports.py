"""Ports for what the tests start, each of which nobody else takes before it is listened on.

A port that the kernel picks is free for the moment only: by the time a proxy has started (12 s), another test process,
or any connection that anybody makes, may have been given it.
"""

from __future__ import annotations

import fcntl
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

OUTSIDE_OF_THE_KERNELS = range(20_000, 32_000)
"""Below what Linux (32768 and up) and macOS (49152 and up) give to connections."""

_CLAIMS = Path(tempfile.gettempdir()) / "litellm-otel-plugin-tests-ports"

_claimed: list[IO[str]] = []
"""Files whose locks keep the other test processes away, as long as this one lives."""


def free_port() -> int:
    """A port that nothing listens on, and that is never given again while this process lives."""
    _CLAIMS.mkdir(exist_ok=True)
    for port in random.sample(OUTSIDE_OF_THE_KERNELS, len(OUTSIDE_OF_THE_KERNELS)):
        claim = (_CLAIMS / str(port)).open("w")
        with suppress(OSError):  # another process has it
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            _claimed.append(claim)
            return port
        claim.close()
    raise OSError("every port of the tests is taken")
