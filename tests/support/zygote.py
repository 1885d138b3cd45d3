"""Imports the proxy once and forks a proxy per request line, each without one seam: a proxy a second instead of ten.

A line of JSON on standard input starts one: the seam to take away, the port, the environment, the file for its log.
Its process id is answered on standard output.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

import uvicorn
from litellm.proxy import proxy_server

from litellm_otel_plugin import seams


def serve(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["environment"])
    seam = getattr(seams, order["seam"])
    # As if LiteLLM had renamed it: LiteLLM itself still works, our name for it is gone.
    setattr(seams, order["seam"], dataclasses.replace(seam, attribute="renamed_by_a_later_release"))
    uvicorn.run(proxy_server.app, host="127.0.0.1", port=order["port"], log_level="info")


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            serve(order)
            sys.stdout.flush()
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
