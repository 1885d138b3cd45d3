"""How long the tests wait for what must happen.

On a busy machine everything takes long, and only a test that fails waits for so long.
"""

from __future__ import annotations

SECONDS = 60.0
