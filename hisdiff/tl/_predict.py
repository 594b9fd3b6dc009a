"""Predict expression: at spots, on the lattice of a section that has only an image, or finer than the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff._arguments import checked
from hisdiff._docs import documented
from hisdiff._sdata._bound import as_list
from hisdiff._sdata._selection import Selection
from hisdiff._workers import active_client, check_stores
from hisdiff.tl._conditions import model_for
from hisdiff.tl._predict_call import PredictCall
from hisdiff.tl._predict_job import run_at_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model


@documented
@checked
def predict(
    data: SpatialData | Sequence[SpatialData],
    model: Model | str | Path | None = None,
    *,
    resolution_um: float | None = None,
    at: str | None = None,
    n_draws: int | None = None,
    n_steps: int | None = None,
    keep_draws: int | None = None,
    units: str | None = None,
    calibrate: str | None = None,
    library_size: float | None = None,
    table: str | None = None,
    encoder: str | Encoder | Sequence[str | Encoder] | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> AnnData | list[AnnData] | None:
    """Predict expression from the image.

    By default a section with a table is predicted at its spots, and a section that has only an image at a lattice with the
    pitch of the training spots. ``resolution_um`` predicts a grid of bins, ``at`` the shapes or labels of any element: cells,
    nuclei, annotations, bins. A section that is not embedded yet is embedded with the encoder of the model first.

    Parameters
    ----------
    data
        One SpatialData or a sequence of them.
    %(model)s
    resolution_um
        Side of the bins of a grid over the tissue, in um.
    at
        Name of a shapes or labels element to predict at. The prediction of a shape is the sum over its area.
    n_draws
        Number of draws of the whole gene vector per location; None for 16 at spots, 4 elsewhere. Their mean is the
        prediction.
    n_steps
        Number of sampling steps; None for the default of the model. An error for methods without steps.
    keep_draws
        Number of single draws to store; None for 1 at spots, 0 elsewhere.
    units
        ``"log2"``: mean and standard deviation of log2(1 + count), the default at spots. ``"counts"``: of counts, the
        default elsewhere; these are expected counts, without counting noise.
    calibrate
        Calibration of a finer prediction to measured spots of the section. ``"shrink"`` (default): the bins inside a spot
        are scaled towards its measured count, fully for a gene that is predicted poorly and counted often, hardly for one that is counted
        rarely or predicted well. ``"exact"``: they are scaled until they add up to the count, noise included, where no bin lies in two
        footprints. ``"none"``: the prediction is left unchanged. In symbols, with y the count of the spot and m the predicted sum, ``"shrink"``
        multiplies by s (y + a) / (s m + a): a, from the training sections, is large for genes that are predicted well, and s is a factor that
        all genes of the spot share. The factors of draws are drawn from their distributions.
    library_size
        Median total count of a spot over the panel to predict at, such as 3000; None for the section's own where it has
        counts, else the median of the training sections.
    table
        Where predictions at spots go. ``"layers"``: layers of the section's table, NaN for genes outside the panel.
        ``"panel"``: a table of the panel's genes on the same spots. None for layers, unless one would be above 2 GB.
    encoder
        The encoder of the model; needed only if it is a custom object and the model was loaded in another process.
    %(place)s
    %(counts_layer)s
        The library size of a section and its agreement with measured spots are computed from it.
    %(mpp)s
    key_added
        Stem of the names of layers, or of the new table and element; None for the name of the method.
    %(inplace)s
    %(rng)s
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets in ``tables[table_key]``

    - ``layers["hisdiff"]`` (mean of draws), ``["hisdiff_std"]``, ``["hisdiff_draw0"]``, ...: float32, n_obs x n_vars, in
      ``units``; NaN for genes outside the panel;
    - ``var["hisdiff_modelled"]``, ``["hisdiff_cv_pcc"]``, ``["hisdiff_interval_factor"]``: the panel, and the expected
      accuracy and interval factor of each gene from left-out training tissue;
    - ``obs["hisdiff_ood"]``: bool, whether the patch lies outside the distribution of training patches;
    - ``uns["hisdiff"]["predictions"]["hisdiff"]``: the record of the prediction.

    With ``table="panel"`` the same goes to the table ``hisdiff`` with the genes of the panel: ``X`` holds the measured counts,
    ``obs``, ``obsm``, ``obsp`` and ``uns`` are those of the section's table. In an object backed by a zarr store it is written there.

    A prediction replaces an earlier one of the same name at the same spots, in layers or in a table of the panel, and says so.

    A section that has only an image gets the table ``lattice`` with the genes of the panel. With ``resolution_um=16``: the
    table ``hisdiff_16um`` (bins x panel; ``X`` the mean, layer ``"std"``, ``"draw0"``, ...; ``obs["spot"]`` and
    ``obs["spot_distance_um"]`` the nearest measured spot) on the labels ``hisdiff_16um_bins``. With ``at="nuclei"``: the
    table ``hisdiff_nuclei`` on that element. An object with several sections gets one for each, with its region at the end
    of the names.

    If the object is backed by a zarr store, the table of a grid is written there tile by tile, in memory that does not
    grow with the slide (only counts and factors of measured spots are held in memory). An interrupted call leaves no table,
    and the same call resumes it. Above 256 MB ``X`` and the layers are lazy (dask).

    With ``inplace=False`` the predictions, an AnnData (locations x panel) per section with the same layers and record; ``X`` is the mean,
    or with ``table="panel"`` the measured counts.

    Raises
    ------
    KeyError
        If no model is given and none was fitted on this object.
    OSError
        If the disk is full; the object is unchanged, and the same call resumes.
    ValueError
        If the grid is finer than a pixel or no bin lies in the tissue, a result above 2 GB is asked for an object
        without a store, both ``resolution_um`` and ``at`` are given, ``table`` is given with one of them,
        the embedding is of another encoder than the model's, fewer than half of its genes are in the table, a layer
        or table of that name was not written by hisdiff, or the image or its scale is missing.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> model = hd.tl.fit(sdata, method="ridge")
    >>> hd.tl.predict(sdata, model)
    >>> all(name in sdata.tables["table"].layers for name in ("ridge", "ridge_std", "ridge_draw0"))
    True
    """
    selection = Selection(table_key, image_key, shapes_key, layer, mpp)
    call = PredictCall(
        resolution_um, at, n_draws, n_steps, keep_draws, units, calibrate, library_size, table, encoder, selection, key_added, rng,
        device, progress,
    )  # fmt: skip
    items = as_list(data)
    jobs = call.jobs([model_for(sdata, model) for sdata in items])
    groups = [job.opened(sdata, selection) for job, sdata in zip(jobs, items)]
    check_stores("hd.tl.predict", {sdata.path for sdata in items})
    if call.target is None and active_client() is not None and len(jobs) > 1:
        results = run_at_once(jobs, groups, inplace=inplace)
    else:
        results = [job.run(bounds, inplace=inplace) for job, bounds in zip(jobs, groups)]
    if inplace:
        return None
    return results if isinstance(data, (list, tuple)) else results[0]
