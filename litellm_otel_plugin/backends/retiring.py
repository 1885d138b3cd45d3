"""Closing what is not used any more."""

from __future__ import annotations

import threading
from typing import Any

from litellm_otel_plugin.guard import contained


def shut_down_aside(unused: Any) -> None:
    """Shut something of the SDK's down off the event loop: it delivers what is left first."""

    def run() -> None:
        with contained("closing what is not used any more"):
            unused.shutdown()

    threading.Thread(target=run, name="litellm-otel-plugin-retire", daemon=True).start()
