"""What the plugin says when it has started: one line per backend, one per feature that is off and why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from litellm_otel_plugin import __version__
from litellm_otel_plugin.privacy import printable_endpoint
from litellm_otel_plugin.seams import PUBLISH, litellm_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("litellm_otel_plugin")


def announce(off: Mapping[str, str], notes: Sequence[str], backends: Sequence[tuple[str, str | None]]) -> None:
    """Say what runs. Endpoints are printed without their credentials."""
    log.info("%s on LiteLLM %s", __version__, litellm_version())
    for kind, endpoint in backends:
        log.info("traces go to %s%s", kind, f" at {printable_endpoint(endpoint)}" if endpoint else "")
    if not backends and PUBLISH.lost not in off:
        log.warning("traces go nowhere: no backend is configured and the console view is off")
    for note in notes:
        log.info("%s", note)
    for feature, reason in off.items():
        log.warning("off: %s (%s)", feature, reason)
