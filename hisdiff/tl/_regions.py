"""Regions in which a programme of marker genes is expressed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import names_of, positive
from hisdiff._docs import documented
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._area import areas_of, tables_places, write_columns
from hisdiff._sdata._expression import read_expression
from hisdiff._sdata._provenance import check_slots_free, checked_name, set_record
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._store import unsaved
from hisdiff.tl._segmentation import SegmentOptions, label_section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff._sdata._area import Area
    from hisdiff.methods.tesla._regions import Regions


@documented
@checked
def marker_regions(
    sdata: SpatialData,
    markers: str | Sequence[str],
    *,
    layer: str | None = None,
    n_required: int = 1,
    pool: Literal["min", "mean"] = "min",
    target: Literal["small", "large"] = "small",
    min_count: float | None = None,
    n_labels: int = 30,
    continuity: float = 5.0,
    working_px: int = 300,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    key_added: str = _keys.REGION,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame | None:
    """Find the regions of a section in which a programme of markers is expressed, after TESLA.

    A small network labels the pixels of a two-band image, the programme and the grey of the H&E. It is trained on its own
    labels with a penalty on differences between neighbours, until few labels are left. The region consists of the labels
    in which the programme is high. It works on the spots of a table and on the bins of a finer prediction of any method.

    Parameters
    ----------
    %(section)s
    markers
        Genes of the programme.
    %(expression_layer)s
    n_required, pool
        The programme is the lowest (``"min"``: all of them have to be expressed) or the ``"mean"`` of the ``n_required``
        highest markers at a location.
    target
        ``"small"``: labels above half of the highest mean, for small structures; ``"large"``: above a third.
    min_count
        Expression below this count is set to zero; None for no threshold.
    n_labels, continuity
        Number of labels at which to stop; weight of the penalty.
    working_px
        Maximum number of pixels along the shorter side of the working image (1000 in the published code). A pixel is never
        smaller than a bin. The run time grows with its square.
    %(spots_table_key)s
    %(image_key)s
    %(mpp)s
    key_added
        Stem of the columns.
    %(inplace)s
    %(rng)s
        It is used by the network that segments.
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets ``obs["hisdiff_region"]`` (bool), ``obs["hisdiff_region_label"]`` (categorical, largest label first),
    ``obs["hisdiff_region_density"]`` (mean of the programme over the location's label, 0 to 1; 0 outside the region) and
    ``uns["hisdiff"]["regions"]["hisdiff_region"]``. Or a frame with these columns.

    Raises
    ------
    KeyError
        If there is no such gene, layer or table.
    ValueError
        If there is no image, or a column of that name was not written by hisdiff.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> markers = [gene for gene in sdata.tables["table"].var_names if gene.startswith("TUM")][:3]
    >>> hd.tl.marker_regions(sdata, markers, working_px=20)
    >>> bool(sdata.tables["table"].obs["hisdiff_region"].any())
    True
    """
    genes = names_of(markers)
    if not genes:
        raise ValueError("markers is empty; name the genes of the programme.")
    if positive(n_required, "n_required", integer=True) > len(genes):
        raise ValueError(f"n_required={n_required} is more than there are markers ({len(genes)}).")
    options = SegmentOptions(n_required, pool, target, min_count, n_labels, continuity, working_px)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    table, places = tables_places(sdata, Selection(table_key, image_key, mpp=mpp))
    key_added = checked_name(key_added, _keys.REGION)
    names = [key_added, f"{key_added}_label", f"{key_added}_density"]
    if inplace:
        check_slots_free(table, "obs", names)
    expression = read_expression(table, layer, genes=genes, normalize=None, at_least=(4, 1))[0]
    areas = areas_of(places, expression.rows, max_px=options.working_px)
    flag, label = np.zeros(table.n_obs, dtype=bool), np.full(table.n_obs, -1)
    density = np.zeros(table.n_obs)
    sections: Plain = {}
    for area in areas:
        found, labels = label_section(area, expression.values()[area.chosen], options, runtime)
        flag[area.rows], label[area.rows] = found.target[labels], labels
        density[area.rows] = np.where(found.target[labels], found.density[labels], 0)
        sections[area.place.name] = _summary(area, found, labels)
    columns = {names[0]: flag, names[1]: _categories(label), names[2]: density}
    if not inplace:
        return pd.DataFrame(columns, index=table.obs_names)
    write_columns(table, columns)
    record = {
        "markers": genes,
        "layer": expression.layer,
        "seed": runtime.seed,
        "sections": sections,
        "version": VERSION,
    }
    set_record(table, _keys.REGIONS, key_added, record | {k: v for k, v in asdict(options).items() if v is not None})
    logger.info(
        "wrote obs[%r]: %d of %d locations are in the region%s", key_added, int(flag.sum()), table.n_obs, unsaved(sdata)
    )
    return None


def _summary(area: Area, found: Regions, labels: np.ndarray) -> Plain:
    """Return what is recorded of one section: labels that locations have, in plain values."""
    seen = np.unique(labels)
    in_target = area.raster.inside.sum() * area.raster.pixel_um**2 * float(found.target[labels].mean())
    return {
        "labels": [int(label) for label in seen],
        "density": [float(found.density[label]) for label in seen],
        "target": [bool(found.target[label]) for label in seen],
        "area_um2": float(in_target),
    }


def _categories(label: np.ndarray) -> Any:
    seen = np.unique(label[label >= 0])
    codes = np.where(label >= 0, np.searchsorted(seen, label), -1)
    return pd.Categorical.from_codes(codes, pd.Index([str(value) for value in seen], dtype=str))
