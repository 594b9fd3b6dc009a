"""The network of the strongest pairs of genes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.path import Path as MplPath
from matplotlib.transforms import Bbox

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._sdata._expression import table_of
from hisdiff.pl import _canvas
from hisdiff.pl._matrices import color_of, common_genes, has_matrix, label_of, matrices_of
from hisdiff.pl._style import WARNING, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

ANGLES = np.pi * np.array([1 / 2, -1 / 2, 0, 1, 1 / 4, 3 / 4, -1 / 4, -3 / 4, *(np.arange(8) / 4 + 1 / 8)])
"""On which side of its node a name may stand, the best first."""
OFFSETS_PT = (0.0, 8.0, 14.0, 20.0, 28.0, 36.0, 46.0)
"""How far off its node; beyond 0 a line joins the two."""
GAP_PT = 0.7
NODE_COST_PT = 25.0
"""Covering a node is as bad as standing this far off."""


@documented
@checked
@styled
def coexpression_network(
    data: SpatialData | AnnData,
    key: str = _keys.STEM,
    *,
    n_edges: int = 100,
    genes: Sequence[str] | None = None,
    table_key: str | None = None,
    rng: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Show the strongest pairs of genes as a network.

    Nodes are genes, coloured by module, larger with more partners; lines are pairs, solid for positive and dashed for
    negative coexpression, wider for stronger. Genes without a pair among the strongest are not shown. No name covers another: where
    genes are dense, a name stands off its node at the end of a thin line. Names for which there is no room at all are listed
    below the network; a larger ``ax`` or fewer ``n_edges`` give room.

    Parameters
    ----------
    data
        Object on which :func:`hisdiff.tl.coexpression` was run.
    key
        Stem of the matrix.
    n_edges
        Number of pairs.
    genes
        Genes among which pairs are looked for; None for all of the matrix.
    %(table_key)s
    %(rng)s
        It is used by the layout.
    ax
        Axes to draw into.

    Returns
    -------
    The Axes.

    Raises
    ------
    KeyError
        If there is no such matrix or gene.
    ValueError
        If no pair has coexpression.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.coexpression(sdata, layer="X")
    >>> axes = hd.pl.coexpression_network(sdata, n_edges=40)
    """
    import networkx as nx

    positive(n_edges, "n_edges", integer=True)
    table = table_of(data, table_key, "coexpression", holds=has_matrix)
    result = matrices_of(table, key)[0]
    result = result.take(common_genes([result], genes))
    a, b = np.triu_indices(len(result.genes), k=1)
    strength = np.abs(result.matrix[a, b])
    best = np.argsort(-strength, kind="stable")[:n_edges]
    best = best[strength[best] > 0]
    if len(best) == 0:
        raise ValueError(f"No pair of the {len(result.genes)} genes has coexpression in {key!r}.")
    graph = nx.Graph()
    for i, j, weight in zip(a[best], b[best], result.matrix[a, b][best]):
        graph.add_edge(int(i), int(j), weight=float(abs(weight)), sign=float(np.sign(weight)))
    place = _place(graph, rng)

    if ax is None:
        _, axes = _canvas.new_figure(1, 1, figsize=(6.4, 5.2), layout="constrained")
        ax = axes[0, 0]
    widths = Normalize(float(strength[best].min()) * 0.8, float(strength[best].max()))
    for i, j, edge in graph.edges(data=True):
        (x0, y0), (x1, y1) = place[i], place[j]
        ax.plot([x0, x1], [y0, y1], color="0.7" if edge["sign"] > 0 else WARNING, linewidth=0.4 + 1.8 * widths(edge["weight"]),
                linestyle="-" if edge["sign"] > 0 else "--", zorder=1, solid_capstyle="round")  # fmt: skip
    nodes = sorted(graph, key=lambda node: -graph.degree[node])
    degree = np.array([graph.degree[node] for node in nodes])
    points = np.array([place[node] for node in nodes])
    colors = [color_of(result.labels[node]) for node in nodes]
    sizes = 25 + 90 * degree / degree.max()
    ax.scatter(
        points[:, 0],
        points[:, 1],
        s=sizes,
        c=colors,
        edgecolors="white",
        linewidths=0.8,
        zorder=2,
    )
    ax.margins(0.09)
    ax.set_axis_off()
    ax.set_title(
        f"{result.title}: the {len(best)} strongest pairs\n{label_of(result.record)}, {strength[best].min():.2f} to {strength[best].max():.2f}",
    )
    handles: list[Any] = [
        Line2D([], [], marker="o", linestyle="", color=color_of(label), label=f"M{label + 1}" if label >= 0 else "none")
        for label in sorted({int(result.labels[node]) for node in nodes}, key=lambda label: (label < 0, label))
    ]
    if any(edge["sign"] < 0 for _, _, edge in graph.edges(data=True)):
        handles.append(Line2D([], [], color="0.7", label="positive"))
        handles.append(Line2D([], [], color=WARNING, linestyle="--", label="negative"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), title="module")
    lost = _name_nodes(ax, points, sizes, [str(result.genes[node]) for node in nodes])
    if lost:
        note = textwrap.fill(f"no room for the names of {', '.join(lost)}", 90)
        ax.text(0, 0, note, transform=ax.transAxes, va="top", fontsize="x-small")
    return ax


