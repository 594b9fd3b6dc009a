"""Samples of the HEST-1k collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

from hisdiff._arguments import checked
from hisdiff._check import listing, present
from hisdiff._geometry import pitch_of
from hisdiff._log import logger
from hisdiff._sdata._counts import read_counts
from hisdiff.io._anndata import positions
from hisdiff.io._build import section, without_noise
from hisdiff.io._features import genes_of
from hisdiff.io._orient import check_orientation, turned
from hisdiff.io._raster import open_raster
from hisdiff.io._scale import (
    VISIUM_DIAMETER_UM,
    VISIUM_REPORTED_UM,
    Source,
    library_of,
    number_or_none,
    reported_diameter,
    settle_mpp,
    spacing_source,
    visium_source,
)
from hisdiff.io._spaceranger import read_json
from hisdiff.io._spots import on_image

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from hisdiff._json import Plain

FILES = {"st": "st/{}.h5ad", "wsis": "wsis/{}.tif", "metadata": "metadata/{}.json"}
"""What one sample is made of, inside the folder of the collection."""


SPOTS = ("Spatial Transcriptomics", "Visium")
TOLERANCE = 0.1


@checked
def hest(path: str | Path, sample_id: str, *, mpp: float | None = None, orient: str | None = None) -> SpatialData:
    """Read one sample of HEST-1k.

    Parameters
    ----------
    path
        Folder that holds ``st/``, ``wsis/`` and ``metadata/``.
    sample_id
        Such as ``"TENX99"`` or ``"SPA148"``.
    mpp
        Micrometres per pixel, needed if the values of the sample contradict each other; None for that of the metadata.
    orient
        Orientation of the image; see :func:`visium`.

    Returns
    -------
    An object with the image ``{sample_id}_image``, round spots ``{sample_id}`` and the table ``"table"`` of raw counts.
    Micrometres per pixel are the metadata's ``pixel_size_um_estimated``, from the spots, or else
    ``pixel_size_um_embedded``, from the image file; they are compared with the pitch of the spots and the image file's own
    metadata. Samples of Xenium and Visium HD come as the pseudo-spots that the
    collection made of them.

    Raises
    ------
    KeyError
        If the folder has no such sample.
    ValueError
        If its values of the pixel size contradict each other, or a file cannot be read.
    FileNotFoundError
        If a file of the sample is missing; :func:`hisdiff.datasets.hest` downloads it.

    References
    ----------
    Jaume et al. (2024), HEST-1k: a dataset for spatial transcriptomics and histology image analysis, NeurIPS.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.hest("hest", "SPA148")  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    files = {key: path / pattern.format(sample_id) for key, pattern in FILES.items()}
    if not any(file.exists() for file in files.values()):
        available = sorted(file.stem for file in (path / "st").glob("*.h5ad"))
        present(sample_id, available, f"sample in {path}:")
    missing = [str(file.relative_to(path)) for file in files.values() if not file.exists()]
    if missing:
        raise FileNotFoundError(
            f"Sample {sample_id!r} in {path} lacks {listing(missing)}; hd.datasets.hest({sample_id!r}, {str(path)!r}) "
            "downloads what is missing."
        )
    metadata = read_json(files["metadata"], "the scale of the sample")
    try:
        with without_noise():
            table = ad.read_h5ad(files["st"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{files['st']} cannot be read: {error}. Is the file complete?") from error
    xy_px = positions(table)
    table.X = read_counts(table, None, what=str(files["st"]))
    table = genes_of(table, sample_id)
    raster = turned(open_raster(files["wsis"]), orient)
    kept = on_image(xy_px, raster.size, f"sample {sample_id!r}")
    table, xy_px = table[kept].copy(), xy_px[kept]
    reference = _reference(table)
    if reference is not None:
        check_orientation(raster, reference, str(files["wsis"]))
    stated = _stated(metadata)
    if stated is None and mpp is None:
        raise ValueError(
            f"{files['metadata']} has neither 'pixel_size_um_estimated' nor 'pixel_size_um_embedded'; its keys are {listing(metadata)}."
        )
    pitch = visium_source(table.obs, xy_px) or spacing_source(xy_px, _spacing(metadata))
    mpp = settle_mpp([stated, pitch, *raster.sources], f"sample {sample_id!r}", mpp)
    radius_um = _diameter(table, xy_px, metadata, mpp, sample_id) / 2
    table.uns.pop("spatial", None)  # a reduced copy of the image, of which the object has the full one
    return section(sample_id, raster.levels, mpp, table, xy_px, radius_um=radius_um)


def _stated(metadata: Plain) -> Source | None:
    """Return the pixel size of the metadata: the collection's estimate replaces what was embedded in the image."""
    values = {key: number_or_none(metadata.get(f"pixel_size_um_{key}")) for key in ("estimated", "embedded")}
    for key, value in values.items():
        if value is not None:
            return Source(f"the metadata ('pixel_size_um_{key}')", value)
    return None


def _spacing(metadata: Plain) -> float | None:
    """Return the distance of spots in um, where the technology has spots; of others pseudo-spots were made."""
    technology = str(metadata.get("st_technology", ""))
    return number_or_none(metadata.get("inter_spot_dist")) if technology in SPOTS else None


def _reference(table: ad.AnnData) -> np.ndarray | None:
    """Return the reduced copy of the image that the table holds."""
    library = library_of(table)
    images = {} if library is None else library.get("images") or {}
    return next((np.asarray(pixels) for pixels in images.values() if np.ndim(pixels) == 3), None)


def _diameter(table: ad.AnnData, xy_px: np.ndarray, metadata: Plain, mpp: float, sample_id: str) -> float:
    """Return the width of a spot in um."""
    stated = number_or_none(metadata.get("spot_diameter"))
    drawn = reported_diameter(table)
    if drawn is None and stated is None:
        # Samples of single cells do not state a diameter; cells are about as wide as they are apart.
        apart = pitch_of(xy_px) * mpp
        if not np.isfinite(apart) or apart <= 0:
            raise ValueError(f"Sample {sample_id!r} does not say how wide its spots are (metadata 'spot_diameter').")
        logger.warning(
            "%s does not say how wide its spots are; they are taken to be as wide as they are apart, %.1f um.",
            sample_id,
            apart,
        )
        return apart
    low, high = VISIUM_REPORTED_UM
    if stated == VISIUM_DIAMETER_UM and drawn is not None and low <= drawn * mpp <= high:
        return stated  # as Space Ranger reports it
    if drawn is None or (stated is not None and abs(drawn * mpp / stated - 1) < TOLERANCE):
        return float(stated or 0)
    return drawn * mpp  # pseudo-spots, of which the metadata have the bins they were made of
