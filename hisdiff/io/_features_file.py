"""Embeddings that other programs computed, as tiles of the image: what they are, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import shapely
import spatialdata as sd

from hisdiff._check import listing, present
from hisdiff._sdata._annotation import instances_of, regions_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

H5 = (".h5", ".hdf5")
ZARR = ".zarr"
FOLDER = "features_"
"""TRIDENT names the folder of features after the encoder."""


@dataclass(frozen=True)
class Tiles:
    """Embeddings of squares of an image.

    Attributes
    ----------
    values
        float32 ``(n, D)``.
    corner_px, side_px
        Upper left corners ``(n, 2)`` as (x, y), and the side, in pixels of the full-resolution image.
    encoder
        What the file calls the encoder, or None.
    seen_px
        Side in pixels of what the encoder saw, or None.
    size_px
        Width and height of the image that the tiles are of, or None.
    """

    values: np.ndarray
    corner_px: np.ndarray
    side_px: float
    encoder: str | None = None
    seen_px: float | None = None
    size_px: tuple[float, float] | None = None


def read_tiles(source: Path | sd.SpatialData, key: str | None) -> Tiles:
    """Return the tiles of a file of TRIDENT, or of a table of wsidata that annotates its tiles."""
    if isinstance(source, sd.SpatialData):
        return _from_table(source, key)
    if source.suffix.lower() in H5:
        return _from_trident(source, key)
    if source.is_dir():
        try:
            return _from_table(sd.read_zarr(source), key)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{source} cannot be read as a store with a table of features: {error}") from error
    raise ValueError(
        f"{source} is not a known file of features: {listing(H5)} of TRIDENT, a {ZARR} store of wsidata, or .npy of an array. Files of "
        "torch (.pt) are pickles and are not opened."
    )


def _from_trident(file: Path, key: str | None) -> Tiles:
    try:
        with h5py.File(file) as h5:
            if "coords" not in h5 or "features" not in h5:
                raise ValueError(f"{file} has {listing(h5)}; 'features' and 'coords' are needed.")
            features = h5["features"]
            if isinstance(features, h5py.Group):  # several encoders in one file
                name: str | None = _only(list(features), key, f"features in {file}")
                features = features[name]
            else:
                parent = file.resolve().parent.name
                name = parent.removeprefix(FOLDER) if parent.startswith(FOLDER) else None
            attrs = {**h5.attrs, **h5["coords"].attrs}
            values, coords = np.asarray(features, dtype=np.float32), np.asarray(h5["coords"])
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}. Is the file complete?") from error
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    coords = coords[0] if coords.ndim == 3 and len(coords) == 1 else coords
    side = _side_px(attrs)
    if side is None:
        raise ValueError(
            f"{file} does not say how large its patches are in pixels of the slide (attribute 'patch_size_level0' of 'coords'; there are "
            f"{listing(attrs)})."
        )
    width, height = _number(attrs, "level0_width"), _number(attrs, "level0_height")
    size = None if width is None or height is None else (width, height)
    return Tiles(values, _pairs(coords, str(file)), side, name, _number(attrs, "patch_size"), size)


def _side_px(attrs: Mapping[str, Any]) -> float | None:
    """Return the side of a patch in pixels of the slide: as TRIDENT states it, or from what it and CLAM state of its level."""
    side, own, seen = (_number(attrs, key) for key in ("patch_size", "level0_magnification", "target_magnification"))
    stated = _number(attrs, "patch_size_level0")
    if stated is not None or side is None:
        return stated
    if own is not None and seen is not None:
        return side * own / seen
    try:
        x, y = np.asarray(attrs["downsample"], dtype=float).reshape(2)
    except (KeyError, TypeError, ValueError):
        return None
    return side * x if x == y >= 1 else None


def _from_table(sdata: sd.SpatialData, key: str | None) -> Tiles:
    tables = [name for name, table in sdata.tables.items() if set(regions_of(table)) & set(sdata.shapes)]
    key = _only(tables, key, "tables that annotate tiles")
    table = sdata.tables[key]
    (region,) = _one(regions_of(table), f"Table {key!r}")
    shapes = sdata.shapes[region]
    rows = shapes.index.get_indexer(instances_of(table))
    if (rows < 0).all() and len(shapes) == table.n_obs:
        rows = np.arange(table.n_obs)  # ids that are a column of the tiles, in the same order
    if (rows < 0).any():
        raise ValueError(f"{int((rows < 0).sum())} of {len(rows)} rows of table {key!r} have no tile in {region!r}.")
    x0, y0, x1, y1 = shapely.bounds(np.asarray(shapes.geometry)[rows]).T
    sides = np.concatenate([x1 - x0, y1 - y0])
    if np.ptp(sides) > 0.02 * sides.mean():
        raise ValueError(
            f"The tiles {region!r} are not squares of one size: sides are {sides.min():g} to {sides.max():g} px."
        )
    return Tiles(_dense(table), np.stack([x0, y0], axis=1), float(sides.mean()), key.removesuffix(f"_{region}"))


def _dense(table: AnnData) -> np.ndarray:
    values = table.X
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)


def _only(names: list[str], key: str | None, what: str) -> str:
    if key is not None:
        return present(key, names, f"{what}:")
    if len(names) != 1:
        raise ValueError(f"There are {len(names)} {what}, {listing(names)}; choose one with key=.")
    return names[0]


def _one(names: list[str], what: str) -> list[str]:
    if len(names) != 1:
        raise ValueError(f"{what} annotates {listing(names)}; the tiles of one slide are needed.")
    return names


def _pairs(coords: np.ndarray, what: str) -> np.ndarray:
    if coords.ndim != 2 or coords.shape[1] < 2:
        raise ValueError(f"{what} has coords of shape {coords.shape}; (n, 2), x and y, are needed.")
    return coords[:, :2].astype(float)


def _number(attrs: Mapping[str, Any], key: str) -> float | None:
    try:
        value = float(attrs[key])
    except (KeyError, TypeError, ValueError):
        return None
    return value if value > 0 else None
