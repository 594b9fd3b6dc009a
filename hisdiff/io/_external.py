"""Import embeddings that were computed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
import spatialdata as sd
from anndata import AnnData, read_h5ad
from scipy.spatial import cKDTree

from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._docs import documented
from hisdiff._geometry import lattice_points
from hisdiff._geometry._grid import outlines
from hisdiff._geometry._shares import shares
from hisdiff._log import logger
from hisdiff._sdata._embedding import Embedded, write_embedding
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import FeatureSpec, Locations, needed
from hisdiff.encoders._embed import LATTICE_UM
from hisdiff.io._features_file import Tiles, read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData

    from hisdiff._sdata._bound import Bound

REVISION = "external"
"""Of all embeddings that hisdiff did not compute: no encoder of its own makes the same."""
LICENCE = {"licence": "unknown", "derivatives": "unknown"}
MAX_UNCOVERED = 0.1
SIZE_TOLERANCE = 0.02
_FEWEST = 16


@documented
@checked
def features(
    sdata: SpatialData,
    path: str | Path | np.ndarray | AnnData | SpatialData,
    *,
    key: str | None = None,
    encoder: str | None = None,
    patch_um: float | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
) -> None:
    """Import embeddings that were computed elsewhere, in the form that :func:`hisdiff.pp.embed` writes.

    Parameters
    ----------
    sdata
        A section with spots and its image.
    path
        TRIDENT's ``.h5`` with ``features`` and ``coords``; a wsidata (LazySlide) store or object with a table of features of
        its tiles; an array ``(n_obs, D)`` or ``.npy`` file in the order of the table; or an AnnData or ``.h5ad`` with the same
        ``obs_names`` and embeddings in ``X``.
    key
        Which table of a store, or which encoder of a file, where there are several.
    encoder
        Name of the encoder, for the record; None for what the file calls it. Models are used on embeddings of one name only.
    patch_um
        Side in um of what the encoder saw, where the file does not say.
    %(place)s
    %(mpp)s

    Returns
    -------
    None, and sets ``tables[table_key].obsm["hisdiff_embedding"]`` (float32, n_obs x D) and
    ``uns["hisdiff"]["embedding"]``. A spot has the mean of the tiles that its footprint touches, by area; mean and standard
    deviation of the section are taken over tiles on a 200 um lattice, or over the spots where there are no tiles.

    Raises
    ------
    ValueError
        If the coordinates do not fit: tiles of an image of another size, tiles off the image, or more than a tenth of the spots
        without one; or if values are not finite or not as many as there are spots.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    Places that were not embedded (finer bins, other outlines) cannot be predicted from such an embedding, since the encoder is
    not there.

    Examples
    --------
    >>> import hisdiff as hd
    >>> import numpy as np
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> vectors = np.random.default_rng(0).normal(size=(sdata.tables["table"].n_obs, 8))
    >>> hd.io.features(sdata, vectors, encoder="mine")
    >>> sdata.tables["table"].obsm["hisdiff_embedding"].shape
    (12, 8)
    """
    if patch_um is not None:
        positive(patch_um, "patch_um")
    if encoder is not None and not (isinstance(encoder, str) and encoder):
        raise TypeError(f"encoder is the name of the encoder, not {encoder!r}.")
    bounds = open_sections(sdata, Selection(table_key, image_key, shapes_key, mpp=mpp), needs=("image",))
    for bound in bounds:
        if bound.section.spots is None or bound.place.table is None:
            raise ValueError(f"{bound.place.name!r} has no spots; embeddings are imported at spots.")
    source = _source(path)
    if isinstance(source, AnnData):
        source = _by_name(source, bounds[0].table)
    if isinstance(source, np.ndarray):
        done = _of_rows(bounds, source, encoder or "external", patch_um)
    else:
        tiles = read_tiles(source, key)
        if len(bounds) > 1:
            raise ValueError(
                f"The tiles are of one image, and the object has {len(bounds)} sections; choose one with shapes_key=."
            )
        _check_values(tiles.values, len(tiles.corner_px), "tiles")
        done = [_of_tiles(bounds[0], tiles, encoder or tiles.encoder or "external", patch_um)]
    write_embedding(bounds, done, LICENCE)


def _source(path: object) -> np.ndarray | Path | sd.SpatialData | AnnData:
    """Return an array, or what tiles are read from."""
    if isinstance(path, (sd.SpatialData, AnnData)):
        return path
    if not isinstance(path, (str, Path)):
        array = np.asarray(path)
        if array.dtype.kind not in "fiu":
            raise TypeError(
                f"path is a file, an AnnData, a SpatialData or an array of numbers, not {type(path).__name__}."
            )
        return array
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"There is no {file}.")
    if file.suffix == ".npy":
        try:
            return np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{file} cannot be read as an array: {error}. Is the file complete?") from error
    return read_h5ad(file) if file.suffix == ".h5ad" else file


def _check_values(values: np.ndarray, n: int, what: str) -> None:
    if values.ndim != 2 or len(values) != n or not values.shape[1]:
        raise ValueError(f"The embeddings have shape {values.shape}; one row for each of the {n} {what} is needed.")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).any(axis=1).sum())} of {n} embeddings have NaN or infinite values."
        )


def _by_name(source: AnnData, table: AnnData) -> np.ndarray:
    """Return the embeddings of an AnnData in the order of a table."""
    rows = source.obs_names.get_indexer(table.obs_names)
    if (rows < 0).any():
        missing = table.obs_names[rows < 0]
        raise ValueError(
            f"{len(missing)} of {table.n_obs} spots have no embedding of their name, such as {listing(missing, 3)}; the embeddings have "
            f"{listing(source.obs_names, 3)}."
        )
    values = source.X
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)[rows]


def _of_rows(bounds: list[Bound], values: np.ndarray, encoder: str, patch_um: float | None) -> list[Embedded]:
    """Return the embedding of each section from one of all rows of the table."""
    values = np.asarray(values, dtype=np.float32)
    _check_values(values, bounds[0].table.n_obs, "rows of the table")
    side = 0.0 if patch_um is None else float(patch_um)
    spec = FeatureSpec(encoder, REVISION, values.shape[1], 0.0, side)
    done = []
    for bound in bounds:
        own = values[bound.place.rows]
        done.append(_embedded(bound, spec, own, own))
    return done


def _of_tiles(bound: Bound, tiles: Tiles, encoder: str, patch_um: float | None) -> Embedded:
    """Return the embedding of a section from tiles of its image."""
    mpp, what = bound.place.mpp, bound.place.name
    _check_place(bound, tiles)
    side_um = tiles.side_px * mpp
    center_um = (tiles.corner_px + tiles.side_px / 2) * mpp
    spots = needed(bound.section.spots)
    squares = shapely.box(*(center_um - side_um / 2).T, *(center_um + side_um / 2).T)
    weights = shares(outlines(spots), Locations(center_um, squares))
    total = np.asarray(weights.sum(axis=1)).ravel()
    uncovered = total == 0
    if uncovered.mean() > MAX_UNCOVERED:
        raise ValueError(
            f"{int(uncovered.sum())} of {len(spots)} spots of {what!r} lie in no tile: the tiles, {side_um:.0f} um wide, reach from "
            f"({center_um[:, 0].min():.0f}, {center_um[:, 1].min():.0f}) to ({center_um[:, 0].max():.0f}, {center_um[:, 1].max():.0f}) um, the spots "
            f"from ({spots.xy_um[:, 0].min():.0f}, {spots.xy_um[:, 1].min():.0f}) to ({spots.xy_um[:, 0].max():.0f}, "
            f"{spots.xy_um[:, 1].max():.0f}) um. Are they of this section?"
        )
    values = np.asarray(weights @ tiles.values) / np.where(uncovered, 1, total)[:, None]
    if uncovered.any():
        logger.warning("%s: %d spots lie in no tile; they have the nearest one's embedding.", what, uncovered.sum())
        values[uncovered] = tiles.values[cKDTree(center_um).query(spots.xy_um[uncovered])[1]]
    side = side_um if patch_um is None else float(patch_um)
    spec = FeatureSpec(
        encoder, REVISION, values.shape[1], side / tiles.seen_px if tiles.seen_px else 0.0, round(side, 3)
    )
    return _embedded(bound, spec, values.astype(np.float32), _on_lattice(bound, tiles, center_um, side_um))


def _check_place(bound: Bound, tiles: Tiles) -> None:
    """Raise where tiles are not of the image of a section."""
    image, mpp = needed(bound.section.image), bound.place.mpp
    width, height = image.bounds_um[2] / mpp, image.bounds_um[3] / mpp
    if tiles.size_px is not None:
        off = max(abs(tiles.size_px[0] / width - 1), abs(tiles.size_px[1] / height - 1))
        if off > SIZE_TOLERANCE:
            raise ValueError(
                f"The tiles are of an image of {tiles.size_px[0]:.0f} x {tiles.size_px[1]:.0f} px, but {bound.place.image_key!r} has {width:.0f} x "
                f"{height:.0f}: another slide, or its coordinates are of another resolution."
            )
    low, high = tiles.corner_px.min(axis=0), tiles.corner_px.max(axis=0)
    if (low < -tiles.side_px).any() or high[0] > width or high[1] > height:
        raise ValueError(
            f"The tiles lie from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}) px, but {bound.place.image_key!r} has {width:.0f} x "
            f"{height:.0f} px: another slide, or its coordinates are of another resolution."
        )


def _on_lattice(bound: Bound, tiles: Tiles, center_um: np.ndarray, side_um: float) -> np.ndarray:
    """Return the tiles that lie on the lattice over which the statistics of a section are taken; all where these are few."""
    area = bound.section.tissue
    if area is None:
        area = shapely.box(*(center_um.min(axis=0) - side_um / 2), *(center_um.max(axis=0) + side_um / 2))
    distance, nearest = cKDTree(center_um).query(lattice_points(area, LATTICE_UM), p=np.inf)
    rows = nearest[distance <= side_um / 2]
    return tiles.values[rows] if len(rows) >= _FEWEST else tiles.values


def _embedded(bound: Bound, spec: FeatureSpec, values: np.ndarray, statistics: np.ndarray) -> Embedded:
    sample = statistics.astype(np.float64)
    std = sample.std(axis=0) if len(sample) > 1 else np.ones(sample.shape[1])
    spots = needed(bound.section.spots)
    return Embedded(bound, spec, bound.section.tissue, spots, values, sample.mean(axis=0), std, "unknown")
