"""Score of tertiary lymphoid structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._docs import documented
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._area import areas_of, tables_places, write_columns
from hisdiff._sdata._expression import X, covered_genes, read_expression
from hisdiff._sdata._genes import columns_of
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots, set_record
from hisdiff._sdata._selection import Selection
from hisdiff.tl._segmentation import SegmentOptions, label_section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain

TLS_PROGRAMMES: dict[str, tuple[str, ...]] = {
    "B cell": ("MS4A1", "CD19", "CD79A"),
    "CD4 T cell": ("CD4", "CD3D", "CD3E", "IL7R"),
    "dendritic cell": ("ITGAX", "CCR7", "LAMP3", "CLEC10A"),
    "CXCL13": ("CXCL13",),
}
"""Bins and the chemokine that meet in a tertiary lymphoid structure, with their markers."""


@documented
@checked
def tls_score(
    sdata: SpatialData,
    programmes: Mapping[str, Sequence[str]] | None = None,
    *,
    layer: str | None = None,
    n_required: int = 3,
    min_score: float = 0.5,
    target: Literal["small", "large"] = "small",
    min_count: float | None = None,
    n_labels: int = 30,
    continuity: float = 5.0,
    working_px: int = 300,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    key_added: str = _keys.TLS,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame | None:
    """Score the similarity of each location to a tertiary lymphoid structure, after TESLA.

    The regions of each programme are found as by :func:`marker_regions`. The score of a location for a programme is the
    density of its label relative to the highest one. The result is the ``n_required``-th highest of these scores, scaled to
    0 to 1, so that ``n_required`` programmes have to coincide.

    Parameters
    ----------
    %(section)s
    programmes
        Markers by programme; None for B cells, CD4 T cells, dendritic cells and CXCL13. Markers that are missing in the table, or
        in the panel of a predicted layer, are left out; a programme without any marker is an error.
    %(expression_layer)s
    n_required
        Number of programmes that have to coincide.
    min_score
        Scores below this value are set to 0.
    target, min_count, n_labels, continuity, working_px, table_key, image_key, mpp
        See :func:`marker_regions`.
    key_added
        Name of the column.
    %(inplace)s
    %(rng)s
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets ``obs["hisdiff_tls"]`` (0 to 1), ``obsm["hisdiff_tls_programmes"]`` (one score per programme) and
    ``uns["hisdiff"]["regions"]["hisdiff_tls"]``. Or a frame with the score and those of the programmes.

    Raises
    ------
    ValueError
        If no marker of a programme is in the table or panel, or ``n_required`` is more than there are programmes.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> genes = [gene for gene in sdata.tables["table"].var_names if gene.startswith("IMM")]
    >>> hd.tl.tls_score(sdata, {"a": genes[:2], "b": genes[2:4]}, n_required=2, working_px=20)
    >>> float(sdata.tables["table"].obs["hisdiff_tls"].max())
    1.0
    """
    table, places = tables_places(sdata, Selection(table_key, image_key, mpp=mpp))
    key_added = checked_name(key_added, _keys.TLS)
    known = _present_markers(table, layer, dict(programmes or TLS_PROGRAMMES))
    if positive(n_required, "n_required", integer=True) > len(known):
        raise ValueError(f"n_required={n_required} is more than there are programmes: {listing(known)}.")
    options = SegmentOptions(1, "min", target, min_count, n_labels, continuity, working_px)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    if inplace:
        check_slots_free(table, "obs", [key_added])
        check_slots_free(table, "obsm", [f"{key_added}_programmes"])
    genes = list(dict.fromkeys(gene for markers in known.values() for gene in markers))
    expression = read_expression(table, layer, genes=genes, normalize=None, at_least=(4, 1))[0]
    areas = areas_of(places, expression.rows, max_px=options.working_px)
    values = expression.values()

    from hisdiff.methods.tesla._regions import together

    scores = np.zeros((table.n_obs, len(known)))
    total = np.zeros(table.n_obs)
    for area in areas:
        for column, markers in enumerate(known.values()):
            part = values[np.ix_(area.chosen, np.array([genes.index(gene) for gene in markers]))]
            found, labels = label_section(area, part, options, runtime)
            highest = np.nanmax(found.density, initial=0.0)
            share = found.density / highest if highest > 0 else np.zeros_like(found.density)
            scores[area.rows, column] = np.where(found.target[labels], share[labels], 0)
        total[area.rows] = together(scores[area.rows], n_required, min_score)
    frame = pd.DataFrame(scores, index=table.obs_names, columns=list(known))
    if not inplace:
        return frame.assign(**{key_added: total})
    write_columns(table, {key_added: total})
    table.obsm[f"{key_added}_programmes"] = frame
    mark_slots(table, "obsm", [f"{key_added}_programmes"])
    record: Plain = {"programmes": {k: list(v) for k, v in known.items()}, "n_required": int(n_required)}
    record |= {"min_score": float(min_score), "layer": expression.layer, "seed": runtime.seed, "version": VERSION}
    set_record(table, _keys.REGIONS, key_added, record)
    logger.info("wrote obs[%r]: above 0 at %d of %d locations", key_added, int((total > 0).sum()), table.n_obs)
    return None


def _present_markers(
    table: AnnData, layer: str | None, programmes: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    wanted = list(dict.fromkeys(gene for markers in programmes.values() for gene in markers))
    covered = covered_genes(table, [layer or X])
    there = {gene for gene, column in zip(wanted, columns_of(table, wanted)) if column >= 0 and covered[column]}
    known = {name: [gene for gene in markers if gene in there] for name, markers in programmes.items()}
    bare = [name for name, markers in known.items() if not markers]
    if bare:
        raise ValueError(
            f"No marker of {listing(bare)} is among the {covered.sum()} genes of {layer or X!r}, such as "
            f"{listing(table.var_names[covered], 3)}; name others with programmes=."
        )
    left_out = sorted(set(wanted) - there)
    if left_out:
        logger.warning("markers that %r lacks are left out: %s", layer or X, listing(left_out))
    return known
