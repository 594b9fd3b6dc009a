"""From SpatialData to :class:`~hisdiff._section.Section`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy import sparse
from spatialdata.transformations import get_transformation

from hisdiff import _keys
from hisdiff._check import check_radii, listing, present
from hisdiff._sdata._dense import dense_features
from hisdiff._sdata._features import stored_features
from hisdiff._sdata._genes import gene_names
from hisdiff._sdata._image import PyramidImage
from hisdiff._sdata._labels import instances_of, label_locations
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._locate import Place, locate, made_here, matrix_to
from hisdiff._sdata._tissue import read_tissue
from hisdiff._section import Locations, Section

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from anndata import AnnData
    from shapely import MultiPolygon
    from spatialdata import SpatialData

# Counts that a float table holds may be off by rounding in storage only.
_WHOLE = 1e-4


@dataclass(frozen=True)
class Bound:
    """A section and the place it was read from, to which results go back."""

    section: Section
    place: Place


def as_list(data: SpatialData | Sequence[SpatialData]) -> list[SpatialData]:
    """Return one SpatialData or a sequence of them as a list."""
    items = [data] if not isinstance(data, (list, tuple)) else list(data)
    if not items:
        raise ValueError("There is no section: the sequence of SpatialData is empty.")
    repeated = len({id(item) for item in items}) < len(items)
    if repeated:
        raise ValueError("The same SpatialData object is given twice.")
    return items


def read_sections(
    sdata: SpatialData,
    *,
    table_key: str | None = None,
    image_key: Any = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    needs: Collection[str] = (),
) -> list[Bound]:
    """Read the sections of a SpatialData.

    Parameters
    ----------
    needs
        Which of ``counts``, ``image`` and ``features`` must be there; what is missing is an error that says how to get
        it. Counts are read (and checked) only where they are asked for.
    """
    places = locate(sdata, table_key=table_key, image_key=image_key, shapes_key=shapes_key, mpp=mpp)
    return [_read(place, layer, frozenset(needs)) for place in places]


def _read(place: Place, layer: str | None, needs: frozenset[str]) -> Bound:
    table = place.table
    image = None
    if place.image_key is not None:
        image = PyramidImage(place.sdata.images[place.image_key], place.mpp, place.image_key)
    elif "image" in needs:
        raise ValueError(
            f"There is no image for {place.name!r}: no image of the object shares a coordinate system with it "
            f"(images: {listing(place.sdata.images)})."
        )
    spots = None if table is None else _spots(place)
    if spots is not None and image is not None:
        _check_on_image(place, spots, image)
    genes = np.array([], dtype=str) if table is None else gene_names(table)
    counts = None
    if "counts" in needs:
        if table is None or table.n_vars == 0 or place.table_key == _keys.LATTICE_TABLE:
            raise ValueError(f"Section {place.name!r} has no counts; it can be predicted, not fitted or evaluated.")
        counts = read_counts(table, layer, what=f"table {place.table_key!r}")[place.rows]
        _check_unique(genes, place)
    features = None
    if table is not None and _keys.EMBEDDING in table.obsm:
        features = stored_features(place, spots, image)
    if "features" in needs and features is None:
        raise ValueError(f"Section {place.name!r} has no embedding; make it with hd.pp.embed(sdata).")
    tissue = read_tissue(place)
    if tissue is not None and image is not None:
        tissue = _clipped(tissue, image)
    dense = (
        None
        if features is None
        else dense_features(place, image, features.spec.encoder, tissue, features.spec.revision)
    )
    return Bound(
        Section(place.name, genes, counts, spots, image, features, tissue, dense=dense),
        place,
    )


def _clipped(tissue: MultiPolygon, image: PyramidImage) -> MultiPolygon | None:
    """Return what of an outline lies on the image: a crop of an object leaves its polygons whole."""
    frame = shapely.box(*image.bounds_um)
    if shapely.covers(frame, tissue):
        return tissue
    parts = shapely.get_parts(shapely.intersection(shapely.make_valid(tissue), frame))
    parts = shapely.get_parts(parts[shapely.area(parts) > 0])
    return shapely.MultiPolygon(list(parts)) if len(parts) else None


def truth_counts(table: AnnData, truth: str | None) -> sparse.csr_matrix:
    """Return the counts that a prediction in the same table is judged by."""
    if truth is None and made_here(table):
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
    """Raise where values are no raw counts: numbers that are finite, not negative, and whole."""
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


def _check_unique(genes: np.ndarray, place: Place) -> None:
    names, times = np.unique(genes, return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"Table {place.table_key!r} has {int((times > 1).sum())} gene names more than once, such as {listing(names[times > 1], 4)}; "
            f"make them unique with adata.var_names_make_unique()."
        )


def _spots(place: Place) -> Locations:
    """Return the spots of a place, in the order of its table rows, in um."""
    table, element = place.table, place.sdata[place.region]
    to_um = to_um_of(place)
    if place.region in place.sdata.labels:
        return replace(label_locations(place, to_um), array_ij=_array_ij(table, place.rows))
    keys = instances_of(place)
    where = element.index.get_indexer(keys)
    if (where < 0).any():
        raise ValueError(
            f"{int((where < 0).sum())} of {len(keys)} rows of table {place.table_key!r} have no shape in {place.region!r}, "
            f"such as {listing(keys[where < 0], 4)}."
        )
    geometry = np.asarray(element.geometry)[where]
    centers = shapely.get_coordinates(shapely.centroid(geometry))
    xy = centers @ to_um[:2, :2].T + to_um[:2, 2]
    scale = float(np.sqrt(abs(np.linalg.det(to_um[:2, :2]))))
    footprint: np.ndarray | float
    if "radius" in element.columns:
        radii = check_radii(element["radius"].to_numpy(dtype=float)[where], repr(place.region)) * scale
        footprint = float(radii[0]) if len(radii) and np.ptp(radii) < 1e-6 * radii[0] else radii
    else:
        footprint = np.asarray(shapely.transform(geometry, lambda p: p @ to_um[:2, :2].T + to_um[:2, 2]))
    height = table.obs[_keys.Z_UM].to_numpy(dtype=float)[place.rows] if _keys.Z_UM in table.obs else None
    return Locations(xy, footprint, _array_ij(table, place.rows), height)


def _array_ij(table: AnnData, rows: np.ndarray) -> np.ndarray | None:
    if _keys.ARRAY_ROW not in table.obs or _keys.ARRAY_COL not in table.obs:
        return None
    return table.obs[[_keys.ARRAY_ROW, _keys.ARRAY_COL]].to_numpy()[rows].astype(np.int64)


def to_um_of(place: Place) -> np.ndarray:
    """Return the matrix from the region's own coordinates to um: through the image, else the region's own scale."""
    if place.image_key is not None:
        return np.diag([place.mpp, place.mpp, 1.0]) @ place.to_px
    element = place.sdata[place.region]
    if _keys.UM not in get_transformation(element, get_all=True):
        raise ValueError(
            f"There is no image for {place.name!r}, and no coordinate system {_keys.UM!r} that would tell its scale."
        )
    return matrix_to(element, _keys.UM)


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
