"""Which table, shapes and image of a SpatialData make a section, and the transformations between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from spatialdata import get_pyramid_levels

from hisdiff import _keys
from hisdiff._check import listing, one_of, present
from hisdiff._geometry import similarity_scale
from hisdiff._sdata._affine import Frame, scale_of
from hisdiff._sdata._annotation import attrs_of, region_labels, regions_of
from hisdiff._sdata._provenance import made_here, written
from hisdiff._sdata._selection import DEFAULTS, Selection
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anndata import AnnData
    from spatialdata import SpatialData

# A stated pixel size and the one in the object may differ by rounding only.
_MPP_TOLERANCE = 0.01


class Elements:
    """The elements of one object and the transformations between them; each is looked up once.

    One such record serves one call of a public function. An element that is replaced meanwhile is looked up again.
    """

    def __init__(self, sdata: SpatialData) -> None:
        self.sdata = sdata
        self._made: dict[tuple[str, Any], tuple[Any, Any]] = {}

    def onto(self, sdata: SpatialData) -> Elements:
        """Return the record of another object that holds the same elements, which are not looked up again."""
        elements = Elements(sdata)
        elements._made = dict(self._made)
        return elements

    def once(self, key: str, what: Any, make: Callable[[Any], Any]) -> Any:
        """Return what is made of an element, once for as long as it is the same."""
        element = self.sdata[key]
        known = self._made.get((key, what))
        if known is None or known[0] is not element:
            known = self._made[key, what] = element, make(element)
        return known[1]

    def finest(self, key: str) -> Any:
        """Return the full-resolution level of an image or of labels; shapes are returned as they are."""
        return self.once(key, "finest", finest)

    def frame(self, key: str) -> Frame:
        """Return the coordinate systems of an element."""
        return self.once(key, "frame", lambda _: Frame.of(self.finest(key)))

    def rgb_images(self) -> list[str]:
        """Return the names of the images that may show H&E."""
        # Dense embeddings are image elements as well, mostly of many channels.
        return [
            key
            for key in self.sdata.images
            if self.finest(key).sizes["c"] in (1, 3, 4) and written(self.sdata, key) is None
        ]


@dataclass(frozen=True)
class Place:
    """Where one section lives in a SpatialData.

    Attributes
    ----------
    elements
        All that the object holds.
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

    elements: Elements
    table_key: str | None
    region: str | None
    image_key: str | None
    rows: np.ndarray
    mpp: float
    to_px: np.ndarray

    @property
    def sdata(self) -> SpatialData:
        """The object."""
        return self.elements.sdata

    @property
    def table(self) -> AnnData | None:
        """The table, with all its rows."""
        return None if self.table_key is None else self.sdata.tables[self.table_key]

    def of_rows(self, values: Any) -> Any:
        """Return the rows of the section of what has one for each row of the table; itself where that is all."""
        return values if len(self.rows) == values.shape[0] else values[self.rows]

    @property
    def is_measured(self) -> bool:
        """Whether the section has a table of genes of its own."""
        return self.table is not None and self.table.n_vars > 0 and self.table_key != _keys.LATTICE_TABLE

    @property
    def name(self) -> str:
        """Name of the section, for messages and records."""
        return self.region or self.image_key or "section"

    @property
    def image_name(self) -> str:
        """Name of the image, of a section that has one."""
        return needed(self.image_key)

    @property
    def image_frame(self) -> Frame:
        """The coordinate systems of the image."""
        return self.elements.frame(self.image_name)

    def within(self, elements: Elements) -> Place:
        """Return the same place in another object with the same elements."""
        return replace(self, elements=elements)


def locate(sdata: SpatialData, selection: Selection = DEFAULTS, elements: Elements | None = None) -> list[Place]:
    """Return the sections of a SpatialData, one per region of the table.

    Defaults: the only table that hisdiff did not write and that is not called ``truth``, else the lattice that it
    wrote; the element that this table annotates; the finest image that shares a coordinate system with it.
    """
    check_sdata(sdata)
    elements = Elements(sdata) if elements is None else elements
    table_key = resolve_table(sdata, selection.table_key)
    if table_key is None:
        return [_image_only(elements, selection)]
    table = sdata.tables[table_key]
    if not attrs_of(table):
        raise ValueError(
            f"Table {table_key!r} annotates no element; connect it with hd.io.adopt or hd.io.from_anndata."
        )
    regions = regions_of(table)
    if selection.shapes_key is not None:
        regions = [one_of(selection.shapes_key, regions, f"shapes_key for table {table_key!r}")]
    labels = region_labels(table)
    places = []
    for region in regions:
        present(region, [*sdata.shapes, *sdata.labels], f"element that table {table_key!r} annotates,")
        key = _image_for(elements, region, selection.image_key)
        scale, to_px = (float("nan"), np.eye(3)) if key is None else _geometry(elements, region, key, selection.mpp)
        places.append(Place(elements, table_key, region, key, np.flatnonzero(labels == region), scale, to_px))
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


