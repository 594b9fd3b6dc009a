"""Expression on the tissue: gene maps and maps of their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._sdata._read import read_sections
from hisdiff.pl import _canvas
from hisdiff.pl._values import columns_of, default_layers, describe, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff._section import ImageSource, Locations
    from hisdiff.pl._values import LayerInfo

LOW_ACCURACY = 0.1
"""Below this expected correlation a predicted map is marked: it shows little of the gene."""
WARNING_SIGN = "\N{WARNING SIGN}"
WARNING_COLOUR = "#b2182b"
RING_COLOUR = "#00d5ff"  # neither in the stain nor in the colour maps
PANEL_INCH = 3.6


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
    alpha: float = 0.95,
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show genes on the tissue, measured beside predicted.

    One row per gene, one column per layer. The panels of a gene share one colour scale. Spots are drawn at their true
    size over the image, which is read at the resolution of the screen. The title of a predicted panel gives the
    accuracy to expect of the gene (its correlation on left-out training tissue); below 0.1 it is marked in red.

    Parameters
    ----------
    sdata
        A section with an image.
    genes
        Names in the table's ``var_names``.
    layers
        Layer names; ``"X"`` is the table's X. Default: measured counts and ``"hisdiff"``, as far as they exist.
        Counts are shown as log2(1 + count), predictions on that scale as well.
    table_key, image_key, shapes_key
        Where to look when it cannot be told; ``shapes_key`` also chooses the section of a table with several.
    mpp
        Micrometres per pixel, where the image has no coordinate system ``um``.
    cmap
        Colour map, perceptually uniform by default.
    alpha, image_alpha
        Opacity of the spots and of the image under them.
    percentiles
        Ends of the colour scale, over all panels of the gene.
    ax
        Axes to draw into, for a single panel.

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    KeyError
        A gene or layer does not exist; the message says how a missing prediction is made.
    ValueError
        A gene is not modelled, or it cannot be told which table, image or section is meant.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> axes = hd.pl.gene_map(sdata, "TUM01")
    >>> hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    >>> figure = hd.pl.gene_map(sdata, ["TUM01", "IMM02"], layers=["X", "ridge", "ridge_draw0"])
    """
    view = view_of(sdata, table_key, image_key, shapes_key, mpp)
    table, what = view.table, view.what
    wanted = default_layers(table, what) if layers is None else [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise ValueError("There is no layer to show: layers is empty.")
    infos = [describe(table, layer, what) for layer in wanted]
    style = {"alpha": alpha, "image_alpha": image_alpha, "percentiles": percentiles}
    return _panels(view, columns_of(table, genes, what), infos, [cmap] * len(infos), style, ax)


def uncertainty_map(
    sdata: SpatialData,
    genes: str | Sequence[str],
    layer: str = _keys.STEM,
    *,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    std_cmap: str = "magma",
    alpha: float = 0.95,
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> Figure:
    """Show the predicted mean of genes beside its standard deviation over draws.

    Spots whose patch looks like nothing the model was trained on are ringed: there the spread says less than it should.

    Parameters
    ----------
    sdata
        A section with an image and a prediction.
    genes
        Names in the table's ``var_names``.
    layer
        Name of the prediction; its spread is the layer ``{layer}_std``.
    table_key, image_key, shapes_key
        Where to look when it cannot be told; ``shapes_key`` also chooses the section of a table with several.
    mpp
        Micrometres per pixel, where the image has no coordinate system ``um``.
    cmap, std_cmap
        Colour maps of the mean and of the standard deviation.
    alpha, image_alpha
        Opacity of the spots and of the image under them.
    percentiles
        Ends of each colour scale.

    Returns
    -------
    The Figure, one row per gene.

    Raises
    ------
    KeyError
        A gene or layer does not exist; the message says how a missing prediction is made.
    ValueError
        A gene is not modelled, or it cannot be told which table, image or section is meant.

    Notes
    -----
    The standard deviation of ``n`` draws has a relative error of about ``1 / sqrt(2 (n - 1))``, a fifth for 16.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    >>> figure = hd.pl.uncertainty_map(sdata, ["TUM01", "IMM02"], "ridge")
    """
    view = view_of(sdata, table_key, image_key, shapes_key, mpp)
    table, what = view.table, view.what
    infos = [describe(table, name, what) for name in (layer, _keys.std(layer))]
    style = {"alpha": alpha, "image_alpha": image_alpha, "percentiles": percentiles}
    figure: Figure = _panels(view, columns_of(table, genes, what), infos, [cmap, std_cmap], style, None)  # type: ignore[assignment]
    return figure


@dataclass(frozen=True)
class View:
    """One section with all that a map needs."""

    place: Place
    table: AnnData
    spots: Locations
    image: ImageSource

    @property
    def what(self) -> str:
        return str(self.place.table_key)


def view_of(
    sdata: SpatialData, table_key: str | None, image_key: Any, shapes_key: str | None, mpp: float | None
) -> View:
    bounds = read_sections(
        sdata, table_key=table_key, image_key=image_key, shapes_key=shapes_key, mpp=mpp, needs={"image"}
    )
    if len(bounds) > 1:
        names = listing(bound.place.name for bound in bounds)
        raise ValueError(f"The table has several sections, {names}; choose one with shapes_key=.")
    place, section = bounds[0].place, bounds[0].section
    if place.table is None or section.spots is None or section.image is None:
        raise ValueError(
            "There is no table, so nothing to show on the image; predict with hd.tl.predict(sdata, model) first."
        )
    return View(place, place.table, section.spots, section.image)


def _panels(
    view: View,
    columns: dict[str, int],
    infos: list[LayerInfo],
    cmaps: list[str],
    style: dict[str, Any],
    ax: Axes | None,
) -> Axes | Figure:
    # Everything is looked up before a figure is opened: a mistake leaves no empty figure behind.
    shown = {gene: [values_of(view.place, column, gene, info) for info in infos] for gene, column in columns.items()}
    single = len(shown) == len(infos) == 1
    if ax is not None and not single:
        raise ValueError(f"ax= takes one panel, not {len(shown)} gene(s) x {len(infos)} layer(s); leave it out.")
    box = _canvas.crop_box(view.spots, view.image.bounds_um)
    pixels = _canvas.read_underlay(view.image, box)
    if ax is None:
        aspect = (box[3] - box[1]) / (box[2] - box[0])
        width = PANEL_INCH * min(1.0, 1.5 / aspect)  # a narrow, tall section does not become a mile of figure
        n_bars = len({info.unit for info in infos})
        # Room for the colour bars beside the panels, for the title and the scale bar above and below each.
        size = (width * len(infos) + 0.8 * n_bars, (width * aspect + 0.65) * len(shown))
        figure, axes = _canvas.new_figure(len(shown), len(infos), figsize=size, layout="compressed")
    else:
        axes = np.array([[ax]])
    for row, (gene, values) in zip(axes, shown.items()):
        last_of: dict[str, tuple[Axes, Collection, str]] = {}
        for info, cmap, column_values, panel in zip(infos, cmaps, values, row):
            same = [v for other, v in zip(infos, values) if other.unit == info.unit]
            norm = _canvas.shared_norm(same, style["percentiles"])
            _canvas.frame(panel, box)
            _canvas.draw_underlay(panel, pixels, box, style["image_alpha"])
            drawn = _canvas.draw_locations(panel, view.spots, column_values, norm=norm, cmap=cmap, alpha=style["alpha"])
            _canvas.scale_bar(panel, box)
            strange = _strange(view, info)
            if strange.any():
                _canvas.ring_locations(panel, view.spots.take(strange), RING_COLOUR)
            panel.set_title(
                **_title(view.table, gene, columns[gene], info, bool(strange.any())), loc="left", fontsize="medium"
            )
            last_of[info.unit] = (panel, drawn, _canvas.extend_of(norm, same))
        for unit, (panel, drawn, extend) in last_of.items():
            panel.figure.colorbar(drawn, ax=panel, label=unit, extend=extend, fraction=0.04, pad=0.02, aspect=22)
    return axes[0, 0] if single else figure


def _strange(view: View, info: LayerInfo) -> np.ndarray:
    """Return which spots look like nothing the model was trained on, where the spread is shown."""
    name = _keys.ood(info.stem or _keys.STEM)
    if not info.is_spread or name not in view.table.obs:
        return np.zeros(len(view.spots), dtype=bool)
    return view.table.obs[name].to_numpy(dtype=bool)[view.place.rows]


def _title(table: AnnData, gene: str, column: int, info: LayerInfo, ringed: bool) -> dict[str, str]:
    title = f"{gene}, {info.label}{' (ringed: unlike training tissue)' if ringed else ''}"
    if not info.stem or info.is_spread or _keys.cv_pcc(info.stem) not in table.var:
        return {"label": title}
    accuracy = float(table.var[_keys.cv_pcc(info.stem)].iloc[column])
    if not np.isfinite(accuracy):
        return {"label": title}
    expected = f"expected r = {accuracy:.2f}"
    if accuracy < LOW_ACCURACY:
        return {"label": f"{WARNING_SIGN} {title} (weak: {expected})", "color": WARNING_COLOUR}
    return {"label": f"{title} ({expected})"}
