"""Self-contained HTML pages: templates filled with data, figures and images, without anything from a network."""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._files import check_writable

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

PX_PER_INCH = 88
FRAME_PX = 720
"""Height of a page within a notebook."""


@dataclass(frozen=True)
class Page:
    """A self-contained HTML page. A notebook shows it; :meth:`save` writes it to a file that any browser opens, without network.

    Attributes
    ----------
    html
        The whole page.
    """

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path."""
        place = Path(path).expanduser()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self.html, encoding="utf8")
        return place

    def __repr__(self) -> str:
        return f"<HTML page of {len(self.html) / 1e6:.1f} MB; .save('page.html') writes it>"

    def _repr_html_(self) -> str:
        # An iframe of its own keeps styles and scripts of page and notebook apart.
        framed = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{framed}" style="width:100%;height:{FRAME_PX}px;border:1px solid #ddd"></iframe>'


def fill(template: str, **values: Any) -> Page:
    """Return a page made of a template."""
    return Page(_environment().get_template(template).render(**values))


def as_json(value: Any) -> str:
    """Return JSON that can stand inside a script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def packed(array: np.ndarray) -> str:
    """Return the bytes of an array, little-endian, zlib and base64: what the page's script unpacks."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 6)).decode("ascii")


def jpeg(pixels: np.ndarray, quality: int = 82) -> str:
    """Return an image uint8 ``(y, x, 3)`` as the source of an ``img`` element."""
    from PIL import Image

    return _source(_encoded(Image.fromarray(pixels), quality=quality), "jpeg")


def figure_source(figure: Figure, dpi: int = 150) -> dict[str, Any]:
    """Return source and width of the ``img`` element of a figure, in which text has the same size in all figures; close it.

    Lines are sharper and smaller as PNG, histology is a fifth of the size as JPEG: the smaller one is taken.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    drawn = Image.open(buffer)
    pictures = {"png": buffer.getvalue(), "jpeg": _encoded(drawn.convert("RGB"), quality=90, subsampling=0)}
    kind = min(pictures, key=lambda kind: len(pictures[kind]))
    return {"source": _source(pictures[kind], kind), "width": round(drawn.width / dpi * PX_PER_INCH)}


def _encoded(picture: Picture, **settings: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def _source(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def check_page(path: str | Path) -> None:
    """Raise where a page cannot be written, before it is made."""
    place = Path(path).expanduser()
    if place.is_dir():
        raise ValueError(f"path={str(path)!r} is a folder; the page is a file, such as {str(place / 'report.html')!r}.")
    check_writable(place.parent, "The page")
