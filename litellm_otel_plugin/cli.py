"""The command ``litellm-otel``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from litellm_otel_plugin import __version__
from litellm_otel_plugin.quickstart import run_quickstart
from litellm_otel_plugin.seams import installed_version
from litellm_otel_plugin.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="litellm-otel", description="Tracing for the LiteLLM proxy.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="print the plugin's version and what it runs beside")
    run = commands.add_parser("run", help="run a proxy with a master key of its own and print a request to paste")
    run.add_argument("--config", required=True, help="the proxy's config.yaml")
    run.add_argument("--port", type=int, default=4000)
    run.add_argument("--key-file", default=".quickstart-key", help="where the generated master key is kept")
    chosen = parser.parse_args(arguments)
    if chosen.command == "version":
        print_version()
        return 0
    try:
        return run_quickstart(chosen.config, chosen.port, chosen.key_file)
    except SettingsError as error:
        run.error(str(error))


def print_version() -> None:
    """The versions that a bug report needs."""
    packages = ("litellm", "opentelemetry-sdk", "opentelemetry-instrumentation-fastapi", "fastapi")
    beside = ", ".join(f"{package} {installed_version(package)}" for package in packages)
    sys.stdout.write(f"litellm-otel-plugin {__version__} ({beside})\n")


if __name__ == "__main__":
    sys.exit(main())
