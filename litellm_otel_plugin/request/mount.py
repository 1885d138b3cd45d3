"""Put contrib's middleware, and our layer inside it, around the whole application.

One place for every row of versions: outermost. Where LiteLLM or ``opentelemetry-instrument`` mounted contrib's
middleware before us, theirs is taken out of the chain and its configuration carried over. Left where it is, it would
report the legacy names (it reads the opt-in at import), scan every route, sit inside LiteLLM's own middlewares with
older releases and record an exception a second time.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation import _semconv as contrib_semconv
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.semconv.attributes.http_attributes import HTTP_ROUTE
from opentelemetry.util.http import ExcludeList, parse_excluded_urls
from starlette.middleware.errors import ServerErrorMiddleware

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.caller import CallersTraceLayer, linking_to_the_caller
from litellm_otel_plugin.request.chain import ChainError
from litellm_otel_plugin.request.layer import RequestLayer
from litellm_otel_plugin.request.own_context import OwnContextLayer
from litellm_otel_plugin.request.record import current_record
from litellm_otel_plugin.request.span_details import SpanDetails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import TracerProvider

    from litellm_otel_plugin.settings import RemoteParent

EXCLUDED_URLS = "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS"
CONTRIB_PACKAGE = "opentelemetry.instrumentation."
# LiteLLM's request hook rewrites the route of a pass-through to its raw path, one name per path ever requested.
HOOKS_NOT_KEPT = frozenset({"_passthrough_span_name_hook"})


@dataclass
class Mounted:
    """What came of it: the features that are off, and why."""

    off: dict[str, str] = field(default_factory=dict)


def mount(
    application: Any,
    *,
    tracer_provider: TracerProvider,
    legacy_names: bool,
    excluded_paths: str,
    server_timing: bool = False,
    remote_parent: RemoteParent = "continue",
) -> Mounted:
    """Put contrib's middleware and our layer around ``application``; a second call changes nothing."""
    stack = getattr(application, "middleware_stack", None)
    if stack is None:
        raise ChainError("the application's middleware stack does not exist yet")
    mounted = Mounted()
    if any(isinstance(link, RequestLayer) for link in _links(stack)):
        return mounted
    stack, earlier = _without_contrib(stack)
    request_hook = _kept_hook(earlier, "server_request_hook")
    semconv = _SemanticConventions(legacy_names=legacy_names)
    with semconv.in_force(mounted):
        middleware = OpenTelemetryMiddleware(
            # Starlette's innermost net answers what even LiteLLM's exception handlers fail on. Without it the server
            # would, outside of the trace; with it, contrib has always had one in the same place.
            RequestLayer(ServerErrorMiddleware(stack), server_timing=server_timing),
            excluded_urls=_excluded_urls(earlier, excluded_paths),
            # Not the global one: where another SDK claimed that, the SERVER span would leave its own trace.
            tracer_provider=tracer_provider,
            default_span_details=SpanDetails(legacy_names=legacy_names),
            server_request_hook=linking_to_the_caller(request_hook) if remote_parent == "link" else request_hook,
            client_request_hook=_kept_hook(earlier, "client_request_hook"),
            client_response_hook=_kept_hook(earlier, "client_response_hook"),
            # One span per ASGI message would be most of the trace and say nothing.
            exclude_spans=["receive", "send"],
        )
    _put_route_on_metrics(middleware, mounted)
    application.middleware_stack = OwnContextLayer(
        middleware if remote_parent == "continue" else CallersTraceLayer(middleware, keeps_link=remote_parent == "link")
    )
    return mounted


class ExcludedPaths(ExcludeList):
    """Patterns that are looked for in the path alone.

    Contrib looks for them in the whole URL, where `/docs` is also found in `http://docs.example.com/`: whoever is
    reached by such a name, or sends it as Host, would not be traced.
    """

    def url_disabled(self, url: str) -> bool:
        """Whether contrib shall make no span for this URL."""
        with contained("looking for an excluded path"):
            return bool(super().url_disabled(path_of(url)))
        return False


def path_of(url: str) -> str:
    """The path of a URL that contrib put together around a Host header, which a client can fill with anything."""
    _scheme, _separator, rest = url.partition("://")
    _host, slash, path = rest.partition("/")
    return slash + path


