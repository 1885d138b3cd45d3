"""When LiteLLM's callbacks exist: one logger, its provider global, our layer mounted, and all of it said."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from litellm_otel_plugin import upstream
from litellm_otel_plugin.backends.accounts import processors_of_provider, without_known_accounts
from litellm_otel_plugin.backends.folding import Backend
from litellm_otel_plugin.console import console_is_wanted, draw_on_console
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.installation import SDK_DISABLED, cause_of, sdk_is_disabled
from litellm_otel_plugin.request.untraced import leave_out_untraced
from litellm_otel_plugin.upstream.attempts import AttemptSpans

if TYPE_CHECKING:
    from typing import TypeGuard

    from litellm_otel_plugin.hooks import OtelPlugin
    from litellm_otel_plugin.installation import Installation

STABILITY_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"


def choose_logger(installation: Installation) -> Any:
    """The one logger, emitting through the operator's own provider where that is the global one already."""
    try:
        logger = installation.folding.publishable() if installation.folding else upstream.ensure_v2_logger()
    except Exception as error:  # noqa: BLE001 - whatever LiteLLM cannot build an exporter with
        installation.note(f"LiteLLM could not build a logger as it is configured ({cause_of(error)})")
        return None
    with contained("choosing the provider to publish"):
        _settle_provider(installation, logger)
    if installation.folding is not None:
        with contained("telling attempts apart"), installation.switching_off():
            _tell_attempts_apart(installation.plugin, logger)
    return logger


def _tell_attempts_apart(plugin: OtelPlugin, logger: Any) -> None:
    if plugin.spans is None:
        plugin.spans = AttemptSpans(logger)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=plugin.spans.calls.begin_anew)


def not_published(installation: Installation, error: Exception) -> None:
    """LiteLLM could not: nothing of ours is in the way of its start."""
    installation.off["every trace"] = f"LiteLLM could not build its logger: {cause_of(error)}"
    installation.announce()


def _settle_provider(installation: Installation, logger: Any) -> None:
    current = trace.get_tracer_provider()
    if current is logger.tracer_provider or isinstance(current, trace.ProxyTracerProvider):
        return
    if not _is_the_operators(current, installation):
        owner = type(current).__module__.partition(".")[0]
        installation.note(f"another provider ({owner}) is global already: traces go through LiteLLM's own")
        return
    installation.adopted = True
    installation.note("an OpenTelemetry SDK provider was already set: it is used, with its exporters")
    processors = upstream.adopt_provider(logger, current)
    backends = [each for each in processors if isinstance(each, Backend)]
    others = [each for each in processors if not isinstance(each, Backend)]
    keep, twice = without_known_accounts(others, processors_of_provider(current) or ())
    for processor in keep:
        current.add_span_processor(processor)
    for processor in twice:
        processor.shutdown()
    if twice:
        installation.note(f"{len(twice)} exporter(s) for an account that it already writes to: left out")
    if installation.folding is not None:
        for backend in backends:  # after the others, which note what a backend needs
            installation.folding.backends.move(backend, current)


def _is_the_operators(provider: object, installation: Installation) -> TypeGuard[TracerProvider]:
    """Whether an SDK provider was set before LiteLLM's callbacks, or by none of them."""
    return isinstance(provider, TracerProvider) and (
        provider is installation.operators_provider or not upstream.belongs_to_a_logger(provider)
    )


def published(installation: Installation, logger: Any) -> None:
    """LiteLLM's callbacks exist and one provider is global. LiteLLM swallows exceptions from here."""
    with contained("registering the plugin's hooks"):
        upstream.register_hooks(installation.plugin)
    backends = []
    with contained("listing the backends"):
        if installation.folding is not None:
            backends = [(backend.name, backend.site.endpoint) for backend in installation.folding.backends]
        else:
            backends = [exporter for each in upstream.v2_loggers() for exporter in upstream.configured_exporters(each)]
    if installation.earlier is not None:
        with contained("looking at the earlier loggers"), installation.switching_off():
            installation.earlier.start()
    with contained("attaching the console view"):
        if installation.adopted:
            backends.append(("the exporters of the provider that was already set", None))
        if console_is_wanted(installation.settings.console, backends=len(backends)):
            draw_on_console(logger.tracer_provider, shows_content=upstream.captures_content(logger))
            backends.append(("console", None))
    installation.guardrails.look()
    with contained("leaving out what is not traced"):
        leave_out_untraced(logger.tracer_provider, logger.tracer)
    with contained("dropping the MCP SDK's message spans"):
        upstream.drop_mcp_message_spans()
    with contained("mounting the request layer"):
        _mount(installation, logger.tracer_provider)
    if sdk_is_disabled():
        installation.off["every trace"] = f"{SDK_DISABLED} is set"
    installation.announce(backends)


def _mount(installation: Installation, provider: TracerProvider) -> None:
    opt_in = [mode.strip() for mode in os.environ.get(STABILITY_OPT_IN, "").split(",")]
    excluded_paths = ""
    with installation.switching_off():
        excluded_paths = upstream.excluded_paths()
    with installation.switching_off():
        # Only here: where the instrumentation is not as we know it, the rest of the plugin still starts.
        from litellm_otel_plugin.request.mount import mount  # noqa: PLC0415

        mounted = mount(
            upstream.application(),
            tracer_provider=provider,
            legacy_names=installation.settings.http_semconv == "dup" or "http/dup" in opt_in,
            excluded_paths=excluded_paths,
            server_timing=installation.settings.server_timing,
            remote_parent=installation.settings.remote_parent,
        )
        installation.off.update(mounted.off)
