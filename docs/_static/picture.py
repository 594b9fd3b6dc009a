"""Write the pictures of the documentation: ``save`` for the scripts beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent


def save(figure: Figure, name: str, dpi: int) -> None:
    """Write a figure as JPEG: histology makes a PNG large, and a palette of 256 colours turns colour scales into steps."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, bbox_inches="tight", pad_inches=0.05)
    (HERE / f"{name}.jpg").write_bytes(jpeg(drawn.getvalue()))


def jpeg(png: bytes) -> bytes:
    """Return a picture as JPEG, with sharp text."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(packed, "jpeg", quality=90, subsampling=0, optimize=True)
    return packed.getvalue()
