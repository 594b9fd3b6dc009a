"""Descriptions of parameters that many public functions share, each written once.

A docstring names a shared parameter by a line ``%(name)s`` of its *Parameters* section. Lines that follow it, indented as a
description, are added to the shared text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

PARAMETERS = {
    "place": """
        table_key, image_key, shapes_key
            Names of the table, of the image, and of the shapes or labels that the table annotates; needed if the object
            has several. ``image_key`` may also map regions to images.
        """,
    "shown_place": """
        table_key, image_key, shapes_key
            Names of the table, the image and the shapes; needed if there are several. ``shapes_key`` also selects
            one section of a table with several.
        """,
    "crop": """
        crop
            ``(x0, y0, x1, y1)`` to show, in units of ``coordinate_system``; None for all locations.
        """,
    "palette": """
        palette
            Colours of categories, by name or in their order. None: those of ``uns["<column>_colors"]``, where scanpy keeps
            them, else colours that can be told apart.
        """,
    "opacity": """
        alpha, image_alpha
            Opacity of what is drawn (None: 0.95 for spots and shapes, 0.6 for a raster) and of the image under it.
        """,
    "spot_scale": """
        spot_scale
            Factor on the size of spots and shapes; bins of a raster keep theirs.
        """,
    "map_figsize": """
        figsize
            Size of the figure in inches; None for maps of 3.6 inches.
        """,
    "map_title": """
        title
            Title of the figure; of a single panel instead of its own.
        """,
    "table_key": """
        table_key
            Name of the table; needed if there are several.
        """,
    "fine_table_key": """
        table_key
            Name of the table of the fine prediction; None for the only one.
        """,
    "spots_table_key": """
        table_key
            Name of the table; None for the table of the spots. A finer prediction has to be named, such as
            ``"hisdiff_16um"``.
        """,
    "image_key": """
        image_key
            Name of the image; needed if there are several.
        """,
    "counts_layer": """
        layer
            Layer with raw counts; None for ``X``.
        """,
    "expression_layer": """
        layer
            Layer with expression; None for ``X``.
        """,
    "mpp": """
        mpp
            Micrometres per pixel of the full-resolution image; needed where the image has no coordinate system ``um``.
        """,
    "fine_data": """
        data
            Table of a fine prediction, or the object that holds it.
        """,
    "fine_sdata": """
        sdata
            Object with one section and a fine prediction of it.
        """,
    "section": """
        sdata
            Object with an image and a table.
        """,
    "model": """
        model
            A model, the path of a saved model, or None for the model that was fitted on this object.
        """,
    "key_added": """
        key_added
            Name of the slot to write.
        """,
    "inplace": """
        inplace
            Write the result into the object and return None; or leave the object unchanged and return the result.
        """,
    "rng": """
        rng
            Seed, or a NumPy Generator from which one integer is drawn.
        """,
    "device": """
        device
            Device to run on, such as ``"cpu"`` or ``"cuda"``; None for ``hisdiff.settings.device``.
        """,
    "progress": """
        progress
            Show progress bars; None for ``hisdiff.settings.progress``.
        """,
    "truth_layer": """
        truth
            Layer with the measured counts; None for ``X``.
        """,
    "ax": """
        ax
            Axes to draw into; only with a single panel.
        """,
    "cmap": """
        cmap
            Colour map; perceptually uniform by default.
        """,
}
"""Name of a placeholder -> an entry of a *Parameters* section, indented at will."""

_PLACEHOLDER = re.compile(r"^([ \t]*)%\((\w+)\)s$", re.MULTILINE)


def _entry(match: re.Match[str]) -> str:
    indent, name = match.groups()
    head, *body = (line.strip() for line in PARAMETERS[name].strip().splitlines())
    return "\n".join([indent + head, *(f"{indent}    {line}" for line in body)])


def documented(function: F) -> F:
    """Fill the placeholders of a docstring; one that ``PARAMETERS`` does not have is a ``KeyError`` at import."""
    if function.__doc__ is not None:  # None under python -OO
        function.__doc__ = _PLACEHOLDER.sub(_entry, function.__doc__)
    return function
