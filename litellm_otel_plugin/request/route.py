"""The route template that the router matched, read from the ASGI scope after it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Match, Mount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def route_template(scope: Mapping[str, Any], application: object) -> str | None:
    """The whole template of the matched route, or ``None`` where nothing matched.

    ``application`` is the outermost one: a mounted application puts itself into the scope.

    The router leaves what it matched in the scope, so nothing has to be matched a second time: the instrumentation's
    own scan of every route costs up to 4 ms a request, and misses routes that are loaded on their first request.
    """
    inner = _matched_path(scope)
    if "app_root_path" not in scope:  # only a mount writes this
        return inner or _path_of_endpoint(scope, application)
    mount = _mount_path(scope, application)
    if mount is None:
        return inner
    return mount + (inner or "")


def _matched_path(scope: Mapping[str, Any]) -> str | None:
    # FastAPI with nested routers: `scope["route"]` is the route as its own router knows it, without the prefixes
    # under which that router was included. The effective context has them.
    context = (scope.get("fastapi") or {}).get("effective_route_context")
    if context is not None:
        effective = getattr(context, "starlette_route", None) or context
        path = getattr(effective, "path", None)
        if path:
            return str(path)
    route = scope.get("route")
    if route is None or isinstance(route, Mount):
        return None
    path = getattr(route, "path", None)
    return str(path) if path else None


def _path_of_endpoint(scope: Mapping[str, Any], application: object) -> str | None:
    """The template of a plain Starlette route: of those, FastAPI's router leaves only the endpoint behind."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    for route in getattr(application, "routes", ()):
        if getattr(route, "endpoint", None) is endpoint and route.matches(scope)[0] is not Match.NONE:
            return str(route.path)
    return None


def _mount_path(scope: Mapping[str, Any], application: object) -> str | None:
    """The template of the mount that took the request: the one thing the router does not leave behind."""
    # As the router saw it: before the mount, the root path was what the mount stored as `app_root_path`.
    outer = {**scope, "root_path": scope["app_root_path"]}
    for route in getattr(application, "routes", ()):
        if isinstance(route, Mount) and route.matches(outer)[0] is Match.FULL:
            return route.path
    return None
