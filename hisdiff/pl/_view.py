"""Sections with all that a map of them needs: table, image, how locations are drawn, and in which coordinate system."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing, names_of, present
from hisdiff._geometry import similarity_scale
from hisdiff._sdata._affine import apply, inverse, scaling
from hisdiff._sdata._bound import as_list
from hisdiff._sdata._image import PyramidImage
from hisdiff._sdata._labels import label_raster
from hisdiff._sdata._locate import check_sdata, locate, resolve_table
from hisdiff._sdata._provenance import panel_of, records
from hisdiff._sdata._read import read_section, to_um_of
from hisdiff._sdata._results import result_table
from hisdiff._section import needed
from hisdiff.pl import _canvas
from hisdiff.pl._marks import RASTER_PX, Footprints, Raster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import Box, ImageSource
    from hisdiff.pl._marks import Marks

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """One section on its image, as seen in one table.

    Attributes
    ----------
    turn
        ``(3, 3)`` matrix from um of the image to um of the coordinate system that is drawn: it turns and shifts, and does not
        scale; None for the image's own.
    unit_um
        Micrometres of one unit of that coordinate system.
    """

    place: Place
    table: AnnData
    image: ImageSource
    marks: Marks
    turn: np.ndarray | None = None
    unit_um: float = 1.0

    @property
    def what(self) -> str:
        """Name of the table."""
        return str(self.place.table_key)

    @property
    def section(self) -> tuple[int, str | None]:
        """What tells one section from another: tables of one section share its image."""
        return id(self.place.sdata), self.place.image_key

    @property
    def section_name(self) -> str:
        """Name of the section, also for tables of bins."""
        region = self.place.name
        return region if region in self.place.sdata.shapes else str(self.place.image_key).replace("_image", "")

    @property
    def bin_um(self) -> float | None:
        """Side of the bins of a table finer than the spots, None for other tables."""
        for record in records(self.table, _keys.PREDICTIONS).values():
            if "resolution_um" in record and self.place.region in self.place.sdata.labels:
                return float(record["resolution_um"])
        return None

    @property
    def table_name(self) -> str:
        """What a reader calls the table."""
        return self.what if self.bin_um is None else f"{self.bin_um:g} µm bins"

    @property
    def bounds(self) -> Box:
        """The bounds of the image, in um of the coordinate system that is drawn."""
        bounds = self.image.bounds_um
        return bounds if self.turn is None else _bounds(self.turn, bounds)

    @property
    def box(self) -> Box:
        """What is shown: the locations with a margin."""
        return self.marks.box(self.bounds)

    def crop_um(self, crop: Sequence[float]) -> Box:
        """Return a box in units of the coordinate system in um."""
        x0, y0, x1, y1 = (float(value) * self.unit_um for value in crop)
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"crop is (x0, y0, x1, y1) with x0 below x1 and y0 below y1, not {tuple(crop)!r}.")
        return x0, y0, x1, y1

    def draw_image(self, ax: Axes, box: Box, alpha: float) -> None:
        """Draw the image under a box."""
        if self.turn is None:
            _canvas.draw_underlay(ax, _canvas.read_underlay(self.image, box), box, alpha)
            return
        own = _bounds(inverse(self.turn), box)
        _canvas.draw_underlay(ax, _canvas.read_underlay(self.image, own), own, alpha, self.turn)


def view_of(sdata: SpatialData, selection: Selection) -> View:
    """Return the section that is meant; an error where it cannot be told, or has no table or no image."""
    check_sdata(sdata)
    table_key = result_table(sdata, selection.table_key)
    places = locate(sdata, replace(selection, table_key=table_key))
    if len(places) > 1:
        names = listing(place.name for place in places)
        raise ValueError(f"The table has several sections, {names}; choose one with shapes_key=.")
    return _view(places[0], None, 1.0)


def views_of(
    data: SpatialData | Sequence[SpatialData],
    selection: Selection,
    table_keys: str | Sequence[str] | None,
    layers: str | None | Sequence[str | None] = None,
    *,
    find: Callable[[SpatialData], Sequence[str]] | None = None,
    coordinate_system: str | None = None,
    spot_scale: float = 1.0,
) -> list[View]:
    """Return all sections of objects, in each of the tables; an error where one has no table or no image.

    Where no table is named, it is those that ``find`` returns of an object; if there are none, the one that has the ``layers``.
    """
    named = [None] if table_keys is None else names_of(table_keys)
    if not named:
        raise ValueError("There is no table to show: table_key is empty.")
    views = []
    for sdata in as_list(data):
        check_sdata(sdata)
        found = list(find(sdata)) if find is not None and table_keys is None else []
        for key in found or named:
            places = locate(sdata, replace(selection, table_key=result_table(sdata, key, layers)))
            views += [_view(place, coordinate_system, spot_scale) for place in places]
    return views


def of_source(view: View) -> View:
    """Return the view of a panel table in the table that it was made of; any other as it is."""
    source = panel_of(view.table)
    if source is None or source not in view.place.sdata.tables:
        return view
    return replace(view, place=replace(view.place, table_key=source), table=view.place.sdata.tables[source])


def tables_with(sdata: SpatialData, wanted: Iterable[T], has: Callable[[AnnData, T], bool]) -> list[str]:
    """Return the tables that have any of what is wanted; for what the table of the spots has, that table alone."""
    try:
        usual = resolve_table(sdata)
    except ValueError:
        usual = None
    found: dict[str, None] = {}
    for each in wanted:
        having = [key for key, table in sdata.tables.items() if has(table, each)]
        found |= dict.fromkeys([usual] if usual is not None and usual in having else having)
    return list(found)


def _view(place: Place, coordinate_system: str | None, spot_scale: float) -> View:
    if place.table is None or place.region is None:
        raise ValueError(
            "There is no table, so nothing to show on the image; predict with hd.tl.predict(sdata, model) first."
        )
    turn, unit_um = (None, 1.0) if coordinate_system is None else _turn(place, coordinate_system)
    if place.image_key is not None and place.region in place.sdata.labels:  # pixels are all that is needed of labels
        image: ImageSource = PyramidImage(place.sdata.images[place.image_key], place.mpp, place.image_key)
        to_um = to_um_of(place) if turn is None else turn @ to_um_of(place)
        return View(place, place.table, image, Raster(label_raster(place, to_um, RASTER_PX)), turn, unit_um)
    section = read_section(place, needs={"image"})
    spots = needed(section.spots).scaled(spot_scale)
    if turn is not None:
        spots = spots.moved(lambda points: apply(turn, points))
    return View(place, place.table, needed(section.image), Footprints(spots), turn, unit_um)


def _turn(place: Place, system: str) -> tuple[np.ndarray, float]:
    """Return the matrix from um of the image to um of a coordinate system, and the um of one of its units."""
    present(system, place.image_frame.systems, f"coordinate system of image {place.image_name!r}:")
    matrix = place.image_frame.matrix(system) @ scaling(1 / place.mpp)
    units_per_um = similarity_scale(matrix, f"The transformation of image {place.image_name!r} to {system!r}")
    return scaling(1 / units_per_um) @ matrix, 1 / units_per_um


def _bounds(matrix: np.ndarray, box: Box) -> Box:
    """Return the bounds of a box that was turned."""
    corners = apply(matrix, np.array([[x, y] for x in (box[0], box[2]) for y in (box[1], box[3])]))
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)
