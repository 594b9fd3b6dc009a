"""Scores of gene sets, modules and programmes on the tissue: measured beside predicted, section beside section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, names_of, present
from hisdiff._docs import documented
from hisdiff._sdata._provenance import records
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._coloring import gradient
from hisdiff.pl._maps import MapStyle, Panel, Row, draw_maps
from hisdiff.pl._matrices import title_of
from hisdiff.pl._rows import prefix_of
from hisdiff.pl._style import styled
from hisdiff.pl._view import tables_with, views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff.pl._view import View

UNITS = {"ssgsea": "ssGSEA score", "zscore": "mean standard score"}


@documented
@checked
@styled
def pathway_map(
    data: SpatialData | Sequence[SpatialData],
    pathways: str | Sequence[str],
    *,
    keys: str | Sequence[str] | None = None,
    table_key: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    crop: tuple[float, float, float, float] | None = None,
    coordinate_system: str | None = None,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    percentiles: tuple[float, float] = (1.0, 99.0),
    alpha: float | None = None,
    image_alpha: float = 0.7,
    spot_scale: float = 1.0,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show scores of gene sets, gene modules or programmes on the tissue.

    One row per set, and in it one panel for each section, table and result, such as measured beside predicted. If every row has a
    single panel, they stand side by side. The panels of a row that have the same kind of score share one colour scale.

    Parameters
    ----------
    data
        One section with an image or several, on which :func:`hisdiff.tl.enrich` was run with ``"ssgsea"`` or ``"zscore"``.
    pathways
        Names of gene sets; or of columns of other scores in ``obsm``: modules (``"M1"``) of :func:`hisdiff.tl.coexpression`,
        cell types of ``marker_scores``, programmes of ``tls_score``, metagenes.
    keys
        Results to show: stems of :func:`hisdiff.tl.enrich` (``key_added``), such as ``["measured", "hisdiff"]``, or names of
        frames in ``obsm``, such as ``"hisdiff_modules"``. None for all results of ``enrich`` with the set, and where there is none
        for all frames with it.
    table_key, image_key, shapes_key
        Names of the table, the image and the shapes; needed if there are several. None for the tables that have the scores.
        Several tables are shown side by side; ``shapes_key`` selects one section of a table with several.
    %(mpp)s
    %(crop)s
    coordinate_system
        Coordinate system of the image to draw in. None: micrometres from the corner of the image.
    %(cmap)s
    vmin, vmax
        Ends of the colour scale; None for the percentiles.
    percentiles
        Ends of the colour scale, over all panels of the row.
    %(opacity)s
    %(spot_scale)s
    %(map_figsize)s
    %(map_title)s
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    KeyError
        If there is no such result or set; the message names the call that computes it.
    ValueError
        If the table or image is ambiguous, or ``vmin`` is not below ``vmax``.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.enrich(sdata, {"immune": [f"IMM{i:02d}" for i in range(1, 15)]}, layer="X", method="zscore")
    >>> axes = hd.pl.pathway_map(sdata, "immune")
    >>> hd.tl.coexpression(sdata, layer="X")
    >>> figure = hd.pl.pathway_map(sdata, ["M1", "M2"])
    """
    terms = names_of(pathways)
    if not terms:
        raise ValueError("There is no gene set to show: pathways is empty.")
    wanted = names_of(keys)
    selection = Selection(None, image_key, shapes_key, mpp=mpp)

    def find(sdata: SpatialData) -> list[str]:
        return tables_with(sdata, terms, lambda table, term: bool(_chosen(table, term, wanted)))

    views = views_of(data, selection, table_key, find=find, coordinate_system=coordinate_system, spot_scale=spot_scale)
    scaling = {"cmap": cmap, "percentiles": _canvas.checked_percentiles(percentiles), "vmin": vmin, "vmax": vmax}
    rows = [_row(views, term, wanted, scaling) for term in terms]
    if ax is not None and (len(rows) > 1 or len(rows[0]) > 1):
        raise ValueError(f"ax= takes one panel, not {len(rows)} set(s) x {len(rows[0])} result(s); leave it out.")
    return draw_maps(rows, MapStyle(alpha, image_alpha, crop, figsize, title), ax)


