"""The files behind a connection's TLS: who is trusted and what is shown. They are renewed while a proxy runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litellm_otel_plugin.delivery.destination import Tls

# What cannot be read now can be there soon: a renewal takes files away and puts others in their place.
UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
UNREADABLE_CAUSE = "tls_files"

# In a directory of authorities OpenSSL finds one by the hash of its name; whatever else lies there is not trusted.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def last_changed(tls: Tls) -> tuple[int, ...]:
    """When each file was changed: what was made of them then is good until this is another answer."""
    files = (tls.ca_file, tls.client_certificate_file, tls.client_key_file)
    return tuple(Path(file).stat().st_mtime_ns for file in files if file)


def authorities(ca_file: str | None) -> bytes | None:
    """The certificates of a file, or of a directory as OpenSSL reads it."""
    if not ca_file:
        return None
    path = Path(ca_file)
    if not path.is_dir():
        return path.read_bytes()
    return b"\n".join(each.read_bytes() for each in sorted(path.iterdir()) if _HASHED.fullmatch(each.name))