def on_tissue(table: AnnData) -> np.ndarray:
    """Return which rows of a table lie on tissue, bool: all where there is no ``obs["in_tissue"]``."""
    if _keys.IN_TISSUE not in table.obs:
        return np.ones(table.n_obs, dtype=bool)
    values = pd.to_numeric(table.obs[_keys.IN_TISSUE].replace({"True": 1, "False": 0}), errors="coerce")
    return (values.fillna(1) != 0).to_numpy()


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


def _image_only(elements: Elements, selection: Selection) -> Place:
    image_key = selection.image_key
    if image_key is not None and not isinstance(image_key, str):
        raise TypeError("image_key maps regions to images, but the object has no table with regions; give one name.")
    candidates = elements.rgb_images()
    if image_key is not None:
        present(image_key, list(elements.sdata.images), "image")
    elif len(candidates) == 1:
        image_key = candidates[0]
    elif candidates:
        raise ValueError(
            f"There are several images and no table to tell which is meant: {listing(candidates)}; choose one with image_key=."
        )
    else:
        raise ValueError("The object has neither a table nor an image; read one with hd.io.image or another reader.")
    mpp = image_mpp(elements, image_key, selection.mpp)
    return Place(elements, None, None, image_key, np.arange(0), mpp, np.eye(3))


def finest(element: Any) -> Any:
    """Return the full-resolution level of an image or of labels; shapes are returned as they are."""
    return get_pyramid_levels(element, n=0) if hasattr(element, "children") else element


def _image_for(elements: Elements, region: str, image_key: str | Mapping[str, str] | None) -> str | None:
    sdata, own = elements.sdata, elements.frame(region)
    if image_key is not None:
        if not isinstance(image_key, str):
            image_key = image_key[present(region, list(image_key), "region in image_key:")]
        frame = elements.frame(present(image_key, list(sdata.images), "image"))
        if not own.shared(frame):
            raise ValueError(
                f"Image {image_key!r} and {region!r} share no coordinate system; those of {region!r} are "
                f"{listing(own.systems)}, those of the image {listing(frame.systems)}."
            )
        return image_key
    pixel_sizes: dict[str, float] = {}
    for key in elements.rgb_images():
        # Measured in the region's own units, so that images in different systems can be compared.
        to_px = own.to(elements.frame(key))
        if to_px is not None:
            pixel_sizes[key] = 1 / scale_of(to_px)
    if not pixel_sizes:
        return None
    smallest = min(pixel_sizes.values())
    best = [key for key, size in pixel_sizes.items() if size < smallest * 1.01]
    # Sections side by side in one object: readers name an image after its section.
    named = [key for key in best if key.startswith(f"{region}_") or _renamed_alike(region, key)]
    if len(best) > 1 and len(named) == 1:
        return named[0]
    if len(best) > 1:
        raise ValueError(f"Several images of {region!r} are equally fine: {listing(best)}; choose one with image_key=.")
    return best[0]


def _renamed_alike(region: str, image: str) -> bool:
    """Whether an image is named after a region and SpatialData gave both the same suffix: ``C5-first``, ``C5_image-first``."""
    section, _, suffix = region.rpartition("-")
    return bool(section) and image.startswith(f"{section}_") and image.endswith(f"-{suffix}")


def image_mpp(elements: Elements, image_key: str, mpp: float | None = None) -> float:
    """Return the micrometres per pixel of an image: its scale to ``um``, or the one that is stated."""
    frame = elements.frame(image_key)
    if _keys.UM not in frame.systems:
        if mpp is None:
            raise ValueError(
                f"Image {image_key!r} has no coordinate system {_keys.UM!r}, so its micrometres per pixel are unknown; pass mpp=, "
                f"or settle it once with hd.io.adopt(sdata, mpp=...)."
            )
        return mpp
    known = similarity_scale(frame.matrix(_keys.UM), f"The transformation of image {image_key!r} to {_keys.UM!r}")
    if mpp is not None and abs(mpp / known - 1) > _MPP_TOLERANCE:
        raise ValueError(
            f"mpp={mpp:g} contradicts image {image_key!r}, which has {known:.4g} um per pixel; change that with hd.io.adopt."
        )
    return known


def _geometry(elements: Elements, region: str, image_key: str, mpp: float | None) -> tuple[float, np.ndarray]:
    to_px = elements.frame(region).to(elements.frame(image_key))
    assert to_px is not None
    similarity_scale(to_px, f"The transformation of {region!r} to image {image_key!r}")
    return image_mpp(elements, image_key, mpp), to_px


def require_image(place: Place) -> None:
    """Raise where a section has no image."""
    if place.image_key is None:
        raise ValueError(
            f"There is no image for {place.name!r}: no image of the object shares a coordinate system with it "
            f"(images: {listing(place.sdata.images)})."
        )
