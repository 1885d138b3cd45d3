"""The only code that touches LiteLLM's internals, through the seams that ``seams`` names.

Every function here asks LiteLLM for one thing and raises ``SeamMissing`` where LiteLLM no longer has it. Whoever calls
it switches one feature off, says so, and goes on. The proxy is never imported from here: where it runs, it is loaded.

``folding`` is imported by itself: it needs ``backends.accounts``, which needs this package.
"""

from litellm_otel_plugin.upstream.access import module, proxy_is_running, put, take
from litellm_otel_plugin.upstream.calls import (
    CALL_ID_KEY,
    COUNTING_DOORS,
    NO_PROVIDER_KEY,
    UNANNOUNCED_DOORS,
    is_made_anew,
    own_call,
    reached_no_provider,
    wrap_team_callbacks,
)
from litellm_otel_plugin.upstream.earlier import (
    EarlierLoggers,
    let_v2_feed_phoenix,
    report_unbuilt_presets,
)
from litellm_otel_plugin.upstream.exporters import (
    is_placeholder,
    protocol_of,
    silence_placeholder_exporter,
    traces_endpoint,
    unwrapped,
    wrap_exporters,
    wrap_resource,
)
from litellm_otel_plugin.upstream.guardrail_texts import withhold_texts
from litellm_otel_plugin.upstream.guardrails import GuardrailWatch
from litellm_otel_plugin.upstream.loggers import (
    adopt_provider,
    belongs_to_a_logger,
    captures_content,
    configured_exporters,
    ensure_v2_logger,
    register_hooks,
    v2_loggers,
)
from litellm_otel_plugin.upstream.logs import keep_span_id_of_json_logs, mark_log_records, show_span_id_in_text_logs
from litellm_otel_plugin.upstream.propagation import propagate_to_providers
from litellm_otel_plugin.upstream.start import (
    V2_SWITCH,
    application,
    drain_logging_worker,
    drop_mcp_message_spans,
    enable_v2,
    excluded_paths,
    json_log_handlers,
    plugin_settings,
    startup_logging_name,
    v2_flag,
    v2_is_refused,
    wrap_authenticated,
    wrap_litellms_client,
    wrap_provider_client,
    wrap_publish,
    wrap_shutdown,
    wrap_startup_logging,
)
from litellm_otel_plugin.upstream.tenants import (
    settle_tenant_trees,
    wrap_tenant_fan_out,
    wrap_tenant_headers,
    wrap_tenant_routes,
)

__all__ = [
    "CALL_ID_KEY",
    "COUNTING_DOORS",
    "NO_PROVIDER_KEY",
    "UNANNOUNCED_DOORS",
    "V2_SWITCH",
    "EarlierLoggers",
    "GuardrailWatch",
    "adopt_provider",
    "application",
    "belongs_to_a_logger",
    "captures_content",
    "configured_exporters",
    "drain_logging_worker",
    "drop_mcp_message_spans",
    "enable_v2",
    "ensure_v2_logger",
    "excluded_paths",
    "is_made_anew",
    "is_placeholder",
    "json_log_handlers",
    "keep_span_id_of_json_logs",
    "let_v2_feed_phoenix",
    "mark_log_records",
    "module",
    "own_call",
    "plugin_settings",
    "propagate_to_providers",
    "protocol_of",
    "proxy_is_running",
    "put",
    "reached_no_provider",
    "register_hooks",
    "report_unbuilt_presets",
    "settle_tenant_trees",
    "show_span_id_in_text_logs",
    "silence_placeholder_exporter",
    "startup_logging_name",
    "take",
    "traces_endpoint",
    "unwrapped",
    "v2_flag",
    "v2_is_refused",
    "v2_loggers",
    "withhold_texts",
    "wrap_authenticated",
    "wrap_exporters",
    "wrap_litellms_client",
    "wrap_provider_client",
    "wrap_publish",
    "wrap_resource",
    "wrap_shutdown",
    "wrap_startup_logging",
    "wrap_team_callbacks",
    "wrap_tenant_fan_out",
    "wrap_tenant_headers",
    "wrap_tenant_routes",
]
