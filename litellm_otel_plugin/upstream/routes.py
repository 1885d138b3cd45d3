"""Where a request's model call goes beside, or instead of, the backend that has the rest of its trace.

A key or a team can have a project or an account of its own at one backend: LiteLLM sends that backend's copy of the
model call there, in a trace of its own that is linked to the request's. The other backends keep the whole tree.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.trace import INVALID_SPAN, Link, get_current_span, set_span_in_context

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import OF_AN_ATTEMPT
from litellm_otel_plugin.upstream.access import module, take
from litellm_otel_plugin.upstream.tenants import MOST_RESOURCES
from litellm_otel_plugin.upstream.wording import in_its_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from litellm_otel_plugin.backends.vocabularies import Vocabularies
    from litellm_otel_plugin.upstream.identity import Identities


class CallRoutes:
    """The routes that one call takes beside the tree's own, and the copies of its span on them."""

    def __init__(self) -> None:
        self.routes: list[tuple[Any, Any]] = []
        self.copies: list[tuple[Any, Any]] = []
        # Backends that are to have it in another way, and for which that way could not be found.
        self.lost: list[str] = []


class Routes:
    """Stands where the one logger has its cache of tenants' routes."""

    def __init__(
        self,
        vocabularies: Vocabularies,
        identities: Identities,
        loggers: Callable[[], Iterable[Any]],
        is_wanted: Callable[[Any], bool],
    ) -> None:
        self._vocabularies = vocabularies
        self._identities = identities
        self._loggers = loggers
        self._is_wanted = is_wanted
        self._named: dict[tuple[Any, str], Any] = {}
        self._taken_by: WeakKeyDictionary[Any, CallRoutes] = WeakKeyDictionary()

    def route_for(self, default: Any, dynamic_params: Any, auth_metadata: Mapping[str, str] | None = None) -> Any:
        """The tracer for one call: the tree's own, under the service name of the key or the team where it has one."""
        tracer = default
        taken = CallRoutes()
        with contained("finding the routes of a call"):
            service = take(seams.SERVICE_NAME)(auth_metadata)
            if service and not take(seams.REQUEST_BACKENDS)():
                tracer = self._under_name(default, service)
            self._take(taken, default, dynamic_params, auth_metadata)
        elsewhere = bool(taken.routes or taken.lost)
        return module(seams.ROUTING_MODULE).TenantRoute(
            tracer=_Copying(tracer, taken, self) if elsewhere else tracer,
            detached=False,
            provider=taken if elsewhere else None,
        )

    def release(self, taken: CallRoutes | None) -> None:
        """The call has ended: what it was routed by may go."""
        if taken is None:
            return
        copies, taken.copies = taken.copies, []
        for _, detached in copies:  # LiteLLM ended the call without a word of what it was
            detached.end()
        for logger, route in taken.routes:
            with contained("releasing a route"):
                logger._tenant_tracers.release(route.provider)  # noqa: SLF001

    def copy_span(self, span: Any, taken: CallRoutes, name: str, context: Any, **how: Any) -> None:
        """Start each backend's own copy of a span, and keep the span itself from that backend."""
        self._taken_by[span] = taken
        anchor = get_current_span(context).get_span_context()
        links = [*(how.get("links") or ()), *([Link(anchor)] if anchor.is_valid else [])]
        alone = set_span_in_context(INVALID_SPAN, context)
        for backend in taken.lost:
            self._vocabularies.withhold(span, backend)
        for logger, route in taken.routes:
            self._vocabularies.withhold(span, logger.callback_name)
            with contained("copying a span to a route"):
                own_context = self._identities.as_promoted_for(logger, alone)
                own = {**how, "context": own_context, "start_time": span.start_time, "links": links}
                taken.copies.append((logger, route.tracer.start_span(name, **own)))

    def finish_copies(self, role: Any, span: Any, data: Any, *, end_time_ns: int | None) -> None:
        """End the copies of a span, each in its logger's words."""
        taken = self._taken_by.pop(span, None)
        if taken is None:
            return
        copies, taken.copies = taken.copies, []
        for logger, detached in copies:
            with contained("ending a copy of a span"):
                own = in_its_view(data, logger)
                detached.set_attributes(
                    {name: value for name, value in span.attributes.items() if name in OF_AN_ATTEMPT}
                )
                logger._emitter.finish_span(role, detached, own, end_time_ns=end_time_ns)  # noqa: SLF001

    def _take(
        self, taken: CallRoutes, default: Any, dynamic_params: Any, auth_metadata: Mapping[str, str] | None
    ) -> None:
        # Of two with one name, LiteLLM built the later one because the earlier had no credentials.
        for logger in {each.callback_name: each for each in self._loggers()}.values():
            found = False
            with contained("finding the route to a backend"):
                cache = logger._tenant_tracers  # noqa: SLF001 - LiteLLM's own knowledge of this backend's routes
                asked = cache._credential_headers(dynamic_params) or cache._project_headers(auth_metadata)  # noqa: SLF001
                if asked and self._is_wanted(logger):
                    route = cache.route_for(default, dynamic_params, auth_metadata)
                    if route.detached:
                        taken.routes.append((logger, route))
                    else:
                        cache.release(route.provider)
                found = True
            if not found and logger.callback_name is not None:
                taken.lost.append(logger.callback_name)

    def _under_name(self, default: Any, service: str) -> Any:
        key = (default, service)
        tracer = self._named.get(key)
        if tracer is None:
            if len(self._named) >= MOST_RESOURCES:
                self._named.clear()
            tracer = self._named[key] = copy.copy(default)
            tracer.resource = default.resource.merge(Resource({SERVICE_NAME: service}))
        return tracer


class _Copying:
    """A tracer whose spans some backends get a copy of, each to its own place."""

    def __init__(self, tracer: Any, taken: CallRoutes, routes: Routes) -> None:
        self._tracer = tracer
        self._taken = taken
        self._routes = routes

    def start_span(self, name: str, context: Any = None, **how: Any) -> Any:
        span = self._tracer.start_span(name, context=context, **how)
        with contained("copying a span to its routes"):
            if span.is_recording():
                self._routes.copy_span(span, self._taken, name, context, **how)
        return span
