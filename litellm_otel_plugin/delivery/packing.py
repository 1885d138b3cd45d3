"""Spans that wait for a dead backend take a fifth of their memory: compressed by the example of earlier ones.

One by one, because each is dropped, batched and shared by itself; and with a dictionary, because a span alone has
little that repeats, and spans among each other nearly everything.
"""

from __future__ import annotations

import zlib

# What zlib can look back at; five to ten spans, which is what one or two requests have.
WINDOW_BITS = 13
SAMPLE_BYTES = 1 << WINDOW_BITS
_RAW = -WINDOW_BITS  # no header and no checksum: it stays in this process

# Small tables: their size is what making a compressor ready costs, and a span fills no larger ones.
MEMORY_LEVEL = 6
FASTEST = 1


class Packer:
    """Packs spans by the example of the first ones that it was shown."""

    def __init__(self) -> None:
        self._sample = b""
        self._ready: zlib._Compress | None = None

    def learn(self, encoded: bytes) -> None:
        """See what spans look like. Once packing has begun, that stands."""
        if self._ready is None and len(self._sample) < SAMPLE_BYTES:
            self._sample = (self._sample + encoded)[-SAMPLE_BYTES:]

    def pack(self, encoded: bytes) -> bytes:
        """The span, smaller."""
        if self._ready is None:
            self._ready = zlib.compressobj(
                FASTEST, zlib.DEFLATED, _RAW, MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, self._sample
            )
        compressor = self._ready.copy()
        return compressor.compress(encoded) + compressor.flush()

    def unpack(self, packed: bytes) -> bytes:
        """The span, as it was."""
        decompressor = zlib.decompressobj(_RAW, self._sample)
        return decompressor.decompress(packed) + decompressor.flush()
