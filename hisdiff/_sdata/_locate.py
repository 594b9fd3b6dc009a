"""Which table, shapes and image of a SpatialData make a section, and how they lie to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from spatialdata import get_pyramid_levels
from spatialdata.transformations import get_transformation

from hisdiff import _keys
from hisdiff._check import listing, one_of, positive, present
from hisdiff._geometry import similarity_scale
from hisdiff._sdata._written import written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from anndata import AnnData
    from spatialdata import SpatialData

_XY = ("x", "y")
# A stated pixel size and the one in the object may differ by rounding only.
_MPP_TOLERANCE = 0.01


@dataclass(frozen=True)
class Place:
    """Where one section lives in a SpatialData.

    Attributes
    ----------
    table_key, region, image_key
        Names of the table, of the element it annotates, and of the image; ``table_key`` and ``region`` are None for a
        section that has only an image, ``image_key`` for one without.
    rows
        Rows of the table that belong to the section.
    mpp
        Micrometres per pixel of the image.
    to_px
        ``(3, 3)`` matrix from the region's own coordinates to pixels of the full-resolution image; its multiple by
        ``mpp`` is the frame of micrometres that hisdiff works in.
    """

    sdata: SpatialData
    table_key: str | None
    region: str | None
    image_key: str | None
    rows: np.ndarray
    mpp: float
    to_px: np.ndarray

    @property
    def table(self) -> AnnData | None:
        """The table, with all its rows."""
        return None if self.table_key is None else self.sdata.tables[self.table_key]

    @property
    def name(self) -> str:
        """Name of the section, for messages and records."""
        return self.region or self.image_key or "section"


def locate(
    sdata: SpatialData,
    *,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
) -> list[Place]:
    """Return the sections of a SpatialData, one per region of the table.

    Defaults: the only table that hisdiff did not write and that is not called ``truth``, else the lattice that it
    wrote; the element that this table annotates; the finest image that shares a coordinate system with it.
    """
    check_sdata(sdata)
    if mpp is not None:
        mpp = positive(mpp, "mpp")
    table_key = resolve_table(sdata, table_key)
    if table_key is None:
        return [_image_only(sdata, image_key, mpp)]
    table = sdata.tables[table_key]
    attrs = table.uns.get("spatialdata_attrs")
    if attrs is None:
        raise ValueError(
            f"Table {table_key!r} annotates no element; connect it with hd.io.adopt or hd.io.from_anndata."
        )
    regions = regions_of(table)
    if shapes_key is not None:
        regions = [one_of(shapes_key, regions, f"shapes_key for table {table_key!r}")]
    labels = table.obs[attrs["region_key"]].astype(str).to_numpy()
    places = []
    for region in regions:
        present(region, [*sdata.shapes, *sdata.labels], f"element that table {table_key!r} annotates,")
        key = _image_for(sdata, region, image_key)
        scale, to_px = (float("nan"), np.eye(3)) if key is None else _geometry(sdata, region, key, mpp)
        places.append(Place(sdata, table_key, region, key, np.flatnonzero(labels == region), scale, to_px))
    return places


def resolve_table(sdata: SpatialData, table_key: str | None = None) -> str | None:
    """Return the table to use, or None where the object has only images."""
    if table_key is not None:
        return present(table_key, list(sdata.tables), "table")
    own = [key for key, table in sdata.tables.items() if made_here(table)]
    candidates = [key for key in sdata.tables if key not in own and key != _keys.TRUTH_TABLE]
    if len(candidates) > 1:
        raise ValueError(f"There are several tables, {listing(candidates)}; choose one with table_key=.")
    if candidates:
        return candidates[0]
    return _keys.LATTICE_TABLE if _keys.LATTICE_TABLE in own else None


def regions_of(table: AnnData) -> list[str]:
    """Return the elements that a table annotates, none where it annotates nothing; SpatialData keeps a name or a list."""
    regions = table.uns.get("spatialdata_attrs", {}).get("region")
    if regions is None:
        return []
    return [regions] if isinstance(regions, str) else list(regions)


def on_tissue(table: AnnData) -> np.ndarray:
    """Return which rows of a table lie on tissue, bool: all where ``obs["in_tissue"]`` does not tell."""
    if _keys.IN_TISSUE not in table.obs:
        return np.ones(table.n_obs, dtype=bool)
    values = pd.to_numeric(table.obs[_keys.IN_TISSUE].replace({"True": 1, "False": 0}), errors="coerce")
    return (values.fillna(1) != 0).to_numpy()


def mark_made_here(table: AnnData) -> None:
    """Record in a table that hisdiff wrote it, so that it may be replaced and is no default input."""
    table.uns.setdefault(_keys.STEM, {})["made_by"] = _keys.STEM


def made_here(table: AnnData) -> bool:
    """Whether hisdiff wrote a table."""
    return table.uns.get(_keys.STEM, {}).get("made_by") == _keys.STEM


def check_sdata(sdata: Any) -> None:
    """Raise where something else than a SpatialData is given."""
    from spatialdata import SpatialData

    if not isinstance(sdata, SpatialData):
        hint = (
            " Bring an AnnData and its image together with hd.io.from_anndata."
            if type(sdata).__name__ == "AnnData"
            else ""
        )
        raise TypeError(f"A SpatialData is needed, not {type(sdata).__name__}.{hint}")


def _image_only(sdata: SpatialData, image_key: str | Mapping[str, str] | None, mpp: float | None) -> Place:
    if image_key is not None and not isinstance(image_key, str):
        raise TypeError("image_key maps regions to images, but the object has no table with regions; give one name.")
    candidates = rgb_images(sdata)
    if image_key is not None:
        present(image_key, list(sdata.images), "image")
    elif len(candidates) == 1:
        image_key = candidates[0]
    elif candidates:
        raise ValueError(
            f"There are several images and no table to tell which is meant: {listing(candidates)}; choose one with image_key=."
        )
    else:
        raise ValueError("The object has neither a table nor an image; read one with hd.io.image or another reader.")
    return Place(sdata, None, None, image_key, np.arange(0), image_mpp(sdata, image_key, mpp), np.eye(3))


def rgb_images(sdata: SpatialData) -> list[str]:
    """Return the names of the images that may show H&E."""
    # Dense embeddings are image elements as well, mostly of many channels.
    return [key for key in sdata.images if finest(sdata, key).sizes["c"] in (1, 3, 4) and written(sdata, key) is None]


def finest(sdata: SpatialData, image_key: str) -> Any:
    """Return the full-resolution level of an image."""
    element = sdata.images[image_key]
    return get_pyramid_levels(element, n=0) if hasattr(element, "children") else element


def matrix_to(element: Any, system: str) -> np.ndarray:
    """Return the ``(3, 3)`` matrix from an element's own (x, y) to a coordinate system."""
    return get_transformation(element, system).to_affine_matrix(_XY, _XY)


