"""Plots of the enrichment of gene sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from pandas.api.types import is_string_dtype

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, one_of, positive, present
from hisdiff._docs import documented
from hisdiff._sdata._expression import table_of
from hisdiff._stats._enrichment import running_sum
from hisdiff.pl import _canvas
from hisdiff.pl._style import BLUE, styled

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

SCORE = {"ora": "log2 odds ratio", "prerank": "normalised enrichment score"}
FDR_LABEL = "-log10 FDR"
LONGEST = 34
"""Characters of a line of a set's name."""
_SIGNIFICANT = 0.05
_MAX_FDR = 6.0
_LARGEST = 170.0


@documented
@checked
@styled
def enrichment(
    data: SpatialData | AnnData,
    key: str = _keys.STEM,
    *,
    kind: str = "dot",
    group: str | None = None,
    n_terms: int = 10,
    table_key: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show the gene sets of an enrichment.

    Parameters
    ----------
    data
        Object on which :func:`hisdiff.tl.enrich` was run with ``"ora"`` or ``"prerank"``.
    key
        Stem of the result (``key_added``).
    kind
        ``"dot"``: with several groups, a column for each, coloured by score and larger for a lower false discovery rate;
        with one group, sets by score, coloured by false discovery rate and larger for more genes. ``"bar"``: one group,
        bars of the score, coloured by false discovery rate. Sets at a rate below 0.05 have a black outline.
    group
        Group to show; None for all (for ``"bar"``, the only one).
    n_terms
        Number of sets, those of the lowest false discovery rate in any group.
    %(table_key)s
    ax
        Axes to draw into.

    Returns
    -------
    The Axes.

    Raises
    ------
    KeyError
        If there is no such result or group; the message names the call that computes it.
    ValueError
        If the result holds scores of single locations, or several groups for bars.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> sets = {"tumour": [f"TUM{i:02d}" for i in range(1, 20)], "immune": [f"IMM{i:02d}" for i in range(1, 15)]}
    >>> hd.tl.enrich(sdata, sets, layer="X", by="pc1", method="prerank")
    >>> axes = hd.pl.enrichment(sdata)
    """
    one_of(kind, ("dot", "bar"), "kind")
    positive(n_terms, "n_terms", integer=True)
    frame = _frame(_table(data, table_key, key), key)
    groups = list(dict.fromkeys(frame["group"]))
    if group is not None:
        groups = [present(group, groups, "group")]
        frame = frame[frame["group"] == group]
    if kind == "bar" and len(groups) > 1:
        raise ValueError(f"Bars show one group; choose one of {listing(groups)} with group=.")
    best = frame.assign(size_of_score=-frame["score"].abs()).sort_values(["fdr", "p", "size_of_score"], kind="stable")
    terms = list(dict.fromkeys(best["term"]))[:n_terms]
    frame = frame[frame["term"].isin(terms)]
    if ax is None:
        n_lines = sum(max(1, 0.6 * (_lines(term).count("\n") + 1)) for term in terms)
        width = 3.7 + (0.55 * len(groups) if len(groups) > 1 else 2.2)
        _, axes = _canvas.new_figure(1, 1, figsize=(width, max(1.6 + 0.3 * n_lines, 2.8)), layout="constrained")
        ax = axes[0, 0]
    if len(groups) > 1:
        _matrix(ax, frame, terms, groups)
    else:
        _single(ax, frame.set_index("term").loc[terms], kind)
    ax.set_yticks(range(len(terms)), [_lines(term) for term in terms], fontsize="small")
    ax.set_ylim(len(terms) - 0.4, -0.6)
    return ax


@documented
@checked
@styled
def gsea(
    data: SpatialData | AnnData,
    term: str,
    *,
    group: str | None = None,
    key: str = _keys.STEM,
    table_key: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show the running sum of a gene set along a ranking.

    The curve rises at genes of the set (ticks below) and falls at others; its farthest point from zero is the enrichment
    score. Genes are in the order of the statistic, the highest at the left; the dashed line is where it changes sign.

    Parameters
    ----------
    data
        Object on which :func:`hisdiff.tl.enrich` was run with ``"prerank"``.
    term
        Name of the set.
    group
        Group whose ranking is shown; None for the only one.
    key
        Stem of the result (``key_added``).
    %(table_key)s
    ax
        Axes to draw into.

    Returns
    -------
    The Axes.

    Raises
    ------
    KeyError
        If there is no such result, group or set.
    ValueError
        If the result is not of ``"prerank"``, or there are several groups and none is chosen.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.enrich(sdata, {"immune": [f"IMM{i:02d}" for i in range(1, 15)]}, layer="X", by="pc1", method="prerank")
    >>> axes = hd.pl.gsea(sdata, "immune")
    """
    table = _table(data, table_key, key)
    frame = _frame(table, key)
    if frame["method"].iloc[0] != "prerank" or _keys.ranking(key) not in table.varm:
        raise ValueError(f"Enrichment {key!r} has no ranking; make one with hd.tl.enrich(..., method='prerank').")
    groups = list(dict.fromkeys(frame["group"]))
    if group is None and len(groups) > 1:
        raise ValueError(f"There are several groups, {listing(groups)}; choose one with group=.")
    group = groups[0] if group is None else present(group, groups, "group")
    present(term, list(dict.fromkeys(frame["term"])), "gene set")
    row = frame[(frame["group"] == group) & (frame["term"] == term)].iloc[0]
    statistic, member = _ranked(table, key, group, row)
    curve = running_sum(statistic, member)
    peak = int(np.argmax(np.abs(curve)))

    if ax is None:
        _, axes = _canvas.new_figure(1, 1, figsize=(4.6, 3.2), layout="constrained")
        ax = axes[0, 0]
    place = np.arange(len(curve)) + 1
    ax.plot(np.r_[0, place], np.r_[0, curve], color=BLUE, linewidth=1.6, zorder=3)
    ax.plot([place[peak]] * 2, [0, curve[peak]], color=BLUE, linewidth=0.8, linestyle=":", zorder=2)
    ax.axhline(0, color="0.6", linewidth=0.8)
    low, high = min(curve.min(), 0), max(curve.max(), 0)
    room = 0.16 * (high - low)
    ax.vlines(place[member], low - room, low - 0.35 * room, color="0.15", linewidth=0.9, zorder=2)
    ax.set(xlim=(0, len(curve) + 1), ylim=(low - 1.15 * room, high + 0.3 * room))
    turn = int((statistic > 0).sum())
    if 0 < turn < len(statistic):
        ax.axvline(turn + 0.5, color="0.6", linewidth=0.8, linestyle="--")
    ax.set_xlabel(f"{len(curve)} genes, by {group} (high to low)")
    ax.set_ylabel("running enrichment score")
    ax.set_title(f"{_lines(term)}\nscore {row['score']:.2f}, false discovery rate {row['fdr']:.2g}, {int(row['size'])} of "
                 f"{int(row['total'])} genes")  # fmt: skip
    return ax


def _table(data: SpatialData | AnnData, table_key: str | None, key: str) -> AnnData:
    def has(table: AnnData) -> bool:
        return _keys.ENRICHMENT in table.uns.get(key, {})

    return table_of(data, table_key, "enrichment", holds=has)


def _frame(table: AnnData, key: str) -> pd.DataFrame:
    home = table.uns.get(key)
    frame = home.get(_keys.ENRICHMENT) if isinstance(home, Mapping) else None
    if frame is None:
        added = "" if key == _keys.STEM else f", key_added={key!r}"
        raise KeyError(
            f"There is no enrichment {key!r}; make it with hd.tl.enrich(sdata, gene_sets, layer=...{added})."
        )
    if "score" not in frame:
        raise ValueError(
            f"Enrichment {key!r} holds scores of single locations; show them with hd.pl.pathway_map(sdata, ...)."
        )
    return frame.astype({"group": str, "term": str, "method": str})


def _ranked(table: AnnData, key: str, group: str, row: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistic from high to low, and which genes are of the set."""
    statistic = table.varm[_keys.ranking(key)][group]
    statistic = statistic[np.isfinite(statistic)].sort_values(ascending=False, kind="stable")
    members = set(str(row["members"]).split(";"))
    # Sets may name genes as another column of var does (Ensembl ids beside symbols).
    columns = [table.var_names, *(table.var[name] for name in table.var if is_string_dtype(table.var[name]))]
    named = max(
        (np.asarray(column, dtype=str) for column in columns), key=lambda names: len(members.intersection(names))
    )
    names = dict(zip(table.var_names, named))
    return statistic.to_numpy(dtype=float), np.array([names[gene] in members for gene in statistic.index])


def _matrix(ax: Axes, frame: pd.DataFrame, terms: list[str], groups: list[str]) -> None:
    rate = np.minimum(-np.log10(np.maximum(frame["fdr"].to_numpy(dtype=float), 1e-300)), _MAX_FDR)
    score = frame["score"].to_numpy(dtype=float)
    limit = float(np.abs(score).max()) or 1.0
    x, y = (np.array([names.index(name) for name in frame[column]]) for names, column in ((groups, "group"), (terms, "term")))  # fmt: skip
    edge = np.where(frame["fdr"] < _SIGNIFICANT, "black", "none")
    dots = ax.scatter(x, y, s=8 + _LARGEST * rate / _MAX_FDR, c=score, cmap="RdBu_r", norm=Normalize(-limit, limit),
                      edgecolors=edge.tolist(), linewidths=0.9, zorder=2)  # fmt: skip
    ax.set_xticks(range(len(groups)), groups, rotation=45 if max(map(len, groups)) > 4 else 0, fontsize="small",
                  ha="right" if max(map(len, groups)) > 4 else "center", rotation_mode="anchor")  # fmt: skip
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.grid(color="0.92", zorder=0)
    ax.set_axisbelow(True)
    ax.figure.colorbar(
        dots, ax=ax, label=SCORE[frame["method"].iloc[0]], fraction=0.08, pad=0.03, aspect=18, shrink=0.9
    )
    steps = [value for value in (0.0, 1.0, 2.0, 4.0, 6.0) if value <= max(np.ceil(rate.max()), 2)]
    _sizes(ax, [(8 + _LARGEST * value / _MAX_FDR, f"{value:g}{'+' if value == _MAX_FDR else ''}") for value in steps], FDR_LABEL)  # fmt: skip


def _single(ax: Axes, frame: pd.DataFrame, kind: str) -> None:
    rate = -np.log10(np.maximum(frame["fdr"].to_numpy(dtype=float), 1e-300))
    norm = Normalize(0, max(min(float(rate.max()), _MAX_FDR), 2))
    score, overlap = frame["score"].to_numpy(dtype=float), frame["overlap"].to_numpy(dtype=float)
    edge = np.where(frame["fdr"] < _SIGNIFICANT, "black", "none").tolist()
    y = np.arange(len(frame))
    if kind == "bar":
        import matplotlib as mpl

        mapped = mpl.cm.ScalarMappable(norm, "viridis")
        ax.barh(y, score, color=mapped.to_rgba(rate), edgecolor=edge, linewidth=0.9, height=0.7, zorder=2)
    else:
        most = max(float(overlap.max()), 1)
        mapped = ax.scatter(score, y, s=12 + _LARGEST * overlap / most, c=rate, norm=norm, cmap="viridis", edgecolors=edge,
                            linewidths=0.9, zorder=2)  # fmt: skip
        steps = np.unique(np.round(np.linspace(max(overlap.min(), 1), most, 3)))
        _sizes(ax, [(12 + _LARGEST * value / most, f"{value:g}") for value in steps], "genes")
        ax.margins(x=0.12)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    ax.set_xlabel(SCORE[frame["method"].iloc[0]])
    if len(frame):
        ax.set_title(str(frame["group"].iloc[0]))
    ax.grid(axis="y", color="0.92", zorder=0)
    ax.set_axisbelow(True)
    extend = "max" if rate.max() > (norm.vmax or 0) else "neither"
    ax.figure.colorbar(mapped, ax=ax, label=FDR_LABEL, fraction=0.06, pad=0.03, aspect=18, shrink=0.9, extend=extend)


def _sizes(ax: Axes, sizes: list[tuple[float, str]], title: str) -> None:
    handles: list[Any] = [
        Line2D([], [], marker="o", linestyle="", color="0.5", markersize=np.sqrt(size), label=label)
        for size, label in sizes
    ]
    ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=len(handles),
              alignment="left", handletextpad=0.3, columnspacing=1, borderpad=0)  # fmt: skip


def _lines(term: str) -> str:
    """Break a long name after blanks and underscores, into three lines at most."""
    lines = [""]
    for word in re.findall(r"[^\s_]*[\s_]?", term):
        if lines[-1] and len(lines[-1]) + len(word) > LONGEST:
            lines.append("")
        lines[-1] += word
    return "\n".join([*lines[:2], lines[2][: LONGEST - 1] + "…"] if len(lines) > 3 else lines)
