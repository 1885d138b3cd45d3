"""The lifespan hook: callbacks exist → one logger → its provider global → our layer mounted → announced.

``make_plugin`` runs when config.yaml's line is imported, ``install`` as a worker start-up hook. Either only arranges
to be called again by LiteLLM: once when the callbacks exist, once when the proxy stops.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID
from opentelemetry.sdk.trace import TracerProvider

from litellm_otel_plugin import upstream
from litellm_otel_plugin.backends.accounts import account_of, processors_of_provider
from litellm_otel_plugin.backends.folding import Backend, Backends
from litellm_otel_plugin.backends.operators import Operators
from litellm_otel_plugin.backends.tenants import RouteProcessor, Tenants
from litellm_otel_plugin.backends.vocabularies import Vocabularies
from litellm_otel_plugin.delivery import Delivery, Limits
from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.installation import Installation, cause_of, sdk_is_disabled
from litellm_otel_plugin.privacy import variables_named_in
from litellm_otel_plugin.publishing import choose_logger, not_published, published
from litellm_otel_plugin.request.log_records import mark_with_ids
from litellm_otel_plugin.request.record import record_of_context
from litellm_otel_plugin.seams import FOLDING_LOST, HTTP_CLIENT, SeamMissing
from litellm_otel_plugin.settings import load_settings, unknown_names
from litellm_otel_plugin.shutdown import flush_everything
from litellm_otel_plugin.upstream.folding import Folding

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.hooks import OtelPlugin

log = logging.getLogger("litellm_otel_plugin")

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

    with installation.switching_off():
        upstream.wrap_publish(
            prepare=lambda: choose_logger(installation),
            after=lambda logger: published(installation, logger),
            failed=lambda error: not_published(installation, error),
        )
    if installation.off:  # LiteLLM stays as it is: its v2 tracing without our part of it loses half of each trace
        installation.announce()
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
        with installation.switching_off():
            arrangement()


def _propagate(installation: Installation) -> None:
    """Let providers continue the trace, where there is a span of each attempt to name."""
    if not installation.settings.fold:
        installation.off[HTTP_CLIENT.lost] = "without folding there is no span for each attempt"
    elif not sdk_is_disabled():
        upstream.propagate_to_providers()


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
        folding = installation.folding
        names = {member.name for each in folding.backends for member in each.members}
        if is_published(provider) or callback_name in names:
            return True
        fed = [each for each in folding.backends if any(member.is_listed() for member in each.members)]
        every = processors_of_provider(folding.logger().tracer_provider) or ()
        operators = [each for each in every if not isinstance(each, Backend)]
        accounts = {account_of(each) for each in (*fed, *operators)} - {None}
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


def _preset_is_unbuilt(installation: Installation, name: str, error: Exception | None) -> None:
    """LiteLLM asks for it again with every request that it is to be told of: it is said once."""
    installation.unbuilt.add(name)
    reason = "LiteLLM finds no credentials for it" if error is None else cause_of(error)
    asked_for = variables_named_in(str(error)) if error is not None else ()
    if asked_for:
        reason = f"{reason}, it asks for {', '.join(asked_for)}"
    installation.note(f"the callback {name} cannot be built as it is configured: {reason}")


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