def shared_systems(first: Any, second: Any) -> list[str]:
    """Return the coordinate systems that two elements share."""
    systems = get_transformation(second, get_all=True)
    return [name for name in get_transformation(first, get_all=True) if name in systems]


def _image_for(sdata: SpatialData, region: str, image_key: str | Mapping[str, str] | None) -> str | None:
    if image_key is not None:
        if not isinstance(image_key, str):
            image_key = image_key[present(region, list(image_key), "region in image_key:")]
        present(image_key, list(sdata.images), "image")
        if not shared_systems(sdata[region], finest(sdata, image_key)):
            raise ValueError(
                f"Image {image_key!r} and {region!r} share no coordinate system; those of {region!r} are "
                f"{listing(get_transformation(sdata[region], get_all=True))}, those of the image "
                f"{listing(get_transformation(finest(sdata, image_key), get_all=True))}."
            )
        return image_key
    pixel_sizes: dict[str, float] = {}
    for key in rgb_images(sdata):
        image = finest(sdata, key)
        for system in shared_systems(sdata[region], image):
            # Measured in the region's own units, so that images in different systems can be compared.
            to_px = np.linalg.inv(matrix_to(image, system)) @ matrix_to(sdata[region], system)
            pixel_sizes[key] = 1 / np.sqrt(abs(np.linalg.det(to_px[:2, :2])))
            break
    if not pixel_sizes:
        return None
    smallest = min(pixel_sizes.values())
    best = [key for key, size in pixel_sizes.items() if size < smallest * 1.01]
    # Sections side by side in one object: readers name an image after its section.
    named = [key for key in best if key.startswith(f"{region}_")]
    if len(best) > 1 and len(named) == 1:
        return named[0]
    if len(best) > 1:
        raise ValueError(f"Several images of {region!r} are equally fine: {listing(best)}; choose one with image_key=.")
    return best[0]


def image_mpp(sdata: SpatialData, image_key: str, mpp: float | None = None) -> float:
    """Return the micrometres per pixel of an image: its scale to ``um``, or the one that is stated."""
    image = finest(sdata, image_key)
    if _keys.UM not in get_transformation(image, get_all=True):
        if mpp is None:
            raise ValueError(
                f"Image {image_key!r} has no coordinate system {_keys.UM!r}, so its micrometres per pixel are unknown; pass mpp=, "
                f"or settle it once with hd.io.adopt(sdata, mpp=...)."
            )
        return mpp
    known = similarity_scale(matrix_to(image, _keys.UM), f"The transformation of image {image_key!r} to {_keys.UM!r}")
    if mpp is not None and abs(mpp / known - 1) > _MPP_TOLERANCE:
        raise ValueError(
            f"mpp={mpp:g} contradicts image {image_key!r}, which has {known:.4g} um per pixel; change that with hd.io.adopt."
        )
    return known


def _geometry(sdata: SpatialData, region: str, image_key: str, mpp: float | None) -> tuple[float, np.ndarray]:
    image = finest(sdata, image_key)
    system = shared_systems(sdata[region], image)[0]
    to_px = np.linalg.inv(matrix_to(image, system)) @ matrix_to(sdata[region], system)
    similarity_scale(to_px, f"The transformation of {region!r} to image {image_key!r}")
    return image_mpp(sdata, image_key, mpp), to_px
