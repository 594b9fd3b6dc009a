"""Locations of a table, spots or bins, with the raster that lies over them and the image under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._geometry._raster import PointRaster
from hisdiff._sdata._image import PyramidImage
from hisdiff._sdata._locate import locate
from hisdiff._sdata._provenance import mark_slots
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff._sdata._selection import Selection


@dataclass(frozen=True)
class Area:
    """The locations of one section that have values.

    Attributes
    ----------
    place
        Where they live.
    rows
        ``(n,)`` rows of the table.
    chosen
        ``(n,)`` positions of these rows among all that were asked for.
    xy_um
        ``(n, 2)`` centres.
    raster
        Raster over them.
    """

    place: Place
    rows: np.ndarray
    chosen: np.ndarray
    xy_um: np.ndarray
    raster: PointRaster

    def gray(self) -> np.ndarray:
        """Return the mean of the image's channels at the scale of the raster, float ``(rows, columns)``."""
        name = self.place.image_name
        image = PyramidImage(self.place.sdata.images[name], self.place.mpp, name)
        return image.read(self.raster.box_um, self.raster.pixel_um).mean(axis=-1)


def tables_places(sdata: SpatialData, selection: Selection) -> tuple[AnnData, list[Place]]:
    """Return a table and the sections that it holds; an error where their scale is not known."""
    places = locate(sdata, selection)
    table = places[0].table
    if table is None:
        raise KeyError("The object has no table; predict with hd.tl.predict(sdata), or name a table with table_key=.")
    for place in places:
        if place.image_key is None:
            raise ValueError(
                f"There is no image for {place.name!r}, which gives its scale (images: {listing(sdata.images)})."
            )
    if _keys.SPATIAL not in table.obsm:
        raise KeyError(f"Table {places[0].table_key!r} has no obsm[{_keys.SPATIAL!r}].")
    return table, places


def areas_of(places: Sequence[Place], rows: np.ndarray, *, max_px: int | None = None) -> list[Area]:
    """Lay rasters over the given rows of a table, section by section."""
    found = []
    for place in places:
        chosen = np.flatnonzero(np.isin(rows, place.rows))
        if len(chosen) < 4:
            raise ValueError(f"Section {place.name!r} has {len(chosen)} locations with values; at least 4 are needed.")
        xy = np.asarray(needed(place.table).obsm[_keys.SPATIAL], dtype=float)[rows[chosen]] * place.mpp
        bins = place.region in place.sdata.labels
        found.append(Area(place, rows[chosen], chosen, xy, PointRaster.of(xy, bins=bins, max_px=max_px)))
    return found


def write_columns(table: AnnData, columns: Mapping[str, Any]) -> None:
    """Write ``obs`` columns, in place of earlier ones."""
    for name, values in columns.items():
        table.obs[name] = values
    mark_slots(table, "obs", columns)
