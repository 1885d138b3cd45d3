"""The lifespan hook: callbacks exist → one logger → its provider global → our layer mounted → announced.

``make_plugin`` runs when config.yaml's line is imported, ``install`` as a worker start-up hook. Either only arranges
to be called again by LiteLLM: once when the callbacks exist, once when the proxy stops.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID
from opentelemetry.sdk.trace import TracerProvider

from litellm_otel_plugin import upstream
from litellm_otel_plugin.announcement import announce
from litellm_otel_plugin.backends.accounts import account_of, processors_of_provider, without_known_accounts
from litellm_otel_plugin.backends.folding import Backend, Backends
from litellm_otel_plugin.backends.operators import Operators
from litellm_otel_plugin.backends.tenants import RouteProcessor, Tenants
from litellm_otel_plugin.backends.vocabularies import Vocabularies
from litellm_otel_plugin.console import console_is_wanted, draw_on_console
from litellm_otel_plugin.delivery import Delivery, Limits
from litellm_otel_plugin.guard import contained, guard
from litellm_otel_plugin.privacy import variables_named_in
from litellm_otel_plugin.request.chain import ChainError
from litellm_otel_plugin.request.log_records import mark_with_ids
from litellm_otel_plugin.request.record import record_of_context
from litellm_otel_plugin.request.untraced import leave_out_untraced
from litellm_otel_plugin.seams import APPLICATION, FOLDING_LOST, HTTP_CLIENT, SeamMissing
from litellm_otel_plugin.settings import load_settings, unknown_names
from litellm_otel_plugin.shutdown import flush_everything
from litellm_otel_plugin.upstream.attempts import AttemptSpans
from litellm_otel_plugin.upstream.folding import Folding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeGuard

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.hooks import OtelPlugin
    from litellm_otel_plugin.settings import Settings

log = logging.getLogger("litellm_otel_plugin")

SDK_DISABLED = "OTEL_SDK_DISABLED"
STABILITY_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"


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


_installation: Installation | None = None


def install() -> None:
    """``LITELLM_WORKER_STARTUP_HOOKS=litellm_otel_plugin.startup:install``.

    It runs before LiteLLM has read config.yaml, and so before our section of it: the installation waits until it has.
    """
    try:
        upstream.wrap_startup_logging(make_plugin)
    except SeamMissing:
        make_plugin()


def make_plugin() -> OtelPlugin:
    """Install the plugin into this process's LiteLLM, once, and return what config.yaml names.

    Raises ``SettingsError``: LiteLLM imports the callbacks of config.yaml where an exception stops the start.
    """
    global _installation  # noqa: PLW0603 - LiteLLM is one per process, and module-level itself
    if _installation is not None:
        return _installation.plugin
    from litellm_otel_plugin.hooks import OtelPlugin  # noqa: PLC0415 - LiteLLM is needed from here on only

    _give_log_lines_an_outlet()
    section = upstream.plugin_settings()
    settings = load_settings(os.environ, section)
    unknown = unknown_names(os.environ, section)
    if unknown:
        log.warning("unknown settings, ignored: %s", ", ".join(unknown))
    provider = trace.get_tracer_provider()
    _installation = Installation(OtelPlugin(), settings, provider if isinstance(provider, TracerProvider) else None)
    if settings.enabled:
        guard.strict = settings.strict
        _arrange(_installation)
    return _installation.plugin


def _arrange(installation: Installation) -> None:
    """Place our calls in LiteLLM. What is missing there switches one feature off."""
    if upstream.v2_is_refused():
        log.warning("LiteLLM's v2 tracing is switched off with %s: the plugin stands aside", upstream.V2_SWITCH)
        return
    if not upstream.proxy_is_running():
        log.warning("this process is no LiteLLM proxy: the plugin has nothing to do in it")
        return
    from litellm_otel_plugin.hooks import (  # noqa: PLC0415 - as above
        request_authenticated,
        request_sent_unannounced,
        token_count_sent,
    )

    with _switching_off(installation):
        upstream.wrap_publish(
            prepare=lambda: _choose_logger(installation),
            after=lambda logger: _published(installation, logger),
            failed=lambda error: _not_published(installation, error),
        )
    if installation.off:  # LiteLLM stays as it is: its v2 tracing without our part of it loses half of each trace
        announce(installation.off, installation.notes, [])
        return
    arrangements: tuple[Callable[[], None], ...] = (
        upstream.enable_v2,
        lambda: upstream.wrap_resource({SERVICE_INSTANCE_ID: str(uuid.uuid4())}),
        upstream.silence_placeholder_exporter,
        lambda: upstream.report_unbuilt_presets(
            lambda name: name not in installation.unbuilt,
            lambda name, error: _preset_is_unbuilt(installation, name, error),
        ),
        lambda: upstream.wrap_authenticated(request_authenticated),
        installation.guardrails.install,
        installation.guardrails.make_spans,
        upstream.withhold_texts,
        lambda: upstream.wrap_authenticated(installation.guardrails.look),
        lambda: upstream.wrap_provider_client(request_sent_unannounced),
        lambda: upstream.wrap_litellms_client(token_count_sent),
        lambda: upstream.wrap_shutdown(
            lambda: flush_everything(
                installation.settings.shutdown_seconds, installation.plugin.delivery, installation.plugin.open_calls
            )
        ),
        *(_CORRELATE_LOGS if installation.settings.log_correlation else ()),
        *(_deliver_by_ourselves(installation) if installation.settings.delivery == "shared" else ()),
        *((lambda: _propagate(installation),) if installation.settings.propagate else ()),
        *(_fold(installation) if installation.settings.fold else ()),
        lambda: _watch_earlier_loggers(installation),
    )
    for arrangement in arrangements:
        with _switching_off(installation):
            arrangement()


def _propagate(installation: Installation) -> None:
    """Let providers continue the trace, where there is a span of each attempt to name."""
    if not installation.settings.fold:
        installation.off[HTTP_CLIENT.lost] = "without folding there is no span for each attempt"
    elif not _sdk_is_disabled():
        upstream.propagate_to_providers()


def _sdk_is_disabled() -> bool:
    return os.environ.get(SDK_DISABLED, "").strip().lower() == "true"


_CORRELATE_LOGS = (
    lambda: upstream.mark_log_records(mark_with_ids),
    upstream.show_span_id_in_text_logs,
    upstream.keep_span_id_of_json_logs,
)


def _deliver_by_ourselves(installation: Installation) -> tuple[Callable[[], None], ...]:
    """What puts the shared delivery in the place of the SDK's, for the operator's backends and for tenants'."""
    settings = installation.settings
    limits = Limits.from_environment(queue_bytes=settings.queue_bytes)
    delivery = installation.plugin.delivery = Delivery(limits)
    operators = Operators(delivery, proxy=settings.export_proxy, refused=_refusal(installation))
    tenants = Tenants(delivery, operators, settings.tenants_max)

    def in_words_of(span: ReadableSpan, callback_name: str | None) -> ReadableSpan:
        return span if installation.folding is None else installation.folding.in_words_of(span, callback_name)

    return (
        lambda: upstream.wrap_exporters(operators.processor, operators.processor_of_exporter),
        lambda: upstream.wrap_tenant_fan_out(tenants.deliver, tenants.can_deliver, in_words_of),
        lambda: upstream.wrap_tenant_routes(lambda backend: RouteProcessor(tenants, backend)),
        upstream.wrap_tenant_headers,
    )


