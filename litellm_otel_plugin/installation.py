"""The plugin in one process: what is installed, what is off and why, and what there is to say of it."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from litellm_otel_plugin import upstream
from litellm_otel_plugin.announcement import announce
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.chain import ChainError
from litellm_otel_plugin.seams import APPLICATION, SeamMissing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import TracerProvider

    from litellm_otel_plugin.hooks import OtelPlugin
    from litellm_otel_plugin.settings import Settings
    from litellm_otel_plugin.upstream.folding import Folding

log = logging.getLogger("litellm_otel_plugin")

SDK_DISABLED = "OTEL_SDK_DISABLED"


@dataclass
class Installation:
    """The plugin in this process."""

    plugin: OtelPlugin
    settings: Settings
    operators_provider: TracerProvider | None
    off: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folding: Folding | None = None
    earlier: upstream.EarlierLoggers | None = None
    unbuilt: set[str] = field(default_factory=set)
    adopted: bool = False
    announced: bool = False
    guardrails: upstream.GuardrailWatch = field(default_factory=upstream.GuardrailWatch)

    def note(self, line: str) -> None:
        """Have a line said with the start-up report, or at once where that has been given."""
        if self.announced:
            log.warning("%s", line)
        elif line not in self.notes:
            self.notes.append(line)

    @contextmanager
    def switching_off(self) -> Iterator[None]:
        """Where LiteLLM or OpenTelemetry lacks what the block needs, note the feature that is off with it.

        What is there and not as we know it does not keep the proxy from starting either.
        """
        with contained("placing a call in LiteLLM"):
            try:
                yield
            except SeamMissing as missing:
                self.off[missing.seam.lost] = str(missing)
            except (ImportError, ChainError) as error:
                self.off[APPLICATION.lost] = str(error)

    def announce(self, backends: Sequence[tuple[str, str | None]] = ()) -> None:
        """Say what runs, once; what is noted from here on is said at once."""
        if not self.announced:
            self.announced = True
            announce(self.off, self.notes, backends)


def sdk_is_disabled() -> bool:
    """Whether the operator has switched OpenTelemetry off."""
    return os.environ.get(SDK_DISABLED, "").strip().lower() == "true"


def cause_of(error: Exception) -> str:
    """What failed, by name: the text of somebody else's exception can show a value."""
    missing = f" {error.name}" if isinstance(error, ImportError) and error.name else ""
    return f"{type(error).__name__}{missing}"
