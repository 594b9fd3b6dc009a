"""Scores of gene sets on the tissue, measured beside predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, present
from hisdiff._docs import documented
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._matrices import title_of
from hisdiff.pl._style import styled
from hisdiff.pl._view import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

UNITS = {"ssgsea": "ssGSEA score", "zscore": "mean standard score"}


@documented
@checked
@styled
def pathway_map(
    sdata: SpatialData,
    pathways: str | Sequence[str],
    *,
    keys: str | Sequence[str] | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show scores of gene sets on the tissue.

    One row per set, one column per result of :func:`hisdiff.tl.enrich`, such as measured beside predicted; of one result,
    the sets fill rows. The panels of
    a set share one colour scale.

    Parameters
    ----------
    sdata
        A section with an image, on which :func:`hisdiff.tl.enrich` was run with ``"ssgsea"`` or ``"zscore"``.
    pathways
        Names of gene sets.
    keys
        Stems of the results (``key_added``), such as ``["measured", "hisdiff"]``; None for all.
    %(shown_place)s
    %(mpp)s
    %(cmap)s
    image_alpha
        Opacity of the image under the spots.
    percentiles
        Ends of each set's colour scale.
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    KeyError
        If there is no such result or set; the message names the call that computes it.
    ValueError
        If results were made with different methods, or the table, image or section is ambiguous.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.enrich(sdata, {"immune": [f"IMM{i:02d}" for i in range(1, 15)]}, layer="X", method="zscore")
    >>> axes = hd.pl.pathway_map(sdata, "immune")
    """
    selection = Selection(table_key, image_key, shapes_key, mpp=mpp)
    view = view_of(sdata, selection, holds=lambda table: bool(_made(table)))
    found = _results(view.table, keys)
    terms = [pathways] if isinstance(pathways, str) else list(pathways)
    if not terms:
        raise ValueError("There is no gene set to show: pathways is empty.")
    for key in found:
        for term in terms:
            present(term, list(view.table.obsm[_keys.pathways(key)].columns), f"gene set in result {key!r}:")
    units = {UNITS[record["method"]] for record in found.values()}
    if len(units) > 1:
        raise ValueError(f"The results were made with different methods, {listing(sorted(units))}; choose with keys=.")
    if ax is not None and len(terms) * len(found) > 1:
        raise ValueError(f"ax= takes one panel, not {len(terms)} set(s) x {len(found)} result(s); leave it out.")

    percentiles = _canvas.checked_percentiles(percentiles)
    box = view.box
    pixels = _canvas.read_underlay(view.image, box)
    if ax is None:
        figure, axes = _canvas.map_panels(len(terms), len(found), box)
    else:
        axes = np.array([[ax]])
    for row, term in zip(axes, terms):
        columns = [view.table.obsm[_keys.pathways(key)][term] for key in found]
        values = [column.to_numpy(dtype=float)[view.place.rows] for column in columns]
        norm = _canvas.shared_norm(values, percentiles)
        for panel, key, shown in zip(row, found, values):
            _canvas.frame(panel, box)
            _canvas.draw_underlay(panel, pixels, box, image_alpha)
            drawn = view.marks.draw(panel, shown, norm=norm, cmap=cmap, alpha=view.marks.alpha)
            _canvas.scale_bar(panel, box)
            panel.set_title(f"{term}\n{title_of(key, found[key]['layers'])}")
        panel.figure.colorbar(drawn, ax=panel, label=next(iter(units)), extend=_canvas.extend_of(norm, values), fraction=0.04,
                              pad=0.02, aspect=22)  # fmt: skip
    return axes[0, 0] if axes.size == 1 else figure


def _made(table: AnnData) -> dict[str, dict]:
    """Return the records of results with scores of single locations, by key."""
    made = {}
    for key, home in table.uns.items():
        record = home.get(_keys.ENRICHMENT_RECORD) if hasattr(home, "get") else None
        if record is not None and record["method"] in UNITS and _keys.pathways(key) in table.obsm:
            made[key] = record
    return made


def _results(table: AnnData, keys: str | Sequence[str] | None) -> dict[str, dict]:
    """Return the records of results that are wanted, by key."""
    made = _made(table)
    wanted = list(made) if keys is None else [keys] if isinstance(keys, str) else list(keys)
    for key in wanted or [_keys.STEM]:
        if key not in made:
            added = "" if key == _keys.STEM else f", key_added={key!r}"
            raise KeyError(
                f"There are no scores {key!r}; available: {listing(made)}. Make them with "
                f"hd.tl.enrich(sdata, gene_sets, layer=..., method='zscore'{added})."
            )
    return {key: made[key] for key in wanted}
