"""``opentelemetry-instrument`` around a proxy, as an operator has it with OpenTelemetry's distribution installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.support.proxy import REPOSITORY

# What follows the two dashes is no option of the first program.
_PROGRAMS = Path(sys.executable).parent
PROGRAM = [str(_PROGRAMS / "opentelemetry-instrument"), "--", str(_PROGRAMS / "litellm")]


def installed_in(folder: Path) -> dict[str, str]:
    """The environment of a process that finds a distribution in a folder, and exports traces alone.

    ``opentelemetry-distro`` names the SDK's own configurator, and chooses gRPC.
    """
    described = folder / "operators_distro-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: operators-distro\nVersion: 1\n")
    configurator = "opentelemetry.sdk._configuration:_OTelSDKConfigurator"
    (described / "entry_points.txt").write_text(f"[opentelemetry_configurator]\nconfigurator = {configurator}\n")
    return {
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(folder))),
        "OTEL_SERVICE_NAME": "the-operators-own",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
