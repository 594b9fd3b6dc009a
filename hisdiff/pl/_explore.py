"""A section to explore: handed to napari, or as a page on which to pan, zoom and choose genes."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from hisdiff._arguments import checked
from hisdiff._check import listing, names_of, one_of
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._expression import own_prediction
from hisdiff._sdata._results import result_table
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._coloring import Palette
from hisdiff.pl._maps import shown_boxes
from hisdiff.pl._marks import Raster
from hisdiff.pl._page import as_json, fill, jpeg, packed
from hisdiff.pl._rows import row_of
from hisdiff.pl._style import styled
from hisdiff.pl._values import best_genes
from hisdiff.pl._view import views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff._section import Box
    from hisdiff.pl._coloring import Scale
    from hisdiff.pl._maps import Panel
    from hisdiff.pl._view import View

MAX_GENES = 50
USUAL_GENES = 12
IMAGE_PX = 2400
"""Longer side of the image of a page: 2 um per pixel of a section of 5 mm, about a megabyte."""
RASTER_PX = 1000
"""Longer side of the raster of a finer table."""
LEVELS = 254
"""Steps of a colour scale; 0 stands for a location without a value."""


@documented
@checked
@styled
def view(
    sdata: SpatialData,
    genes: str | Sequence[str] | None = None,
    *,
    path: str | Path | None = None,
    viewer: str | None = None,
    layers: str | None | Sequence[str | None] = None,
    table_key: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    percentiles: tuple[float, float] = (1.0, 99.0),
    title: str | None = None,
) -> Any:
    """Explore a section: pan and zoom over the image, choose genes, compare measured, predicted and finer maps side by side.

    Where napari-spatialdata is installed, the object is opened there. Else the result is a self-contained HTML page, which a
    notebook shows and any browser opens without network; its maps move together.

    Parameters
    ----------
    sdata
        A section with an image.
    genes
        Up to 50 genes or columns of ``obs``, as in :func:`gene_map`; None for the genes with the best expected accuracy. For the
        page only: napari has all.
    path
        File to write the page to.
    viewer
        ``"napari"`` or ``"html"``; None for napari where it is installed and no ``path`` is given.
    layers, table_key
        Layers and tables, as in :func:`gene_map`; None for all tables of the section with a prediction or counts.
    image_key, shapes_key
        Names of the image and the shapes; needed if there are several. ``shapes_key`` selects one section of a table with several.
    %(mpp)s
    %(cmap)s
    percentiles
        Ends of the colour scale.
    title
        Title of the page; None for the name of the section.

    Returns
    -------
    A page with ``html`` and ``save(path)``; or the viewer of napari-spatialdata, whose ``run()`` shows the window outside a
    notebook.

    Raises
    ------
    KeyError
        A gene, column or layer does not exist.
    ValueError
        There is more than one section, there are more than 50 genes, or a gene is not modelled.
    ImportError
        napari is asked for and is not installed.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> page = hd.pl.view(sdata, ["TUM01", "IMM02"], viewer="html")
    >>> page.html.startswith("<!doctype html>")
    True
    """
    if viewer is not None:
        one_of(viewer, ("napari", "html"), "viewer")
    installed = find_spec("napari_spatialdata") is not None
    if viewer == "napari" and not installed:
        raise ImportError('viewer="napari" needs napari-spatialdata: pip install "napari-spatialdata[all]".')
    selection = Selection(None, image_key, shapes_key, mpp=mpp)
    tables = table_key if table_key is not None else tables_of_section(sdata)
    views = views_of(sdata, selection, tables)
    if (
        len({each.section for each in views}) > 1
        or len({each.place.region for each in views if each.bin_um is None}) > 1
    ):
        sections = listing(dict.fromkeys(each.section_name for each in views))
        raise ValueError(f"A page shows one section, and there are {sections}; choose one with shapes_key=.")
    if viewer == "napari" or (viewer is None and installed and path is None):
        return _napari(sdata, views)
    names = best_genes(views[0].table, USUAL_GENES) if genes is None else names_of(genes)
    if len(names) > MAX_GENES:
        raise ValueError(f"A page holds up to {MAX_GENES} genes, not {len(names)}.")
    scaling = {"cmap": cmap, "percentiles": _canvas.checked_percentiles(percentiles), "vmin": None, "vmax": None}
    rows = {
        name: [panel for panel in row_of(views, name, names_of(layers), scaling, None) if panel is not None]
        for name in names
    }
    box = next(iter(shown_boxes(views).values()))
    heading = title or views[0].section_name
    page = fill("view.html", title=heading, data=as_json({"title": heading, **_data(views, rows, box, cmap)}))
    if path is not None:
        logger.info("wrote %s: %d gene(s) in %d map(s)", page.save(path), len(rows), max(map(len, rows.values())))
    return page


def tables_of_section(sdata: SpatialData) -> list[str] | None:
    """Return the usual table and those finer than the spots that belong to the same object, None for the usual one alone."""
    usual = result_table(sdata)
    fine = [key for key, table in sdata.tables.items() if key != usual and own_prediction(table) is not None]
    return None if usual is None or not fine else [usual, *fine]


def _napari(sdata: SpatialData, views: Sequence[View]) -> Any:
    from napari_spatialdata import Interactive

    if _cannot_read_genes():
        logger.warning(
            "napari shows the maps, but the napari-spatialdata that is installed cannot colour by gene with this anndata (columns of obs and "
            "obsm work): install 'anndata<0.13' beside it, or use hd.pl.view(sdata, genes, viewer='html')."
        )
    viewer = Interactive(sdata, headless=True)
    place = views[0].place
    system = next(iter(place.image_frame.transformations))
    for element in (place.image_name, *(each.place.region for each in views)):
        viewer.add_element(element, system, view_element_system=True)
        _loaded(viewer)
    return viewer


def _cannot_read_genes() -> bool:
    """Whether napari-spatialdata reads genes by a private method that anndata has no longer: from 0.13 on, with releases up to 0.7.2."""
    import napari_spatialdata
    from anndata import AnnData

    model = getattr(napari_spatialdata, "_model", None)
    return model is not None and not hasattr(AnnData, "_get_X") and "._get_X(" in inspect.getsource(model)


def _loaded(viewer: Any) -> None:
    """Wait until an element is loaded: that happens in a thread, and elements that are added meanwhile are dropped."""
    thread = getattr(getattr(viewer, "_sdata_widget", None), "worker_thread", None)
    if thread is not None:  # the end is told in no public way
        from qtpy.QtWidgets import QApplication

        thread.wait()
        QApplication.processEvents()  # the layer is added by an event


def _data(views: Sequence[View], rows: Mapping[str, list[Panel]], box: Box, cmap: str) -> dict[str, Any]:
    """Return what the script of the page needs, as JSON can hold it; places are in um from the corner of the box."""
    image = views[0].image
    pixels = _canvas.read_underlay(image, box, IMAGE_PX)
    marks = {id(view.marks): _marks(view, box) for view in views}
    order = {key: i for i, key in enumerate(marks)}
    return {
        "size": [box[2] - box[0], box[3] - box[1]],
        "image": jpeg(pixels),
        "colors": packed(np.round(colormaps[cmap](np.linspace(0, 1, LEVELS))[:, :3] * 255).astype(np.uint8)),
        "marks": list(marks.values()),
        "names": [{"name": name, "maps": [_map(panel, order) for panel in row]} for name, row in rows.items()],
    }


def _marks(view: View, box: Box) -> dict[str, Any]:
    """Return where the locations of a view are: discs, or a raster of positions."""
    if isinstance(view.marks, Raster):
        location, to_um = view.marks.labels.location, view.marks.labels.to_um
        step = -(-max(location.shape) // RASTER_PX)
        thinned = location[::step, ::step]
        a = to_um @ np.diag([step, step, 1.0])
        affine = [a[0, 0], a[1, 0], a[0, 1], a[1, 1], a[0, 2] - box[0], a[1, 2] - box[1]]  # in the order of a canvas
        return {
            "kind": "raster",
            "shape": list(thinned.shape),
            "affine": [float(value) for value in affine],
            "location": packed(thinned.astype(np.int32)),
        }
    locations = view.marks.locations  # type: ignore[attr-defined]
    discs = np.column_stack([locations.xy_um - np.array(box[:2]), locations.radius_um])
    return {"kind": "discs", "n": len(discs), "discs": packed(discs.astype(np.float32))}


def _map(panel: Panel, order: Mapping[int, int]) -> dict[str, Any]:
    scale: Scale = panel.scale
    values = {
        "marks": order[id(panel.view.marks)],
        "label": panel.layer,
        "title": panel.title["label"],
        "unit": scale.label,
    }
    values["weak"] = "color" in panel.title  # type: ignore[assignment]
    if isinstance(scale, Palette):
        codes = np.where(np.isfinite(panel.values), panel.values + 1, 0).astype(np.uint8)
        categories = [[name, to_hex(color)] for name, color in zip(scale.names, scale.colors)]
        return {**values, "categories": categories, "codes": packed(codes)}
    low, high = float(scale.norm.vmin or 0), float(scale.norm.vmax or 0)
    share = np.clip((panel.values - low) / (high - low), 0, 1)
    codes = np.where(np.isfinite(share), 1 + np.round((LEVELS - 1) * np.nan_to_num(share)), 0).astype(np.uint8)
    return {**values, "range": [low, high], "codes": packed(codes)}
