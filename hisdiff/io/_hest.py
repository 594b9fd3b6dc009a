"""Samples of the HEST-1k collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

from hisdiff._check import listing, present
from hisdiff._log import logger
from hisdiff._sdata._read import read_counts
from hisdiff.io._anndata import positions
from hisdiff.io._build import check_inside, element_name, section, unique_genes, without_noise
from hisdiff.io._raster import open_raster
from hisdiff.io._scale import TOLERANCE, spot_scale

if TYPE_CHECKING:
    from spatialdata import SpatialData

FILES = {"st": "st/{}.h5ad", "wsis": "wsis/{}.tif", "metadata": "metadata/{}.json"}
"""What one sample is made of, inside the folder of the collection."""


def hest(path: str | Path, sample_id: str) -> SpatialData:
    """Read one sample of HEST-1k.

    Parameters
    ----------
    path
        Folder that holds ``st/``, ``wsis/`` and ``metadata/``.
    sample_id
        Such as ``"TENX99"`` or ``"SPA148"``.

    Returns
    -------
    An object with the image ``{sample_id}_image``, round spots ``{sample_id}`` and the table ``"table"`` of raw counts.
    Micrometres per pixel are the metadata's ``pixel_size_um_estimated``, from the spots, or else
    ``pixel_size_um_embedded``, from the image file. Samples of Xenium and Visium HD come as the pseudo-spots that the
    collection made of them.

    Raises
    ------
    KeyError
        If the folder has no such sample.
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
    metadata = _read_json(files["metadata"])
    mpp = _pixel_size(metadata, files["metadata"])
    try:
        with without_noise():
            table = ad.read_h5ad(files["st"])
    except OSError as error:
        raise ValueError(f"{files['st']} cannot be read: {error}. Is the file complete?") from error
    xy_px = positions(table)
    table.X = read_counts(table, None, what=str(files["st"]))
    table.var_names = unique_genes(table.var_names, sample_id)
    radius_um = _diameter(table, xy_px, metadata, mpp, sample_id) / 2
    raster = open_raster(files["wsis"])
    table, xy_px = _on_image(table, xy_px, raster.size, sample_id)
    table.uns.pop("spatial", None)  # a reduced copy of the image, of which the object has the full one
    return section(element_name(sample_id), raster.levels, mpp, table, xy_px, radius_um=radius_um)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}. Is the file complete?") from error


def _number(metadata: dict[str, Any], key: str) -> float | None:
    """Return a number of the metadata; what is not known is missing, null, NaN or an empty string."""
    try:
        value = float(metadata.get(key) or 0)
    except (TypeError, ValueError):
        return None
    return value if value > 0 else None


def _pixel_size(metadata: dict[str, Any], file: Path) -> float:
    for key in ("pixel_size_um_estimated", "pixel_size_um_embedded"):
        value = _number(metadata, key)
        if value is not None:
            return value
    raise ValueError(
        f"{file} has neither 'pixel_size_um_estimated' nor 'pixel_size_um_embedded'; its keys are {listing(metadata)}."
    )


def _diameter(table: ad.AnnData, xy_px: np.ndarray, metadata: dict[str, Any], mpp: float, sample_id: str) -> float:
    """Return the width of a spot in um."""
    stated = _number(metadata, "spot_diameter")
    drawn = spot_scale(table, xy_px).diameter_px
    if drawn is None and stated is None:
        raise ValueError(f"Sample {sample_id!r} does not say how wide its spots are (metadata 'spot_diameter').")
    if drawn is None or (stated is not None and abs(drawn * mpp / stated - 1) < TOLERANCE):
        return float(stated or 0)
    return drawn * mpp  # pseudo-spots, of which the metadata have the bins they were made of


def _on_image(
    table: ad.AnnData, xy_px: np.ndarray, size: tuple[int, int], sample_id: str
) -> tuple[ad.AnnData, np.ndarray]:
    """Leave out the few spots beyond the border of the image that some samples have."""
    inside = np.all((xy_px >= 0) & (xy_px <= (size[1], size[0])), axis=1)
    if inside.mean() < 0.9:
        check_inside(xy_px, size, f"sample {sample_id!r}")
    if inside.all():
        return table, xy_px
    logger.info("%s: left out %d of %d spots, which lie beyond the image.", sample_id, (~inside).sum(), len(inside))
    return table[inside].copy(), xy_px[inside]
