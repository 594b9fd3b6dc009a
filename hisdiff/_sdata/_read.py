"""From SpatialData to :class:`~hisdiff._section.Section`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse

from hisdiff import _keys
from hisdiff._check import check_radii, listing, present
from hisdiff._sdata._affine import apply, scale_of, scaling
from hisdiff._sdata._annotation import instances_of
from hisdiff._sdata._dense import dense_features
from hisdiff._sdata._features import StoredFeatures, stored_features
from hisdiff._sdata._genes import gene_names
from hisdiff._sdata._image import PyramidImage, fingerprint
from hisdiff._sdata._labels import label_locations
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._locate import Place, locate
from hisdiff._sdata._provenance import holds_predictions
from hisdiff._sdata._selection import DEFAULTS, Selection
from hisdiff._sdata._tissue import read_tissue
from hisdiff._section import Locations, Section, needed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from anndata import AnnData
    from shapely import MultiPolygon, Polygon
    from spatialdata import SpatialData

    from hisdiff._section import ImageSource
    from hisdiff.encoders import Encoder
    from hisdiff.encoders._known import KnownEncoder

# Counts that a float table holds may be off by rounding in storage only.
_WHOLE = 1e-4


@dataclass(frozen=True)
class Bound:
    """A section and the place it was read from, to which results go back."""

    section: Section
    place: Place

    @property
    def table(self) -> AnnData:
        """The table, of a section that has one."""
        return needed(self.place.table)

    @property
    def embedding(self) -> StoredFeatures | None:
        """The section's embedding, as it is stored."""
        features = self.section.features
        return features if isinstance(features, StoredFeatures) else None

    @property
    def encoder(self) -> KnownEncoder | None:
        """The encoder that made the section's embedding."""
        return None if self.embedding is None else self.embedding.encoder

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the image, by which it is recognised."""
        return fingerprint(needed(self.section.image))

    def with_section(self, section: Section) -> Bound:
        """Return another reading of the same place."""
        return replace(self, section=section)


def as_list(data: SpatialData | Sequence[SpatialData]) -> list[SpatialData]:
    """Return one SpatialData or a sequence of them as a list."""
    items = [data] if not isinstance(data, (list, tuple)) else list(data)
    if not items:
        raise ValueError("There is no section: the sequence of SpatialData is empty.")
    repeated = len({id(item) for item in items}) < len(items)
    if repeated:
        raise ValueError("The same SpatialData object is given twice.")
    return items


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


def by_object(bounds: Sequence[Bound]) -> list[list[Bound]]:
    """Return sections in groups of those that live in one object, in their order."""
    groups: dict[int, list[Bound]] = {}
    for bound in bounds:
        groups.setdefault(id(bound.place.sdata), []).append(bound)
    return list(groups.values())


def _opened(sdata: SpatialData, selection: Selection, needs: frozenset[str], encoder: Encoder | None) -> list[Bound]:
    places = locate(sdata, selection)
    sections = [read_section(place, needs=needs, encoder=encoder) for place in places]
    if "counts" in needs:  # of the table that all sections share
        for place in places:
            if not place.is_measured:
                raise ValueError(f"Section {place.name!r} has no counts; it can be predicted, not fitted or evaluated.")
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
    section = _embedded(Section(place.name, genes, None, spots, image, tissue=outline_on(place, image)), place, encoder)
    if "features" in needs and section.features is None:
        raise ValueError(f"Section {place.name!r} has no embedding; make it with hd.pp.embed(sdata).")
    return section


def require_image(place: Place) -> None:
    """Raise where a section has no image."""
    if place.image_key is None:
        raise ValueError(
            f"There is no image for {place.name!r}: no image of the object shares a coordinate system with it "
            f"(images: {listing(place.sdata.images)})."
        )


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


def outline_on(place: Place, image: ImageSource | None) -> MultiPolygon | Polygon | None:
    """Return the stored outline of a place's tissue in um, as far as it lies on the image; None where there is none."""
    tissue = read_tissue(place)
    return tissue if tissue is None or image is None else _clipped(tissue, image)


def _clipped(tissue: MultiPolygon | Polygon, image: ImageSource) -> MultiPolygon | Polygon | None:
    """Return what of an outline lies on the image: a crop of an object leaves its polygons whole."""
    frame = shapely.box(*image.bounds_um)
    if shapely.covers(frame, tissue):
        return tissue
    parts = shapely.get_parts(shapely.intersection(shapely.make_valid(tissue), frame))
    parts = shapely.get_parts(parts[shapely.area(parts) > 0])
    return shapely.MultiPolygon(list(parts)) if len(parts) else None