def _excluded_urls(earlier: OpenTelemetryMiddleware | None, default_paths: str) -> ExcludeList | None:
    if EXCLUDED_URLS in os.environ:  # the operator's, and matched as OpenTelemetry documents it
        return parse_excluded_urls(os.environ[EXCLUDED_URLS])
    if earlier is not None and not _is_litellms(earlier):
        theirs: ExcludeList | None = earlier.excluded_urls
        return theirs
    return ExcludedPaths([path.strip() for path in default_paths.split(",") if path.strip()])


def _is_litellms(earlier: OpenTelemetryMiddleware) -> bool:
    return _written_name(earlier.server_request_hook) in HOOKS_NOT_KEPT


def _links(stack: Any) -> Iterator[Any]:
    while stack is not None:
        yield stack
        stack = getattr(stack, "app", None)


def _without_contrib(stack: Any) -> tuple[Any, OpenTelemetryMiddleware | None]:
    """The chain without contrib's links, and contrib's middleware if it was one of them."""
    earlier: OpenTelemetryMiddleware | None = None
    outermost, parent, link = stack, None, stack
    while link is not None:
        following = getattr(link, "app", None)
        if type(link).__module__.startswith(CONTRIB_PACKAGE) and following is not None:
            if type(link) is OpenTelemetryMiddleware:
                earlier = link
            if parent is None:
                outermost = following
            else:
                parent.app = following
        else:
            parent = link
        link = following
    return outermost, earlier


def _kept_hook(earlier: OpenTelemetryMiddleware | None, name: str) -> Callable[..., None] | None:
    hook: Callable[..., None] | None = getattr(earlier, name, None)
    return None if _written_name(hook) in HOOKS_NOT_KEPT else hook


def _written_name(hook: Callable[..., None] | None) -> str:
    written = getattr(hook, "__wrapped__", hook)  # contrib wraps each hook
    return getattr(written, "__name__", "")


class _SemanticConventions:
    """Which HTTP names contrib's middleware reports.

    It takes them from a process-wide opt-in that is read once, at the first import of any instrumentation. Other
    instrumentations of the operator's go by it too, so ours is in force only while our middleware is made.
    """

    def __init__(self, *, legacy_names: bool) -> None:
        self._legacy_names = legacy_names

    @contextmanager
    def in_force(self, mounted: Mounted) -> Iterator[None]:
        try:
            stability = contrib_semconv._OpenTelemetrySemanticConventionStability  # noqa: SLF001 - no public way
            signal = contrib_semconv._OpenTelemetryStabilitySignalType.HTTP  # noqa: SLF001
            modes = contrib_semconv._StabilityMode  # noqa: SLF001
            stability._initialize()  # type: ignore[no-untyped-call]  # noqa: SLF001
            mapping: dict[Any, Any] = stability._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING  # noqa: SLF001
            mode = modes.HTTP_DUP if self._legacy_names else modes.HTTP
        except AttributeError as missing:
            mounted.off["stable HTTP attribute names"] = f"OpenTelemetry's instrumentation has no {missing.name}"
            yield
            return
        before = mapping.get(signal)
        mapping[signal] = mode
        try:
            yield
        finally:
            mapping[signal] = before


def _put_route_on_metrics(middleware: OpenTelemetryMiddleware, mounted: Mounted) -> None:
    """Give contrib's ``http.server.*`` metrics the route, which contrib expects before the router has run.

    Contrib also sets a status without a description over the one that LiteLLM described: that one is kept.
    """
    original = getattr(middleware, "_set_server_span", None)
    if original is None:
        mounted.off["http.route on http.server.* metrics"] = (
            "OpenTelemetry's instrumentation has no OpenTelemetryMiddleware._set_server_span"
        )
        return

    def set_server_span(server_span: Any, message: Any, status_code: Any, duration_attributes: Any) -> None:
        before = getattr(server_span, "status", None)
        with contained("putting the route on metrics"):
            record = current_record()
            if record is not None and record.route is not None:
                duration_attributes[HTTP_ROUTE] = record.route
        original(server_span, message, status_code, duration_attributes)
        with contained("keeping the description of an error"):
            if before is not None and before.description and not server_span.status.description:
                server_span.set_status(before)

    # An instance attribute: contrib's class stays as it is, and is recognised by its exact name.
    middleware._set_server_span = set_server_span  # type: ignore[method-assign]  # noqa: SLF001
