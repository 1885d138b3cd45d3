"""Bodies of exports from spans that are encoded already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from litellm_otel_plugin.delivery import otlp_json, wire
from litellm_otel_plugin.delivery.encoding import encode_resource, encode_schema_url, encode_scope
from litellm_otel_plugin.delivery.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from litellm_otel_plugin.delivery.destination import Destination
    from litellm_otel_plugin.delivery.lane import Lane, Parcel

# Scopes are the instrumentation libraries of this process; a program that made them up endlessly must not fill memory.
MOST_SCOPES = 1_000


@dataclass(frozen=True)
class Encoding:
    """How a body is put together from encoded spans, resources and scopes."""

    span: Callable[[bytes], bytes]
    scope_spans: Callable[[bytes, bytes, Iterable[bytes]], bytes]
    resource_spans: Callable[[bytes, bytes, Iterable[bytes]], bytes]
    request: Callable[[Iterable[bytes]], bytes]


PROTOBUF = Encoding(lambda span: span, wire.scope_spans, wire.resource_spans, wire.request)
JSON = Encoding(otlp_json.span, otlp_json.scope_spans, otlp_json.resource_spans, otlp_json.request)


class Batches:
    """Puts bodies together, and remembers the encodings of what repeats."""

    def __init__(self) -> None:
        self._plain: tuple[Resource, bytes, bytes] | None = None
        self._scopes: dict[InstrumentationScope | None, tuple[bytes, bytes]] = {}

    async def body(self, lane: Lane, parcels: Sequence[Parcel]) -> bytes:
        """The body of one export, in the destination's encoding."""
        encoding = JSON if lane.destination.protocol == "http/json" else PROTOBUF
        groups: dict[int, dict[InstrumentationScope | None, list[bytes]]] = {}
        resources: dict[int, Resource] = {}
        slices = Slices()
        for parcel in parcels:
            encoded = encoding.span(parcel.encoded)
            if slices.over:
                await slices.pause()
            resources[id(parcel.resource)] = parcel.resource
            groups.setdefault(id(parcel.resource), {}).setdefault(parcel.scope, []).append(encoded)
        return encoding.request(
            encoding.resource_spans(
                *self._resource(lane, resources[each]),
                [encoding.scope_spans(*self._scope(scope), spans) for scope, spans in scopes.items()],
            )
            for each, scopes in groups.items()
        )

    def _scope(self, scope: InstrumentationScope | None) -> tuple[bytes, bytes]:
        known = self._scopes.get(scope)
        if known is None:
            if len(self._scopes) >= MOST_SCOPES:
                self._scopes.clear()
            known = encode_scope(scope), encode_schema_url(scope.schema_url if scope is not None else None)
            self._scopes[scope] = known
        return known

    def _resource(self, lane: Lane, resource: Resource) -> tuple[bytes, bytes]:
        """A resource as this destination gets it. All spans of a process have one; the last is remembered."""
        if not _changes_resources(lane.destination):
            if self._plain is None or self._plain[0] is not resource:
                self._plain = resource, encode_resource(resource), encode_schema_url(resource.schema_url)
            return self._plain[1:]
        if lane.resource_cache is None or lane.resource_cache[0] is not resource:
            merged = resource
            if lane.destination.resource_defaults:
                merged = Resource(dict(lane.destination.resource_defaults)).merge(resource)
            if lane.destination.resource_overrides:
                merged = merged.merge(Resource(dict(lane.destination.resource_overrides)))
            if lane.destination.resource_change is not None:
                merged = lane.destination.resource_change(merged)
            lane.resource_cache = resource, encode_resource(merged), encode_schema_url(merged.schema_url)
        return lane.resource_cache[1:]


def _changes_resources(destination: Destination) -> bool:
    changes = destination.resource_defaults, destination.resource_overrides, destination.resource_change
    return any(changes)