def _refusal(installation: Installation) -> Callable[[str, str], None]:
    return lambda name, reason: installation.note(f"the backend {name} cannot be used: {reason}")


def _fold(installation: Installation) -> tuple[Callable[[], None], ...]:
    """What makes one of LiteLLM's many loggers."""
    backends = Backends(Vocabularies(), record_of_context, installation.note)
    folding = Folding(backends, record_of_context, installation.note)

    def install() -> None:
        try:
            folding.install()
        except SeamMissing as missing:
            installation.off[FOLDING_LOST] = str(missing)
        else:
            installation.folding = folding
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=folding.renew_locks)

    def where_folded(arrangement: Callable[[], None]) -> Callable[[], None]:
        return lambda: arrangement() if installation.folding is not None else None

    return (
        install,
        where_folded(upstream.let_v2_feed_phoenix),
        where_folded(lambda: upstream.wrap_team_callbacks(folding.backends.answer)),
    )


def _watch_earlier_loggers(installation: Installation) -> None:
    """Have those of LiteLLM's earlier loggers that would write a second copy give way, and name the others."""

    def is_published(provider: object) -> bool:
        return installation.folding is not None and provider is installation.folding.logger().tracer_provider

    def is_fed(callback_name: str, provider: object) -> bool:
        if installation.folding is None:
            return False
        if callback_name in installation.folding.names() or is_published(provider):
            return True
        accounts = {account_of(backend) for backend in installation.folding.backends} - {None}
        written = {account_of(each) for each in processors_of_provider(provider) or ()} - {None}
        return bool(written) and written <= accounts

    def gave_way(name: str) -> None:
        reason = "its copy would go to a backend that gets whole traces already"
        installation.note(f"LiteLLM's earlier {name} logger is taken out: {reason}")

    def stays(name: str) -> None:
        installation.note(f"LiteLLM's earlier tracing runs beside this: {name}")

    earlier = installation.earlier = upstream.EarlierLoggers(is_fed, is_published, gave_way, stays)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=earlier.renew_lock)
    earlier.watch()


