"""Expression on the tissue: gene maps and maps of their uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._docs import documented
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._accuracy import expected_accuracy, is_unlike
from hisdiff.pl._values import columns_of, default_layers, describe, mean_and_spread, own_prediction, values_of
from hisdiff.pl._view import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff.pl._values import LayerInfo
    from hisdiff.pl._view import View

LOW_ACCURACY = 0.1
"""Below this expected correlation a predicted map is marked: it shows little of the gene."""
WARNING_SIGN = "\N{WARNING SIGN}"
WARNING_COLOR = "#b2182b"
RING_COLOR = "#00d5ff"  # neither in the stain nor in the colour maps


@documented
@checked
def gene_map(
    sdata: SpatialData,
    genes: str | Sequence[str],
    *,
    layers: str | None | Sequence[str | None] = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    alpha: float | None = None,
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show genes on the tissue, measured beside predicted.

    One row per gene, one column per layer; of a single layer, genes stand side by side. The panels of a gene share one
    colour scale. Spots and shapes are drawn at their true size over the image, which is read at the resolution of the screen; the bins of a finer prediction, and
    any other labels, as one half-transparent raster. The title of a predicted panel gives the accuracy to expect of the
    gene (its correlation on left-out training tissue, library size taken out); below 0.1 it is marked in red. Of a section
    that is unlike the training tissue it is not known, and the title says so.

    Parameters
    ----------
    sdata
        A section with an image.
    genes
        Names in the table's ``var_names``.
    layers
        Layer names; ``"X"`` is the table's X. Default: measured counts and ``"hisdiff"``, as far as they exist; X in a
        table of a finer prediction. Counts are shown as log2(1 + count), predictions on that scale as well.
    %(shown_place)s
        A finer prediction is named, such as ``table_key="hisdiff_16um"``.
    %(mpp)s
    %(cmap)s
    alpha, image_alpha
        Opacity of what is drawn (None: 0.95 for spots and shapes, 0.6 for a raster) and of the image under it.
    percentiles
        Ends of the colour scale, over all panels of the gene.
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    KeyError
        A gene or layer does not exist; the message names the call that predicts.
    ValueError
        A gene is not modelled, or the table, image or section is ambiguous.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> axes = hd.pl.gene_map(sdata, "TUM01")
    >>> hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    >>> figure = hd.pl.gene_map(sdata, ["TUM01", "IMM02"], layers=["X", "ridge", "ridge_draw0"])
    >>> hd.tl.predict(sdata, resolution_um=25)
    >>> axes = hd.pl.gene_map(sdata, "TUM01", table_key="ridge_25um")
    """
    view = view_of(sdata, Selection(table_key, image_key, shapes_key, mpp=mpp))
    table, what = view.table, view.what
    wanted = default_layers(table, what) if layers is None else [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise ValueError("There is no layer to show: layers is empty.")
    infos = [describe(table, layer, what) for layer in wanted]
    style = {
        "alpha": view.marks.alpha if alpha is None else alpha,
        "image_alpha": image_alpha,
        "percentiles": _canvas.checked_percentiles(percentiles),
    }
    return _panels(view, columns_of(table, genes, what), infos, [cmap] * len(infos), style, ax)


@documented
@checked
def uncertainty_map(
    sdata: SpatialData,
    genes: str | Sequence[str] | None = None,
    layer: str | None = None,
    *,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    std_cmap: str = "magma",
    alpha: float | None = None,
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> Axes | Figure:
    """Show how little a model knows of each place, or the predicted mean of genes beside its standard deviation.

    Without genes: the predictive variance of the model's mean at each place, relative to left-out training tissue. Above 1 the
    image looks less like the training tissue than usual, and errors are larger; it says nothing of single genes. With genes:
    the standard deviation of what would be measured, most of it counting noise, which follows the mean.

    Spots whose patch lies outside the distribution of training patches are ringed: there the standard deviation is too small.

    Parameters
    ----------
    sdata
        A section with an image and a prediction.
    genes
        Names in the table's ``var_names``; None for what all genes share.
    layer
        Name of the prediction; its standard deviation is the layer ``{layer}_std``. It is ignored for tables that hold a single
        prediction.
    %(shown_place)s
        A finer prediction is named, such as ``table_key="hisdiff_16um"``.
    %(mpp)s
    cmap, std_cmap
        Colour maps of the mean and of the standard deviation.
    alpha, image_alpha
        Opacity of what is drawn (None: 0.95 for spots and shapes, 0.6 for a raster) and of the image under it.
    percentiles
        Ends of each colour scale.

    Returns
    -------
    The Axes of the one map without genes, or the Figure, one row per gene.

    Raises
    ------
    KeyError
        A gene or layer does not exist, or the method does not tell what it does not know of a place; the message names the
        call that predicts.
    ValueError
        A gene is not modelled, or the table, image or section is ambiguous.

    Notes
    -----
    The standard deviation of the methods ``hisdiff`` (preset ``"fast"``) and ``ridge`` is in closed form. That of ``n`` draws has a relative error of about ``1 / sqrt(2 (n - 1))``, 18 % for 16 draws.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    >>> ax = hd.pl.uncertainty_map(sdata, layer="ridge")
    >>> figure = hd.pl.uncertainty_map(sdata, ["TUM01", "IMM02"], "ridge")
    """
    view = view_of(sdata, Selection(table_key, image_key, shapes_key, mpp=mpp))
    table, what = view.table, view.what
    if genes is None:
        stem = mean_and_spread(table, layer)[0] or own_prediction(table) or _keys.STEM
        return _of_places(view, stem, std_cmap, alpha, image_alpha, percentiles)
    infos = [describe(table, name, what) for name in mean_and_spread(table, layer)]
    style = {
        "alpha": view.marks.alpha if alpha is None else alpha,
        "image_alpha": image_alpha,
        "percentiles": _canvas.checked_percentiles(percentiles),
    }
    figure: Figure = _panels(view, columns_of(table, genes, what), infos, [cmap, std_cmap], style, None)  # type: ignore[assignment]
    return figure


def _of_places(
    view: View,
    stem: str,
    cmap: str,
    alpha: float | None,
    image_alpha: float,
    percentiles: tuple[float, float],
) -> Axes:
    """Draw what is not known of places."""
    name = _keys.uncertainty(stem)
    if name not in view.table.obs:
        raise KeyError(
            f"There is no obs[{name!r}] in table {view.what!r}; hd.tl.predict writes it with a model of the methods 'hisdiff' "
            f"(preset 'fast') or 'ridge'. With genes= the spread of a prediction is shown."
        )
    values = view.table.obs[name].to_numpy(dtype=float)[view.place.rows]
    pixels = _canvas.read_underlay(view.image, view.box)
    figure, axes = _canvas.map_panels(1, 1, view.box, 1)
    panel = axes[0, 0]
    norm = _canvas.shared_norm([values], _canvas.checked_percentiles(percentiles))
    _canvas.frame(panel, view.box)
    _canvas.draw_underlay(panel, pixels, view.box, image_alpha)
    shown = view.marks.alpha if alpha is None else alpha
    drawn = view.marks.draw(panel, values, norm=norm, cmap=cmap, alpha=shown)
    _canvas.scale_bar(panel, view.box)
    unlike = is_unlike(view.table, stem, view.place.name)
    title = "what the model does not know" + ("\n(section unlike the training tissue)" if unlike else "")
    panel.set_title(title, loc="left", fontsize="medium", **({"color": WARNING_COLOR} if unlike else {}))
    label = "predictive variance of the mean,\nleft-out training tissue = 1"
    figure.colorbar(
        drawn, ax=panel, label=label, extend=_canvas.extend_of(norm, [values]), fraction=0.04, pad=0.02, aspect=22
    )
    result: Axes = panel
    return result


def _panels(
    view: View,
    columns: dict[str, int],
    infos: list[LayerInfo],
    cmaps: list[str],
    style: dict[str, Any],
    ax: Axes | None,
) -> Axes | Figure:
    # All results are looked up before a figure is opened, so that an error leaves no empty figure.
    layers = [values_of(view.place, columns, info) for info in infos]
    single = len(columns) == len(infos) == 1
    if ax is not None and not single:
        raise ValueError(f"ax= takes one panel, not {len(columns)} gene(s) x {len(infos)} layer(s); leave it out.")
    box = view.box
    pixels = _canvas.read_underlay(view.image, box)
    if ax is None:
        figure, axes = _canvas.map_panels(len(columns), len(infos), box, len({info.unit for info in infos}))
    else:
        axes = np.array([[ax]])
    for row, gene in zip(axes, columns):
        values = [layer[gene] for layer in layers]
        last_of: dict[str, tuple[Axes, ScalarMappable, str]] = {}
        for info, cmap, column_values, panel in zip(infos, cmaps, values, row):
            same = [v for other, v in zip(infos, values) if other.unit == info.unit]
            norm = _canvas.shared_norm(same, style["percentiles"])
            _canvas.frame(panel, box)
            _canvas.draw_underlay(panel, pixels, box, style["image_alpha"])
            drawn = view.marks.draw(panel, column_values, norm=norm, cmap=cmap, alpha=style["alpha"])
            _canvas.scale_bar(panel, box)
            strange = _strange(view, info)
            if strange.any():
                view.marks.ring(panel, strange, RING_COLOR)
            panel.set_title(
                **_title(view, gene, columns[gene], info, bool(strange.any())), loc="left", fontsize="medium"
            )
            last_of[info.unit] = (panel, drawn, _canvas.extend_of(norm, same))
        for unit, (panel, drawn, extend) in last_of.items():
            panel.figure.colorbar(drawn, ax=panel, label=unit, extend=extend, fraction=0.04, pad=0.02, aspect=22)
    return axes[0, 0] if single else figure


def _strange(view: View, info: LayerInfo) -> np.ndarray:
    """Return which spots look like nothing the model was trained on, where the spread is shown."""
    name = _keys.ood(info.stem or _keys.STEM)
    if not info.is_spread or name not in view.table.obs:
        return np.zeros(len(view.place.rows), dtype=bool)
    return view.table.obs[name].to_numpy(dtype=bool)[view.place.rows]


def _title(view: View, gene: str, column: int, info: LayerInfo, ringed: bool) -> dict[str, str]:
    table = view.table
    title = f"{gene}, {info.label}{' (ringed: unlike training tissue)' if ringed else ''}"
    if not info.stem or info.is_spread:
        return {"label": title}
    if is_unlike(table, info.stem, view.place.name):
        return {"label": f"{title}\naccuracy unknown: unlike the training tissue", "color": WARNING_COLOR}
    accuracy = expected_accuracy(table, info.stem, column)
    if not np.isfinite(accuracy):
        return {"label": title}
    expected = f"expected r = {accuracy:.2f}"
    if accuracy < LOW_ACCURACY:
        return {"label": f"{WARNING_SIGN} {title} (weak: {expected})", "color": WARNING_COLOR}
    return {"label": f"{title} ({expected})"}
