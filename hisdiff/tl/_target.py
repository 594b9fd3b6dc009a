"""Where a prediction finer than the spots goes: the bins of a grid, or the shapes of an element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import shapely

from hisdiff import _keys
from hisdiff._check import positive
from hisdiff._geometry._grid import bins_within, outlines
from hisdiff._sdata._at import read_locations
from hisdiff._sdata._grid import Window, labels_element
from hisdiff._sdata._provenance import check_free
from hisdiff._section import Locations, needed
from hisdiff.tl._fine import resolution_for
from hisdiff.tl._inputs import digest_of

if TYPE_CHECKING:
    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._locate import Place
    from hisdiff._section import Section


@dataclass(frozen=True)
class FineLocations:
    """The locations of one section that are predicted, and the names of what is written.

    Attributes
    ----------
    where
        Locations; bins of a grid, or footprints.
    instances
        ``(n,)`` what each is called in its element.
    resolution_um
        Side of the bins that are predicted, or that footprints are made of.
    table_key, region
        Name of the table and of the element that it annotates.
    is_grid
        Whether the locations are the bins of a grid, whose element is made with the table.
    """

    where: Locations
    instances: np.ndarray
    resolution_um: float
    table_key: str
    region: str
    is_grid: bool

    def labels(self, place: Place) -> Any | None:
        """Return the element to make for the table; None where the table annotates one that is there."""
        if not self.is_grid:
            return None
        ij = needed(self.where.array_ij)
        return labels_element(place, Window.around(ij, self.resolution_um), ij)


class Target(Protocol):
    """What ``hd.tl.predict`` predicts other than the spots."""

    def check(self, bound: Bound, stem: str, *, several: bool) -> None:
        """Raise, before any work, for what cannot be done in a section of an object with ``several``."""

    def locations(self, bound: Bound, stem: str, *, several: bool) -> FineLocations:
        """Return the locations of a section, whose outline is known."""

    def table_key(self, bound: Bound, stem: str, *, several: bool) -> str:
        """Return the name of the table of a section."""

    def identity(self, bound: Bound) -> str:
        """Return what tells the locations of a section from others."""


def target_of(resolution_um: float | None, at: str | None) -> Target | None:
    """Check the arguments; None where neither a resolution nor an element is asked for."""
    if resolution_um is not None and at is not None:
        raise ValueError(f"Either resolution_um={resolution_um:g} or at={at!r} tells where to predict, not both.")
    if resolution_um is not None:
        return GridTarget(positive(resolution_um, "resolution_um"))
    if at is None:
        return None
    if not isinstance(at, str):
        raise TypeError(f"at is the name of a shapes or labels element, not {type(at).__name__} {at!r}.")
    return ElementTarget(at)


@dataclass(frozen=True)
class GridTarget:
    """The bins of a grid over the tissue, ``resolution_um`` a side."""

    resolution_um: float

    def check(self, bound: Bound, stem: str, *, several: bool) -> None:
        """Raise for what cannot be done; see ``Target``."""
        place, image = bound.place, needed(bound.section.image)
        for name in self._names(bound, stem, several=several):
            check_free(place.sdata, name)
        if place.table is not None and not place.table.obs_names.is_unique:
            raise ValueError(
                f"Table {place.table_key!r} has names of observations more than once, and bins refer to the spot they lie in; "
                f"make them unique with adata.obs_names_make_unique()."
            )
        if self.resolution_um < image.mpp:
            raise ValueError(
                f"resolution_um={self.resolution_um:g} is finer than a pixel of image {place.image_key!r} ({image.mpp:.3g} um)."
            )
        x0, y0, x1, y1 = image.bounds_um
        if self.resolution_um > min(x1 - x0, y1 - y0):
            raise ValueError(
                f"resolution_um={self.resolution_um:g} is larger than image {place.image_key!r} ({x1 - x0:.0f} x {y1 - y0:.0f} um)."
            )

    def locations(self, bound: Bound, stem: str, *, several: bool) -> FineLocations:
        """Return the bins; see ``Target``."""
        ij = bins_within(_area(bound.section), self.resolution_um)
        if not len(ij):
            raise ValueError(
                f"No bin of {self.resolution_um:g} um has its centre in the tissue of {bound.place.name!r}."
            )
        where = Locations.bins(ij, self.resolution_um)
        return FineLocations(
            where,
            np.arange(1, len(ij) + 1),
            self.resolution_um,
            *self._names(bound, stem, several=several),
            is_grid=True,
        )

    def table_key(self, bound: Bound, stem: str, *, several: bool) -> str:
        """Return the name of the table; see ``Target``."""
        return self._names(bound, stem, several=several)[0]

    def identity(self, bound: Bound) -> str:
        """Return the size of a bin; see ``Target``."""
        return f"bins of {float(self.resolution_um)!r} um"

    def _names(self, bound: Bound, stem: str, *, several: bool) -> tuple[str, str]:
        suffix = f"_{bound.place.name}" if several else ""
        table = _keys.fine_table(stem, self.resolution_um)
        return f"{table}{suffix}", f"{_keys.bins(table)}{suffix}"


@dataclass(frozen=True)
class ElementTarget:
    """The shapes or labels of an element, called ``at``."""

    at: str

    def check(self, bound: Bound, stem: str, *, several: bool) -> None:
        """Raise for what cannot be done; see ``Target``."""
        check_free(bound.place.sdata, self.table_key(bound, stem, several=several))
        names = pd.Index(read_locations(bound.place, self.at)[1])
        if not names.is_unique or not (names.dtype.kind in "iu" or pd.api.types.is_string_dtype(names)):
            raise ValueError(
                f"The index of element {self.at!r} names the rows of a table, so it has to be unique and of integers or strings."
            )

    def locations(self, bound: Bound, stem: str, *, several: bool) -> FineLocations:
        """Return the shapes; see ``Target``."""
        where, instances = read_locations(bound.place, self.at)
        resolution = resolution_for(where, needed(bound.section.image).mpp)
        return FineLocations(
            where, instances, resolution, self.table_key(bound, stem, several=several), self.at, is_grid=False
        )

    def identity(self, bound: Bound) -> str:
        """Return the element, and where its shapes are; see ``Target``."""
        where, instances = read_locations(bound.place, self.at)
        return f"{self.at}, {digest_of(where.xy_um, where.radius_um, np.asarray(instances).astype(str))}"

    def table_key(self, bound: Bound, stem: str, *, several: bool) -> str:
        """Return the name of the table; see ``Target``."""
        return _keys.fine_table(stem, self.at) + (f"_{bound.place.name}" if several else "")


def _area(section: Section) -> Any:
    """Return the tissue with the footprints of measured spots, so that every one of them has its bins."""
    if section.counts is None or section.spots is None:
        return section.tissue
    return shapely.union_all([section.tissue, *outlines(section.spots)])