def _choose_logger(installation: Installation) -> Any:
    """The one logger, emitting through the operator's own provider where that is the global one already."""
    try:
        logger = installation.folding.publishable() if installation.folding else upstream.ensure_v2_logger()
    except Exception as error:  # noqa: BLE001 - whatever LiteLLM cannot build an exporter with
        installation.notes.append(f"LiteLLM could not build a logger as it is configured ({_cause(error)})")
        return None
    with contained("choosing the provider to publish"):
        _settle_provider(installation, logger)
    if installation.folding is not None:
        with contained("telling attempts apart"), _switching_off(installation):
            _tell_attempts_apart(installation.plugin, logger)
    return logger


def _tell_attempts_apart(plugin: OtelPlugin, logger: Any) -> None:
    if plugin.spans is None:
        plugin.spans = AttemptSpans(logger)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=plugin.spans.calls.begin_anew)


def _not_published(installation: Installation, error: Exception) -> None:
    installation.off["every trace"] = f"LiteLLM could not build its logger: {_cause(error)}"
    announce(installation.off, installation.notes, [])


def _preset_is_unbuilt(installation: Installation, name: str, error: Exception | None) -> None:
    """LiteLLM asks for it again with every request that it is to be told of: it is said once."""
    installation.unbuilt.add(name)
    reason = "LiteLLM finds no credentials for it" if error is None else _cause(error)
    asked_for = variables_named_in(str(error)) if error is not None else ()
    if asked_for:
        reason = f"{reason}, it asks for {', '.join(asked_for)}"
    installation.note(f"the callback {name} cannot be built as it is configured: {reason}")


def _cause(error: Exception) -> str:
    """What failed, by name: the text of somebody else's exception can show a value."""
    missing = f" {error.name}" if isinstance(error, ImportError) and error.name else ""
    return f"{type(error).__name__}{missing}"


def _settle_provider(installation: Installation, logger: Any) -> None:
    current = trace.get_tracer_provider()
    if current is logger.tracer_provider or isinstance(current, trace.ProxyTracerProvider):
        return
    if not _is_the_operators(current, installation):
        owner = type(current).__module__.partition(".")[0]
        installation.notes.append(f"another provider ({owner}) is global already: traces go through LiteLLM's own")
        return
    installation.adopted = True
    installation.notes.append("an OpenTelemetry SDK provider was already set: it is used, with its exporters")
    processors = upstream.adopt_provider(logger, current)
    backends = [each for each in processors if isinstance(each, Backend)]
    others = [each for each in processors if not isinstance(each, Backend)]
    keep, twice = without_known_accounts(others, processors_of_provider(current) or ())
    for processor in keep:
        current.add_span_processor(processor)
    for processor in twice:
        processor.shutdown()
    if twice:
        installation.notes.append(f"{len(twice)} exporter(s) for an account that it already writes to: left out")
    if installation.folding is not None:
        for backend in backends:  # after the others, which note what a backend needs
            installation.folding.backends.move(backend, current)


def _is_the_operators(provider: object, installation: Installation) -> TypeGuard[TracerProvider]:
    """Whether an SDK provider was set before LiteLLM's callbacks, or by none of them."""
    return isinstance(provider, TracerProvider) and (
        provider is installation.operators_provider or not upstream.belongs_to_a_logger(provider)
    )


def _published(installation: Installation, logger: Any) -> None:
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
        with contained("looking at the earlier loggers"), _switching_off(installation):
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
    if _sdk_is_disabled():
        installation.off["every trace"] = f"{SDK_DISABLED} is set"
    if not installation.announced:
        installation.announced = True
        announce(installation.off, installation.notes, backends)


def _mount(installation: Installation, provider: TracerProvider) -> None:
    opt_in = [mode.strip() for mode in os.environ.get(STABILITY_OPT_IN, "").split(",")]
    excluded_paths = ""
    with _switching_off(installation):
        excluded_paths = upstream.excluded_paths()
    with _switching_off(installation):
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


@contextmanager
def _switching_off(installation: Installation) -> Iterator[None]:
    """Where LiteLLM or OpenTelemetry lacks what the block needs, note the feature that is off with it.

    What is there and not as we know it does not keep the proxy from starting either.
    """
    with contained("placing a call in LiteLLM"):
        try:
            yield
        except SeamMissing as missing:
            installation.off[missing.seam.lost] = str(missing)
        except (ImportError, ChainError) as error:
            installation.off[APPLICATION.lost] = str(error)


def _give_log_lines_an_outlet() -> None:
    """Print our lines where nothing else would: LiteLLM sets up its own loggers, and the root's with JSON logs only."""
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if log.hasHandlers():
        return
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("litellm-otel-plugin: %(message)s"))
    for handler in upstream.json_log_handlers() or [plain]:
        log.addHandler(handler)
    log.propagate = False
