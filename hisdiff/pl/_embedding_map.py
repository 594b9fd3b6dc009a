"""Maps of an embedding: its leading components as colours on the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import CenteredNorm, ListedColormap

from hisdiff._arguments import checked
from hisdiff._check import listing
from hisdiff._docs import documented
from hisdiff._sdata._out_of_date import check_embeddings
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import needed
from hisdiff._stats._pca import column_scale, principal_axes
from hisdiff.pl import _canvas
from hisdiff.pl._style import styled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff._section import Section

N_COLORS = 3
REACH_SD = 2.0
"""Standard deviations of a component at which its colour is full."""
MAX_ROWS = 5_000
"""Rows that the axes are found from: more do not move the leading ones."""
# CIELAB: lightness for the first component, blue to yellow for the second and green to magenta for the third, so that
# eyes that miss the last contrast lose the least.
MIDDLE = np.array([60.0, 0.0, 0.0])
CONTRASTS = np.array([[30.0, 0.0, 0.0], [0.0, 0.0, 55.0], [0.0, 55.0, 0.0]])
RAMP_STEPS = 64


@documented
@checked
@styled
def embedding_map(
    data: SpatialData | Sequence[SpatialData],
    *,
    components: int | Sequence[int] | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "PuOr_r",
    alpha: float = 0.95,
    image_alpha: float = 0.4,
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show the embedding of the image on the tissue; similar colours mean similar embeddings.

    The first three principal components become one colour: the first its lightness, the second blue to yellow, the
    third green to magenta. Components are computed over all sections that are given, so that colours can be compared between
    them. Sections that differ as a whole differ in stain or scanner, which a model may mistake for biology.

    Parameters
    ----------
    data
        One section or several, embedded with the same encoder.
    components
        Components to show one by one instead, 1 being the first; each in a column, on a scale centred at 0.
    %(shown_place)s
    %(mpp)s
    cmap
        Colour map of single components.
    alpha, image_alpha
        Opacity of the spots and of the image under them.
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure: a row of sections, or a row of components for each section.

    Raises
    ------
    ValueError
        A section has no embedding, or one that is not finite, embeddings are of different encoders, or there are fewer components than
        asked for.

    Notes
    -----
    Columns are standardised over all locations shown before the components are found. A component has the sign that
    makes its largest loading positive.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.pp.embed(sdata)
    >>> axes = hd.pl.embedding_map(sdata)
    >>> figure = hd.pl.embedding_map(sdata, components=[1, 2])
    """
    selection = Selection(table_key, image_key, shapes_key, mpp=mpp)
    bounds = open_sections(data, selection, needs={"image", "features"})
    check_embeddings(bounds)
    sections = [bound.section for bound in bounds]
    wanted = None if components is None else [components] if isinstance(components, int) else list(components)
    if wanted == []:
        raise ValueError(
            "components is empty; give the numbers of components from 1 on, or None for a map of three as one color."
        )
    scores, shares = _components(sections, wanted)
    n_rows, n_cols = (1, len(sections)) if wanted is None else (len(sections), len(wanted))
    if ax is not None and n_rows * n_cols > 1:
        raise ValueError(f"ax= takes one panel, not {n_rows} x {n_cols}; leave it out.")

    boxes = [_canvas.crop_box(needed(section.spots), needed(section.image).bounds_um) for section in sections]
    if ax is None:
        tallest = max((box[3] - box[1]) / (box[2] - box[0]) for box in boxes)
        width = _canvas.MAP_INCH * min(1.0, 1.5 / tallest)
        beside = 2.0 if wanted is None else 0.8
        size = (width * n_cols + beside, (width * tallest + 0.65) * n_rows)
        figure, axes = _canvas.new_figure(n_rows, n_cols, figsize=size, layout="compressed")
    else:
        axes = np.array([[ax]])
    # Sections in rows, what is shown of each in columns.
    grid = axes.reshape(len(sections), -1)
    for section, box, own, row in zip(sections, boxes, scores, grid):
        pixels = _canvas.read_underlay(needed(section.image), box)
        for panel, (what, values, style) in zip(row, _columns(own, shares, wanted, cmap)):
            _canvas.frame(panel, box)
            _canvas.draw_underlay(panel, pixels, box, image_alpha)
            drawn = _canvas.draw_locations(panel, needed(section.spots), values, alpha=alpha, **style)
            _canvas.scale_bar(panel, box)
            panel.set_title(f"{section.name}, {what}{needed(section.features).spec.encoder}")
        if wanted is not None:
            label = "standard deviations"
            panel.figure.colorbar(drawn, ax=panel, label=label, extend="both", fraction=0.04, pad=0.02, aspect=22)
    if wanted is None:
        _legend(axes[0, -1], shares)
    return axes[0, 0] if axes.size == 1 else axes[0, 0].figure


