"""One complete OpenTelemetry trace per request for the LiteLLM proxy.

``config.yaml`` names ``litellm_otel_plugin.plugin``. The instance is made on first access, so that the command line
and everything that is not LiteLLM's can be imported without LiteLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litellm_otel_plugin.hooks import OtelPlugin

    plugin: OtelPlugin

__version__ = "0.1.0"
__all__ = ["__version__", "plugin"]


def __getattr__(name: str) -> object:
    """Make ``plugin``, and install it, when LiteLLM asks for it."""
    if name != "plugin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from litellm_otel_plugin import startup  # noqa: PLC0415 - the import is what first access means

    return startup.make_plugin()
