"""How the rest of this package reaches what ``seams`` names."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.seams import Seam, SeamMissing

if TYPE_CHECKING:
    from types import ModuleType


def proxy_is_running() -> bool:
    """Whether this process is a proxy; LiteLLM's SDK alone has no start-up, no application and no SERVER span."""
    return seams.PROXY_MODULE in sys.modules


def module(name: str) -> ModuleType:
    """A module of LiteLLM's or of a dependency."""
    # The proxy's own modules are taken as they were loaded: importing one here would start a proxy's worth of code.
    loaded = sys.modules.get(name)
    return loaded if loaded is not None else importlib.import_module(name)


def take(seam: Seam) -> Any:
    """What a seam names; ``SeamMissing`` where it is not there."""
    if seam.module.startswith("litellm.proxy.") and not proxy_is_running():
        raise SeamMissing(seam)
    try:
        return getattr(module(seam.module), seam.attribute)
    except (ImportError, AttributeError):
        raise SeamMissing(seam) from None


def put(seam: Seam, replacement: object) -> None:
    """Stand something else in a seam's place."""
    setattr(module(seam.module), seam.attribute, replacement)