def _columns(
    scores: np.ndarray, shares: np.ndarray, wanted: list[int] | None, cmap: str
) -> Iterator[tuple[str, np.ndarray, Mapping[str, Any]]]:
    """Yield what each panel of a section shows: words for its title, values of the locations, and how they are coloured."""
    if wanted is None:  # every location has a colour of its own
        yield "", np.arange(len(scores), dtype=float), {"cmap": ListedColormap(_colors(scores)), "clim": (-0.5, len(scores) - 0.5)}  # fmt: skip
        return
    for component, share, values in zip(wanted, shares, scores.T):
        yield (
            f"component {component} ({share:.0%}) of ",
            values,
            {"cmap": cmap, "norm": CenteredNorm(halfrange=REACH_SD)},
        )


def _components(sections: list[Section], wanted: list[int] | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Return scores in standard deviations, ``(n, k)`` for each section, and the share of variance of each component."""
    specs = {(spec.encoder, spec.revision) for spec in (needed(section.features).spec for section in sections)}
    if len(specs) > 1:
        raise ValueError(
            f"Embeddings of different encoders cannot be shown together: {listing(sorted(' '.join(s) for s in specs))}."
        )
    values = [np.asarray(needed(section.features).at(needed(section.spots))) for section in sections]
    pooled = np.concatenate(values)
    if len(pooled) > MAX_ROWS:
        pooled = pooled[np.random.default_rng(0).choice(len(pooled), MAX_ROWS, replace=False)]
    center, scale = column_scale(pooled)
    standardized = (pooled - center) / scale
    most = min(len(pooled) - 1, pooled.shape[1])
    for component in wanted or [1]:
        if not 1 <= component <= most:
            raise ValueError(
                f"There is no component {component}: the {len(pooled)} locations have components 1 to {most}."
            )
    axes, spread = principal_axes(standardized, max(wanted or [N_COLORS]))
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    shares = spread**2 / max(float(standardized.var(axis=0, ddof=1).sum()), np.finfo(float).tiny)
    columns = np.arange(axes.shape[1]) if wanted is None else np.array(wanted) - 1
    axes, spread = axes[:, columns], np.where(spread > 0, spread, 1.0)[columns]
    # The scale goes to the axes, not to the values, which would be copied.
    project = axes / (scale[:, None] * spread)
    return [each @ project - center @ project for each in values], shares[columns]


def _colors(scores: np.ndarray) -> np.ndarray:
    """Return RGB ``(n, 3)`` in 0 to 1 for up to three scores in standard deviations."""
    from skimage.color import lab2rgb

    clipped = np.clip(scores / REACH_SD, -1, 1)
    return np.clip(lab2rgb(MIDDLE + clipped @ CONTRASTS[: clipped.shape[1]]), 0, 1)


def _legend(panel: Axes, shares: np.ndarray) -> None:
    """Draw the ramp of each component beside a panel."""
    height = 0.25
    for which, share in enumerate(shares):
        scores: Any = np.zeros((RAMP_STEPS, len(shares)))
        scores[:, which] = np.linspace(-REACH_SD, REACH_SD, RAMP_STEPS)
        ramp = panel.inset_axes((1.03, 1 - height - which * (height + 0.12), 0.04, height))
        ramp.imshow(_colors(scores)[:, None], origin="lower", aspect="auto", extent=(0, 1, -REACH_SD, REACH_SD))
        ramp.set_xticks([])
        ramp.yaxis.tick_right()
        labels = [f"\N{MINUS SIGN}{REACH_SD:g} sd", "0", f"{REACH_SD:g} sd"]
        ramp.set_yticks([-REACH_SD, 0, REACH_SD], labels, fontsize="small")
        ramp.set_title(f"component {which + 1} ({share:.0%} of variance)", loc="left", fontsize="small")