def _place(graph: Any, seed: int) -> dict[int, np.ndarray]:
    """Return positions of the nodes: each connected part in a circle of its own, row by row, the largest first."""
    import networkx as nx

    parts = sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part)))
    radii = [1.3 * len(part) ** 0.6 for part in parts]
    width = 2.4 * float(np.linalg.norm(radii))
    place, x, y, height = {}, 0.0, 0.0, 0.0
    for part, radius in zip(parts, radii):
        if x and x + 2 * radius > width:
            x, y, height = 0.0, y - height, 0.0
        start = nx.spring_layout(graph.subgraph(part), seed=seed, weight=None)
        inside = nx.kamada_kawai_layout(graph.subgraph(part), pos=start, weight=None)
        for node in part:
            place[node] = np.array([x + radius, y - radius]) + 0.8 * radius * np.asarray(inside[node])
        x, height = x + 2 * radius, max(height, 2 * radius)
    return place


def _name_nodes(ax: Axes, points: np.ndarray, sizes: np.ndarray, names: Sequence[str]) -> list[str]:
    """Write names where they cover no other name and, as far as possible, no node; return those without a place.

    A name that has no room at its node stands a little off, at the end of a thin line.
    """
    import matplotlib.patheffects as effects

    # Without snap: letters that have only upright and level strokes, as in FTL, would lose some of them to whole pixels.
    halo = [effects.Stroke(linewidth=2, foreground="white", snap=False), effects.Stroke(linewidth=0, snap=False)]
    canvas = ax.get_figure(root=True)
    assert canvas is not None
    canvas.draw_without_rendering()  # settles the layout, which decides how large names are beside distances
    at, pt = ax.transData.transform(points), canvas.dpi / 72
    radii = np.sqrt(sizes) / 2 * pt
    nodes = np.column_stack([at - radii[:, None], at + radii[:, None]])
    # What is taken: boxes (x0, y0, x1, y1) of names, and lines to their nodes.
    names_at, lines = np.empty((0, 4)), list[MplPath]()
    lost = []
    for node, (point, name) in enumerate(zip(points, names)):
        text = ax.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize="x-small", zorder=4, path_effects=halo
        )
        text.set_in_layout(False)
        size = np.array(text.get_window_extent().size)
        found = []
        for off in OFFSETS_PT:
            for rank, angle in enumerate(ANGLES if off else ANGLES[:8]):
                way = np.array([np.cos(angle), np.sin(angle)])
                center = at[node] + way * (radii[node] + (1.5 + off) * pt) + np.round(way * 1.3) * size / 2
                box = np.concatenate([center - size / 2, center + size / 2]) + GAP_PT * pt * np.array([-1, -1, 1, 1])
                line = MplPath([at[node], center]) if off else None
                if _outside(box, ax.bbox) or _overlapped(box, names_at).any() or _crossed(box, lines):
                    continue
                if line is not None and _crossed_any(names_at, line):
                    continue
                covered = _overlapped(box, np.delete(nodes, node, axis=0)).sum()
                found.append((NODE_COST_PT * covered + off + rank / 100, off, center, box, line))
        if not found:
            text.remove()
            lost.append(name)
            continue
        _, off, center, box, line = min(found, key=lambda each: each[0])
        text.set(position=tuple((center - at[node]) / pt), ha="center", va="center")
        names_at = np.vstack([names_at, box])
        if line is not None:
            lines.append(line)
            ax.annotate("", point, xytext=text.get_position(), textcoords="offset points", annotation_clip=False,
                        arrowprops={"arrowstyle": "-", "color": "0.35", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}, zorder=3)  # fmt: skip
    return lost


def _outside(box: np.ndarray, frame: Bbox) -> bool:
    return bool((box[:2] < (frame.x0, frame.y0)).any() or (box[2:] > (frame.x1, frame.y1)).any())


def _overlapped(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of ``(n, 4)`` boxes overlap a box, bool ``(n,)``."""
    return np.all((others[:, :2] < box[2:]) & (others[:, 2:] > box[:2]), axis=1)


def _crossed(box: np.ndarray, lines: Sequence[MplPath]) -> bool:
    return any(line.intersects_bbox(Bbox.from_extents(*box), filled=False) for line in lines)


def _crossed_any(boxes: np.ndarray, line: MplPath) -> bool:
    return any(_crossed(box, [line]) for box in boxes)
