"""Which table, image, shapes and layer of an object to use, and the scale of the image where the object lacks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hisdiff._check import positive


@dataclass(frozen=True)
class Selection:
    """Which sections a caller selects; made once, when a public function is called, and passed on as it is.

    Attributes
    ----------
    table_key, shapes_key
        Names, or None for the defaults of :func:`~hisdiff._sdata._locate.locate`.
    image_key
        A name, a mapping of regions to names, or None.
    layer
        Layer of raw counts, or None for ``X``.
    mpp
        Micrometres per pixel, for images without a coordinate system ``um``.
    """

    table_key: str | None = None
    image_key: str | Mapping[str, str] | None = None
    shapes_key: str | None = None
    layer: str | None = None
    mpp: float | None = None

    def __post_init__(self) -> None:
        for argument in ("table_key", "shapes_key", "layer"):
            _check_name(getattr(self, argument), argument)
        if isinstance(self.image_key, Mapping):
            for region, key in self.image_key.items():
                _check_name(key, f"image_key[{region!r}]")
        else:
            _check_name(self.image_key, "image_key")
        if self.mpp is not None:
            object.__setattr__(self, "mpp", positive(self.mpp, "mpp"))


def _check_name(value: Any, argument: str) -> None:
    if value is not None and not isinstance(value, str):
        also = " or a mapping of regions to names" if argument == "image_key" else ""
        raise TypeError(f"{argument} is a name{also}, not {type(value).__name__} {value!r}.")


DEFAULTS = Selection()
"""The defaults."""
