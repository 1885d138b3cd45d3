"""What may leave the process: credentials are taken out of what is stamped on a span or printed."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus, urlsplit

REDACTED = "REDACTED"

# Query parameters that carry a credential: LiteLLM takes a virtual key as `?key=`, providers behind a pass-through
# take theirs the same way, and signed URLs of the object stores are credentials by themselves.
_CREDENTIAL_PARAMETER = re.compile(
    r"^(?:.*(?:key|token|secret|password|passwd|signature|credential|authorization|auth|session|jwt).*"
    r"|code|pwd|pass|passphrase|pin|otp|bearer|sas|sig|state|assertion)$",
    re.IGNORECASE,
)

# A path segment this long that mixes letters and digits is a token more often than a name (some vendors put the
# ingest token into the path); 20 is longer than any version, project or region name we know.
_OPAQUE_SEGMENT = re.compile(r"^(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_\-.~=+]{20,}$")


def redact_query(query: str) -> str:
    """The query string with the values of its credential parameters replaced."""
    parts = []
    for pair in query.split("&"):
        name, separator, _value = pair.partition("=")
        credential = separator and _CREDENTIAL_PARAMETER.match(unquote_plus(name))
        parts.append(f"{name}={REDACTED}" if credential else pair)
    return "&".join(parts)


def printable_endpoint(endpoint: str) -> str:
    """An endpoint as it may be printed: no user information, no query, no opaque path segments."""
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        port = f":{url.port}" if url.port else ""
    except ValueError:
        return "an endpoint that is no URL"
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    path = "/".join("…" if _OPAQUE_SEGMENT.match(segment) else segment for segment in url.path.split("/"))
    scheme = f"{url.scheme}://" if url.scheme else ""
    return f"{scheme}{host}{port}{path}"


# What LiteLLM's presets read. Other words of that shape could be somebody's key.
_VARIABLE = re.compile(
    r"\b(?:AGENTOPS|ARIZE|LANGFUSE|LANGTRACE|LEVOAI|NEW_RELIC|OTEL|PHOENIX|SIGNOZ|WANDB|WEAVE)(?:_[A-Z]+)+\b"
)


def variables_named_in(text: str) -> list[str]:
    """The environment variables that a message of somebody else's names: the one part of it that shows no value."""
    return list(dict.fromkeys(_VARIABLE.findall(text)))