def truth_counts(table: AnnData, truth: str | None) -> sparse.csr_matrix:
    """Return the counts that a prediction in the same table is judged by."""
    if truth is None and holds_predictions(table):
        raise ValueError(
            "The table is one of predictions, with nothing measured in X; say where the counts are with truth=, which takes a "
            "layer or a table with the same obs_names."
        )
    return read_counts(table, truth, what="the table", argument="truth=")


def read_counts(table: AnnData, layer: str | None, *, what: str, argument: str | None = "layer=") -> sparse.csr_matrix:
    """Return raw counts as csr float32, after checking that they are counts.

    Parameters
    ----------
    what
        The table, for messages.
    argument
        How the caller's user names the layer; None where that cannot be done.
    """
    if layer is not None:
        present(layer, layer_names(table), f"layer of {what}")
    values = table.X if layer is None else table.layers[layer]
    where = f"{what}, {'X' if layer is None else f'layer {layer!r}'}"
    if values is None:
        raise ValueError(f"There are no counts in {where}{_elsewhere(argument, layer_names(table))}.")
    if hasattr(values, "to_memory"):
        values = values.to_memory()
    counts = sparse.csr_matrix(values)
    try:
        check_counts(counts.data, where, layer_names(table), argument)
    except ValueError as error:
        if layer is not None or table.raw is None:
            raise
        raise ValueError(f"{error} adata.raw may hold them: take adata.raw.to_adata() instead.") from None
    return counts.astype(np.float32)


def _elsewhere(argument: str | None, layers: Iterable[str]) -> str:
    """Return how counts that are in a layer are reached."""
    if argument is None:
        return f"; if they are in a layer, put them into X (layers: {listing(layers)})"
    return f"; if they are in a layer, name it with {argument} (layers: {listing(layers)})"


def check_counts(data: np.ndarray, where: str, layers: Iterable[str], argument: str | None = "layer=") -> None:
    """Raise where values are not raw counts: numbers that are finite, not negative, and whole."""
    if data.dtype.kind == "b" or not np.issubdtype(data.dtype, np.number):
        raise TypeError(f"Counts are numbers, but {where} has dtype {data.dtype}.")
    if not np.isfinite(data).all():
        raise ValueError(f"There are NaN or infinite values in {where}; raw counts are needed.")
    if len(data) and data.min() < 0:
        raise ValueError(f"There are negative values in {where} (lowest {data.min():g}); raw counts are needed.")
    if np.abs(data - np.round(data)).max(initial=0) > _WHOLE:
        example = data[np.argmax(np.abs(data - np.round(data)))]
        raise ValueError(
            f"There are values that are not whole numbers in {where}, such as {example:g}; raw counts are "
            f"needed{_elsewhere(argument, layers)}."
        )


def check_unique(genes: np.ndarray, place: Place) -> None:
    names, times = np.unique(genes, return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"Table {place.table_key!r} has {int((times > 1).sum())} gene names more than once, such as {listing(names[times > 1], 4)}; "
            f"make them unique with adata.var_names_make_unique()."
        )


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
    xy = apply(to_um, shapely.get_coordinates(shapely.centroid(geometry)))
    footprint: np.ndarray | float
    if "radius" in element.columns:
        radii = check_radii(element["radius"].to_numpy(dtype=float)[where], repr(region)) * scale_of(to_um)
        footprint = float(radii[0]) if len(radii) and np.ptp(radii) < 1e-6 * radii[0] else radii
    else:
        footprint = np.asarray(shapely.transform(geometry, lambda points: apply(to_um, points)))
    height = table.obs[_keys.Z_UM].to_numpy(dtype=float)[place.rows] if _keys.Z_UM in table.obs else None
    return Locations(xy, footprint, _array_ij(table, place.rows), height)


def _array_ij(table: AnnData, rows: np.ndarray) -> np.ndarray | None:
    if _keys.ARRAY_ROW not in table.obs or _keys.ARRAY_COL not in table.obs:
        return None
    return table.obs[[_keys.ARRAY_ROW, _keys.ARRAY_COL]].to_numpy()[rows].astype(np.int64)


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
