"""What one backend is told of the process, where that is not what is on the spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.resources import Resource


@dataclass(frozen=True)
class Said:
    """One attribute of the process."""

    name: str
    # By whoever records, and by this backend's own logger; ``None`` where it says nothing.
    plain: Any
    own: Any
    # Whether the backend's own word counts even where somebody else has put another on the spans' resource since.
    insists: bool


@dataclass(frozen=True)
class OwnResource:
    """The resource of a backend's spans, from the one that the spans of all backends have."""

    differences: tuple[Said, ...]

    def __call__(self, resource: Resource) -> Resource:
        """The same but for the differences. What others than the recording logger say of the process stays."""
        attributes = dict(resource.attributes)
        for said in self.differences:
            if not said.insists and attributes.get(said.name) != said.plain:
                continue
            attributes.pop(said.name, None)
            if said.own is not None:
                attributes[said.name] = said.own
        return Resource(attributes, resource.schema_url)


def own_resource(plain: dict[str, Any], own: dict[str, Any], insisted: frozenset[str]) -> OwnResource | None:
    """The change from what the recording logger says of the process; ``None`` where a backend's says the same."""
    differences = tuple(
        Said(name, plain.get(name), own.get(name), insists=name in insisted)
        for name in sorted({*plain, *own})
        if plain.get(name) != own.get(name)
    )
    return OwnResource(differences) if differences else None
