"""The network of the strongest pairs of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._sdata._expression import table_of
from hisdiff.pl import _canvas
from hisdiff.pl._matrices import color_of, common_genes, has_matrix, label_of, matrices_of
from hisdiff.pl._style import styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

NEGATIVE = "#b2182b"
PLACES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a name may stand beside its node, the best first."""


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
    negative coexpression, wider for stronger. Genes without a pair among the strongest are not shown. A name stands where it
    covers no other; where there is no such place it is left out, those of genes with the fewest partners first.

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
        ax.plot([x0, x1], [y0, y1], color="0.7" if edge["sign"] > 0 else NEGATIVE, linewidth=0.4 + 1.8 * widths(edge["weight"]),
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
        handles.append(Line2D([], [], color=NEGATIVE, linestyle="--", label="negative"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), title="module")
    _name_nodes(ax, points, sizes, [str(result.genes[node]) for node in nodes])
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


def _move(text: Any, x: int, y: int, reach: float) -> None:
    """Put a name on a side of its node, ``reach`` points from its centre."""
    text.set_position((x * reach, y * reach))
    text.set_horizontalalignment(("center", "left", "right")[x])
    text.set_verticalalignment(("center", "bottom", "top")[y])


def _name_nodes(ax: Axes, points: np.ndarray, sizes: np.ndarray, names: Sequence[str]) -> None:
    """Write names beside nodes, where they cover no other name and, as far as possible, no other node."""
    import matplotlib.patheffects as effects

    halo = [effects.withStroke(linewidth=2, foreground="white")]
    canvas = ax.get_figure(root=True)
    assert canvas is not None
    canvas.draw_without_rendering()  # settles the layout, which decides how large names are beside distances
    at, pt = ax.transData.transform(points), canvas.dpi / 72
    radii = np.sqrt(sizes) / 2 * pt
    nodes = [Bbox.from_bounds(float(xy[0] - r), float(xy[1] - r), 2 * r, 2 * r) for xy, r in zip(at, radii)]
    taken: list[Bbox] = []
    for node, (point, name) in enumerate(zip(points, names)):
        reach = radii[node] / pt + 1.5
        text = ax.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize="x-small", zorder=3, path_effects=halo
        )
        found = []
        for place, (x, y) in enumerate(PLACES):
            _move(text, x, y, reach)
            box = text.get_window_extent().padded(1.5)
            if not any(box.overlaps(other) for other in taken):
                found.append((sum(box.overlaps(other) for i, other in enumerate(nodes) if i != node), place, box))
        if not found:
            text.remove()
            continue
        _, place, box = min(found, key=lambda each: each[:2])
        _move(text, *PLACES[place], reach)
        taken.append(box)
