"""Run a command on a terminal of its own and copy what it prints; pass the signals that stop it on."""

from __future__ import annotations

import os
import pty
import signal
import sys


def main() -> int:
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    while True:
        try:
            printed = os.read(terminal, 65_536)
        except OSError:  # Linux's way of saying that the other end has gone
            break
        if not printed:
            break
        os.write(sys.stdout.fileno(), printed)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
