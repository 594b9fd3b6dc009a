"""A grid of bins as elements: labels, one pixel per bin, and an embedding of the same pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from spatialdata.models import Image2DModel, Labels2DModel
from spatialdata.transformations import Affine

from hisdiff import _keys
from hisdiff._sdata._affine import scaling
from hisdiff._sdata._image import levels_of
from hisdiff._sdata._provenance import notes, written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xarray import DataArray

    from hisdiff._json import Plain
    from hisdiff._sdata._locate import Place
    from hisdiff._section import Box, FeatureSpec

_CHUNK = 1024


@dataclass(frozen=True)
class Window:
    """The part of a grid anchored at the origin of ``um`` that an element of pixels shows.

    Attributes
    ----------
    row, column
        Of its first bin.
    shape
        Rows and columns.
    resolution_um
        Side of a bin.
    """

    row: int
    column: int
    shape: tuple[int, int]
    resolution_um: float

    @classmethod
    def around(cls, ij: np.ndarray, resolution_um: float) -> Window:
        """Return the smallest window that shows some bins, ``(n, 2)`` as (row, column)."""
        first, last = ij.min(axis=0), ij.max(axis=0)
        rows, columns = (last - first + 1).tolist()
        return cls(int(first[0]), int(first[1]), (rows, columns), float(resolution_um))

    def box_um(self, rows: slice, columns: slice) -> Box:
        """Return the box of a part of the window."""
        r = self.resolution_um
        return (
            (self.column + columns.start) * r,
            (self.row + rows.start) * r,
            (self.column + columns.stop) * r,
            (self.row + rows.stop) * r,
        )

    def parts(self, box_um: Box) -> tuple[slice, slice]:
        """Return the rows and columns of a box of whole bins, which may reach beyond the window."""
        x0, y0, x1, y1 = (round(side / self.resolution_um) for side in box_um)
        return slice(y0 - self.row, y1 - self.row), slice(x0 - self.column, x1 - self.column)


def grid_key(place: Place, resolution_um: float) -> str:
    """Return the name of a grid's labels: ``grid_16um``, or ``grid_16um_<image>`` where there are several images."""
    stem = f"grid_{resolution_um:g}um"
    return stem if len(place.elements.rgb_images()) <= 1 else f"{stem}_{place.image_key}"


def embedding_key(key: str) -> str:
    """Return the name of the embedding that lies beside a grid's labels."""
    return f"{key}_embedding"


def transformations(place: Place, window: Window) -> Plain:
    """Return the way from a window's pixels to the coordinate systems of the image, and to ``um``."""
    r, axes = window.resolution_um, ("x", "y")
    to_um = np.array([[r, 0, window.column * r], [0, r, window.row * r], [0, 0, 1.0]])
    to_px = scaling(1 / place.mpp) @ to_um
    image = place.image_frame
    matrices = {name: image.matrix(name) @ to_px for name in image.systems}
    matrices.setdefault(_keys.UM, to_um)
    return {name: Affine(matrix, input_axes=axes, output_axes=axes) for name, matrix in matrices.items()}


def labels_element(place: Place, window: Window, ij: np.ndarray) -> DataArray:
    """Return labels of bins, int32: 1 to n in the order in which the bins are given, 0 for no bin."""
    labels = np.zeros(window.shape, dtype=np.int32)
    labels[ij[:, 0] - window.row, ij[:, 1] - window.column] = np.arange(1, len(ij) + 1)
    return Labels2DModel.parse(
        da.from_array(labels, chunks=_CHUNK), dims=("y", "x"), transformations=transformations(place, window)
    )


def embedding_element(place: Place, window: Window, values: da.Array, names: list[str]) -> DataArray:
    """Return an image element of an embedding ``(D, rows, columns)``."""
    return Image2DModel.parse(
        values, dims=("c", "y", "x"), c_coords=names, transformations=transformations(place, window)
    )


def embedding_note(place: Place, window: Window, spec: FeatureSpec, **more: Any) -> Plain:
    """Return what is kept of an embedding, by which it is known again."""
    return {
        **spec.to_dict(),
        "image": place.image_key,
        "image_mpp": place.mpp,
        "row": window.row,
        "column": window.column,
        "resolution_um": window.resolution_um,
        **more,
    }


def stored_embedding(
    place: Place, spec: FeatureSpec, known_by: str, resolution_um: float
) -> tuple[Window, da.Array] | None:
    """Return window and array ``(D, rows, columns)`` of an embedding of the same image and spec, where there is one."""
    key = embedding_key(grid_key(place, resolution_um))
    note = written(place.sdata, key)
    if note is None or key not in place.sdata.images or note.get("resolution_um") != resolution_um:
        return None
    if not _is_of(note, place, spec, known_by):
        return None
    array = levels_of(place.sdata.images[key])[0].data
    return Window(note["row"], note["column"], array.shape[1:], resolution_um), array


def stored_statistics(place: Place, spec: FeatureSpec, known_by: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and standard deviation that any stored embedding of the same image and spec was given."""
    for note in notes(place.sdata).values():
        if "mean" in note and _is_of(note, place, spec, known_by):
            return np.asarray(note["mean"], dtype=np.float32), np.asarray(note["std"], dtype=np.float32)
    return None


def _is_of(note: Mapping[str, Any], place: Place, spec: FeatureSpec, known_by: str) -> bool:
    same_image = (note.get("image"), note.get("image_mpp"), note.get("fingerprint")) == (
        place.image_key,
        place.mpp,
        known_by,
    )
    return same_image and all(note.get(name) == value for name, value in spec.to_dict().items())
