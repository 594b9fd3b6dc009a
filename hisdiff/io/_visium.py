"""Visium sections in folders that Space Ranger wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._arguments import checked
from hisdiff._keys import SPATIAL
from hisdiff.io._build import section
from hisdiff.io._scale import diameter_source, resolve_radius, settle_mpp, visium_source
from hisdiff.io._spaceranger import (
    SCALE_FACTORS,
    check_arguments,
    choose_image,
    counts_file_of,
    folder_of,
    given_image,
    name_of,
    named,
    number,
    place,
    positions_file_of,
    prefix_of,
    read_json,
    read_matrix,
    read_positions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData

DIAMETER = "spot_diameter_fullres"
_HINTS = {
    "var_names_make_unique": "Repeated names of genes are always numbered.",
    "imread_kwargs": "Images are read lazily; there is nothing to set.",
    "image_models_kwargs": "Images are multi-scale; there is nothing to set.",
}


@checked
def visium(
    path: str | Path,
    *,
    fullres_image_file: str | Path | None = None,
    mpp: float | None = None,
    orient: str | None = None,
    dataset_id: str | None = None,
    counts_file: str | Path | None = None,
    tissue_positions_file: str | Path | None = None,
    scalefactors_file: str | Path | None = None,
    genome: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read a Visium section from a folder that Space Ranger wrote (``outs/``).

    Parameters
    ----------
    path
        Folder with ``filtered_feature_bc_matrix.h5`` (or the folder ``filtered_feature_bc_matrix/``) and ``spatial/``; or with all
        files beside each other, with the prefix of their sample and packed (``.gz``), as they come from GEO.
    fullres_image_file
        The full-resolution image, which Space Ranger does not copy. None for the ``hires`` image of 2,000 pixels, or the
        ``lowres`` one, in which single cells are not visible; this is logged.
    mpp
        Micrometres per full-resolution pixel; None for the value from the pitch of the spots (100 um). It is compared with
        the spots' diameter and the image file's metadata.
    orient
        Transformation of the full-resolution image: ``"flip_left_right"``, ``"flip_top_bottom"``, ``"rotate_90"`` (counter-clockwise),
        ``"rotate_180"``, ``"rotate_270"``, ``"transpose"`` or ``"transverse"``. If the orientation differs from that of the
        reduced image, an error names the transformation that fits.
    dataset_id
        Name of the section; None for the prefix of the counts file, else for the folder's name.
    counts_file, tissue_positions_file, scalefactors_file
        Names of files inside ``path``, where they are not the usual ones or there are several.
    genome
        Genome to use; needed if there are counts of several.
    **kwargs
        Arguments of spatialdata-io's reader that do not apply here; they raise an error that says why.

    Returns
    -------
    An object with the image ``{dataset_id}_image``, spots ``{dataset_id}`` of 55 um and the table ``"table"`` of raw
    counts of gene expression. Coordinates are pixels of the full-resolution image also where only a reduced image is
    there, which is then scaled to them. Spots off the tissue are kept (``obs["in_tissue"]``); models are not fitted on them.

    Raises
    ------
    FileNotFoundError
        If a file of the folder is missing.
    ValueError
        If the image is not the full-resolution one of these spots, or a file cannot be read or contradicts another one.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.visium("sample/outs", fullres_image_file="sample.tif")  # doctest: +SKIP
    """
    check_arguments("visium", kwargs, _HINTS)
    path = folder_of(path)
    if (path / "binned_outputs").is_dir():
        raise ValueError(f"{path} is of Visium HD, which hd.io.visium_hd reads.")
    counts = counts_file_of(path, counts_file)
    name = dataset_id or prefix_of(counts) or name_of(path)
    spatial = path / "spatial" if (path / "spatial").is_dir() else path
    prefix = prefix_of(counts)
    if scalefactors_file:
        factors_file = path / scalefactors_file
    else:
        factors_file = named(spatial, [SCALE_FACTORS], prefix, "scalefactors_file=") or spatial / SCALE_FACTORS
    factors = read_json(factors_file)
    given = path / tissue_positions_file if tissue_positions_file else None
    positions = positions_file_of(spatial, given, prefix)

    table = place(read_matrix(counts, name, genome), read_positions(positions), positions, name)
    raster, reduction = choose_image(
        given_image(path, fullres_image_file), [spatial, path], factors, factors_file, orient, prefix
    )
    xy_px = np.asarray(table.obsm[SPATIAL])
    diameter_px = number(factors, DIAMETER, factors_file) if DIAMETER in factors else None
    pitch = visium_source(table.obs, xy_px)
    diameter = diameter_source(diameter_px, None, on_visium=pitch is not None)
    sources = [pitch, diameter, *(raster.sources if reduction == 1 else ())]
    mpp = settle_mpp(sources, name, mpp)
    radius_um = resolve_radius(mpp, name, given_um=None, on_visium=pitch is not None, diameter_px=diameter_px)
    return section(name, raster.levels, mpp, table, xy_px, radius_um=radius_um, reduction=reduction)
