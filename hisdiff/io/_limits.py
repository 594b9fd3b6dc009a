"""How much memory a file may take that has to be decoded as a whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hisdiff._cores import free_memory

if TYPE_CHECKING:
    from pathlib import Path

SUSPICIOUS_BYTES = 512 * 2**20
"""Decoded images below this are read for files of any size."""
MAX_COMPRESSED = 200
"""Times that a decoded image may be larger than its file; photographs of tissue come to 50 at most."""


def check_decoded(path: Path, shape: tuple[int, ...], itemsize: int = 1) -> None:
    """Raise before an image is decoded that is far larger than its file or than the memory that is free."""
    decoded, stored = math.prod(shape) * itemsize, path.stat().st_size
    if decoded > SUSPICIOUS_BYTES and decoded > MAX_COMPRESSED * stored:
        raise ValueError(
            f"{path} has {stored / 1e6:.1f} MB and would take {decoded / 1e9:.1f} GB decoded ({shape[-1]} x {shape[-2]} px), {decoded / stored:.0f} "
            "times as much: an image that is almost empty, or one made to fill the memory. Crop it, or save it as a tiled TIFF."
        )
    free = free_memory()
    if decoded > free:
        raise ValueError(
            f"{path} takes {decoded / 1e9:.1f} GB decoded ({shape[-1]} x {shape[-2]} px), and {free / 1e9:.1f} GB are free. It is of a format "
            "that cannot be read in part; save it as a tiled TIFF, which can."
        )