@dataclass(frozen=True)
class Scores:
    """A frame of scores: ``(n, sets)``, what a reader calls it, and the unit of its values."""

    frame: pd.DataFrame
    title: str
    unit: str


def _row(views: Sequence[View], term: str, keys: list[str] | None, scaling: dict[str, Any]) -> Row:
    """Return the panels of a set in all views and results that have it."""
    shown = [(view, scores) for view in views for scores in _chosen(view.table, term, keys)]
    if not shown:
        raise _unknown(views, term, keys)
    values = [scores.frame[term].to_numpy(dtype=float)[view.place.rows] for view, scores in shown]
    units = dict.fromkeys(scores.unit for _, scores in shown)
    scales = {}
    for unit in units:
        scales[unit] = gradient(unit, [v for v, (_, scores) in zip(values, shown) if scores.unit == unit], **scaling)
    row: Row = []
    for (view, scores), own in zip(shown, values):
        prefix = prefix_of(view, views)
        row.append(Panel(view, own, scales[scores.unit], {"label": f"{prefix}{term}\n{scores.title}"}))
    return row


def _chosen(table: AnnData, term: str, keys: list[str] | None) -> list[Scores]:
    """Return the results to show of a set, in the order of ``keys``; without keys, those of ``enrich`` come before others."""
    by_enrich, others = _results(table)
    named = by_enrich | others
    if keys is not None:
        return [named[key] for key in keys if key in named and term in named[key].frame]
    of_sets = [scores for scores in by_enrich.values() if term in scores.frame]
    return of_sets or [scores for scores in others.values() if term in scores.frame]


def _results(table: AnnData) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Return the results of ``enrich`` with scores of single locations by their stem, and other frames by their name in ``obsm``."""
    by_enrich = {}
    for key, home in table.uns.items():
        record = home.get(_keys.ENRICHMENT_RECORD) if hasattr(home, "get") else None
        if record is not None and record["method"] in UNITS and _keys.pathways(key) in table.obsm:
            title = title_of(key, record["layers"])
            by_enrich[key] = Scores(table.obsm[_keys.pathways(key)], title, UNITS[record["method"]])
    used = {_keys.pathways(key) for key in by_enrich}
    frames = {name: value for name, value in table.obsm.items() if isinstance(value, pd.DataFrame) and name not in used}
    others = {name: Scores(frame, name.replace("_", " "), "score") for name, frame in frames.items()}
    for key, record in records(table, _keys.COEXPRESSION).items():
        name = _keys.module_scores(key)
        if name in others:
            title = f"module of {title_of(key, record['layers'])}"
            others[name] = Scores(others[name].frame, title, UNITS["zscore"])
    return by_enrich, others


def _unknown(views: Sequence[View], term: str, keys: list[str] | None) -> KeyError:
    """Return the error for a set that no result has, or for a result that is not there."""
    by_enrich: dict[str, Scores] = {}
    others: dict[str, Scores] = {}
    for view in views:
        own, rest = _results(view.table)
        by_enrich, others = by_enrich | own, others | rest
    named = by_enrich | others
    missing = [key for key in keys or [] if key not in named]
    if missing or not named:
        key = missing[0] if missing else _keys.STEM
        added = "" if key == _keys.STEM else f", key_added={key!r}"
        return KeyError(
            f"There are no scores {key!r}; available: {listing(named)}. Make them with "
            f"hd.tl.enrich(sdata, gene_sets, layer=..., method='zscore'{added})."
        )
    searched = [named[key] for key in keys] if keys is not None else list((by_enrich or others).values())
    try:
        present(term, list(dict.fromkeys(name for scores in searched for name in scores.frame)), "gene set")
    except KeyError as error:
        return error
    raise AssertionError(term)
