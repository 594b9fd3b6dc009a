"""From SpatialData to :class:`~hisdiff._section.Section`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from hisdiff import _keys
from hisdiff._check import check_radii, listing
from hisdiff._geometry._centers import centers_of
from hisdiff._sdata._affine import apply, scale_of, scaling
from hisdiff._sdata._annotation import instances_of
from hisdiff._sdata._bound import Bound, as_list
from hisdiff._sdata._counts import check_unique, read_counts
from hisdiff._sdata._dense import dense_features
from hisdiff._sdata._features import stored_features
from hisdiff._sdata._genes import gene_names
from hisdiff._sdata._image import PyramidImage
from hisdiff._sdata._labels import label_locations
from hisdiff._sdata._locate import Place, locate, require_image
from hisdiff._sdata._selection import DEFAULTS, Selection
from hisdiff._sdata._tissue import outline_on
from hisdiff._section import Locations, Section, needed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff.encoders import Encoder


def open_sections(
    data: SpatialData | Sequence[SpatialData],
    selection: Selection = DEFAULTS,
    *,
    needs: Collection[str] = (),
    encoder: Encoder | None = None,
) -> list[Bound]:
    """Open the sections of one or several objects, once for a call of a public function.

    Parameters
    ----------
    selection
        Which of the object's elements are meant.
    needs
        Which of ``counts``, ``image`` and ``features`` must be there; what is missing is an error that names the call that
        makes it. Counts are read (and checked) only where they are asked for.
    encoder
        An encoder that the caller offers, for sections that it embedded.
    """
    return [bound for sdata in as_list(data) for bound in _opened(sdata, selection, frozenset(needs), encoder)]


def _opened(sdata: SpatialData, selection: Selection, needs: frozenset[str], encoder: Encoder | None) -> list[Bound]:
    places = locate(sdata, selection)
    sections = [read_section(place, needs=needs, encoder=encoder) for place in places]
    if "counts" in needs:  # of the table that all sections share
        for place in places:
            if not place.is_measured:
                raise ValueError(
                    f"Section {place.name!r} has no counts; it can be predicted, but not fitted on, adapted to or evaluated."
                )
        table = needed(places[0].table)
        counts = read_counts(table, selection.layer, what=f"table {places[0].table_key!r}")
        check_unique(gene_names(table), places[0])
        sections = [replace(section, counts=place.of_rows(counts)) for section, place in zip(sections, places)]
    return [Bound(section, place) for section, place in zip(sections, places)]


def read_section(place: Place, *, needs: Collection[str] = (), encoder: Encoder | None = None) -> Section:
    """Read the section of a place, without its counts; see :func:`open_sections`."""
    table = place.table
    image = None
    if place.image_key is not None:
        image = PyramidImage(place.sdata.images[place.image_key], place.mpp, place.image_key)
    elif "image" in needs:
        require_image(place)
    spots = None if table is None else read_spots(place)
    if spots is not None and image is not None:
        _check_on_image(place, spots, image)
    genes = np.array([], dtype=str) if table is None else gene_names(table)
    source = place.name if place.is_measured else place.image_key  # a lattice may come and go
    bare = Section(place.name, genes, None, spots, image, tissue=outline_on(place, image), source=source)
    section = _embedded(bare, place, encoder)
    if "features" in needs and section.features is None:
        raise ValueError(f"Section {place.name!r} has no embedding; make it with hd.pp.embed(sdata).")
    return section


def _embedded(section: Section, place: Place, encoder: Encoder | None) -> Section:
    """Return a section with the embedding that its table has, and the dense form of its encoder."""
    features = stored_features(place, section.spots, section.image, encoder)
    if features is None:
        return section
    dense = dense_features(place, section.image, features.encoder, section.tissue)
    return replace(section, features=features, dense=dense)


def with_features(bound: Bound, encoder: Encoder) -> Bound:
    """Return a section with the embedding that was just stored in its table, and the encoder that made it."""
    return bound.with_section(_embedded(bound.section, bound.place, encoder))


def read_spots(place: Place) -> Locations:
    """Return the spots of a place, in the order of its table rows, in um."""
    table, region = needed(place.table), needed(place.region)
    to_um = to_um_of(place)
    keys = instances_of(table)[place.rows]
    if region in place.sdata.labels:
        return replace(label_locations(place, keys, to_um), array_ij=_array_ij(table, place.rows))
    element = place.sdata.shapes[region]
    where = element.index.get_indexer(keys)
    if (where < 0).any():
        raise ValueError(
            f"{int((where < 0).sum())} of {len(keys)} rows of table {place.table_key!r} have no shape in {region!r}, "
            f"such as {listing(keys[where < 0], 4)}."
        )
    geometry = np.asarray(element.geometry)[where]
    xy = apply(to_um, centers_of(geometry, repr(region)))
    footprint: np.ndarray | float
    if "radius" in element.columns:
        radii = check_radii(element["radius"].to_numpy(dtype=float)[where], repr(region)) * scale_of(to_um)
        footprint = float(radii[0]) if len(radii) and np.ptp(radii) < 1e-6 * radii[0] else radii
    else:
        footprint = np.asarray(shapely.transform(geometry, lambda points: apply(to_um, points)))
    height = table.obs[_keys.Z_UM].to_numpy(dtype=float)[place.rows] if _keys.Z_UM in table.obs else None
    return Locations(xy, footprint, _array_ij(table, place.rows), height)


def _array_ij(table: AnnData, rows: np.ndarray) -> np.ndarray | None:
    """Return the positions on the array, ``(n, 2)``; None where rows lack one, as those of another technology do."""
    if _keys.ARRAY_ROW not in table.obs or _keys.ARRAY_COL not in table.obs:
        return None
    try:
        ij = table.obs[[_keys.ARRAY_ROW, _keys.ARRAY_COL]].to_numpy()[rows].astype(float)
    except (TypeError, ValueError):  # words, or missing values
        return None
    return ij.astype(np.int64) if np.isfinite(ij).all() else None


def to_um_of(place: Place) -> np.ndarray:
    """Return the matrix from the region's own coordinates to um: through the image, else the region's own scale."""
    if place.image_key is not None:
        return scaling(place.mpp) @ place.to_px
    frame = place.elements.frame(needed(place.region))
    if _keys.UM not in frame.systems:
        raise ValueError(
            f"There is no image for {place.name!r}, and no coordinate system {_keys.UM!r} that gives its scale."
        )
    return frame.matrix(_keys.UM)


def _check_on_image(place: Place, spots: Locations, image: PyramidImage) -> None:
    x0, y0, x1, y1 = image.bounds_um
    x, y = spots.xy_um.T
    outside = (x < x0) | (x > x1) | (y < y0) | (y > y1)
    if outside.any():
        px = spots.xy_um / place.mpp
        raise ValueError(
            f"{int(outside.sum())} of {len(spots)} spots of {place.region!r} lie outside image {place.image_key!r}: spots reach "
            f"x = {px[:, 0].max():.0f}, y = {px[:, 1].max():.0f} px, the image {(x1 - x0) / place.mpp:.0f} x {(y1 - y0) / place.mpp:.0f} px. "
            f"Coordinates of the full-resolution image on a reduced one (hires, lowres)?"
        )
