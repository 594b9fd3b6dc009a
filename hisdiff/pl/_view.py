"""One section with all that a map of it needs: its table, its image, and how its locations are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hisdiff._check import listing
from hisdiff._sdata._image import PyramidImage
from hisdiff._sdata._labels import label_raster
from hisdiff._sdata._locate import locate
from hisdiff._sdata._read import read_section, to_um_of
from hisdiff._section import needed
from hisdiff.pl._marks import RASTER_PX, Footprints, Raster

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import Box, ImageSource
    from hisdiff.pl._marks import Marks


@dataclass(frozen=True)
class View:
    """One section on its image."""

    place: Place
    table: AnnData
    image: ImageSource
    marks: Marks

    @property
    def what(self) -> str:
        return str(self.place.table_key)

    @property
    def box(self) -> Box:
        """What is shown: the locations with a margin."""
        return self.marks.box(self.image.bounds_um)


def view_of(sdata: SpatialData, selection: Selection) -> View:
    """Return the section that is meant; an error where it cannot be told, or has no table or no image."""
    places = locate(sdata, selection)
    if len(places) > 1:
        names = listing(place.name for place in places)
        raise ValueError(f"The table has several sections, {names}; choose one with shapes_key=.")
    place = places[0]
    if place.table is None or place.region is None:
        raise ValueError(
            "There is no table, so nothing to show on the image; predict with hd.tl.predict(sdata, model) first."
        )
    if place.image_key is not None and place.region in sdata.labels:  # pixels are all that is needed of labels
        image = PyramidImage(sdata.images[place.image_key], place.mpp, place.image_key)
        return View(place, place.table, image, Raster(label_raster(place, to_um_of(place), RASTER_PX)))
    section = read_section(place, needs={"image"})
    return View(place, place.table, needed(section.image), Footprints(needed(section.spots)))
