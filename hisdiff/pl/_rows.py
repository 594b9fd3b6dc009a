"""What a row of maps shows: a gene in all layers, or a column of ``obs``, of every section and table that has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._sdata._genes import find_gene
from hisdiff.pl._accuracy import UNKNOWN_ACCURACY, expected_accuracy, is_unlike
from hisdiff.pl._coloring import codes_of, gradient, is_categorical, palette_of
from hisdiff.pl._maps import Panel, Row
from hisdiff.pl._style import WARNING
from hisdiff.pl._values import default_layers, describe, shown_name, unknown, values_of
from hisdiff.pl._view import of_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hisdiff.pl._coloring import Scale
    from hisdiff.pl._values import LayerInfo
    from hisdiff.pl._view import View

LOW_ACCURACY = 0.1
"""Below this expected correlation a predicted map is marked: it shows little of the gene."""
WARNING_SIGN = "\N{WARNING SIGN}"


def row_of(
    views: Sequence[View],
    name: str,
    layers: list[str | None] | None,
    scaling: dict[str, Any],
    palette: Mapping[str, str] | Sequence[str] | None,
) -> Row:
    """Return the panels of a gene, or of a column of obs, in all views that have it."""
    if not _having(views, name):  # a panel table has a part of what its spots have
        views = [of_source(view) for view in views]
    if not _having(views, name):
        raise unknown(views[0].table, name, views[0].what)
    columns = [find_gene(view.table, name) for view in views]
    if any(column is not None for column in columns):
        return gene_row(views, name, columns, _layers_of(views, layers), scaling)
    return annotation_row(views, name, name, scaling, palette)


def _having(views: Sequence[View], name: str) -> bool:
    return any(name in view.table.obs or find_gene(view.table, name) is not None for view in views)


def gene_row(
    views: Sequence[View],
    name: str,
    columns: Sequence[int | None],
    layers: Sequence[Sequence[LayerInfo]],
    scaling: dict[str, Any],
    std_cmap: str | None = None,
) -> Row:
    """Return the panels of a gene, in the layers of each view and at the column that it has there, None where it has none."""
    shown: list[tuple[View, str, int, LayerInfo, np.ndarray]] = []
    for view, column, infos in zip(views, columns, layers):
        if column is not None:
            label = shown_name(view.table, name, column)
            for info in infos:
                shown.append((view, label, column, info, values_of(view.place, {label: column}, info)[label]))
    # Bins are smaller than spots, and so are their counts: panels of one unit and one size of bins share a scale.
    pooled: dict[tuple[str, float | None], list[np.ndarray]] = {}
    for view, _, _, info, values in shown:
        pooled.setdefault((info.unit, view.bin_um), []).append(values)
    spreads = {info.unit for *_, info, _ in shown if info.is_spread}
    several = len({bin_um for _, bin_um in pooled}) > 1
    scales = {}
    for (unit, bin_um), of_scale in pooled.items():
        label = f"{unit}, {bin_um:g} µm bins" if several and bin_um else unit
        own = {"cmap": std_cmap} if std_cmap and unit in spreads else {}
        scales[unit, bin_um] = gradient(label, of_scale, **scaling | own)
    row: Row = []
    for view, label, column, info, values in shown:
        strange = strange_of(view, info)
        prefix = prefix_of(view, views)
        title = title_of(view, f"{prefix}{label}", column, info, bool(strange.any()))
        row.append(Panel(view, values, scales[info.unit, view.bin_um], title, f"{prefix}{info.label}", strange))
    return row


def _layers_of(views: Sequence[View], layers: list[str | None] | None) -> list[list[LayerInfo]]:
    """Return the layers to show of each view: the usual ones, or those of the named ones that it has."""
    if layers is None:
        return [
            [describe(view.table, name, view.what) for name in default_layers(view.table, view.what)] for view in views
        ]
    found, errors = [], []
    for view in views:
        own = []
        for name in layers:
            try:
                own.append(describe(view.table, name, view.what))
            except (KeyError, ValueError) as error:  # another table may have it
                errors.append((name, error))
        found.append(own)
    for name, missing in errors:
        if len([1 for other, _ in errors if other == name]) == len(views):
            raise missing
    return found


def annotation_row(
    views: Sequence[View],
    name: str,
    label: str,
    scaling: dict[str, Any],
    palette: Mapping[str, str] | Sequence[str] | None = None,
) -> Row:
    """Return the panels of a column of obs in all views that have it, a gap in others."""
    having = [view for view in views if name in view.table.obs]
    parts = [view.table.obs[name].iloc[view.place.rows] for view in having]
    scale: Scale
    if all(is_categorical(part) for part in parts):
        scale = palette_of([(view.table, name) for view in having], label, palette)
        values = [codes_of(part, scale.names) for part in parts]
    else:
        values = [part.to_numpy(dtype=float, na_value=np.nan) for part in parts]
        if not any(np.isfinite(part).any() for part in values):
            raise ValueError(f"obs[{name!r}] has no finite number to show.")
        scale = gradient(label, values, **scaling)
    shown = iter(zip(having, values))
    row: Row = []
    for view in views:
        if name in view.table.obs:
            _, own = next(shown)
            prefix = prefix_of(view, views)
            row.append(Panel(view, own, scale, {"label": f"{prefix}{label}"}, f"{prefix}annotation"))
        else:
            row.append(None)
    return row


def prefix_of(view: View, views: Sequence[View]) -> str:
    """Return what tells a panel from those of other sections and tables."""
    parts = []
    if (
        len({other.section for other in views}) > 1
        or len({other.place.name for other in views if other.what == view.what}) > 1
    ):
        parts.append(view.section_name)
    if len({other.what for other in views}) > 1 and view.bin_um is not None:
        parts.append(view.table_name)
    return "".join(f"{part}: " for part in parts)


def strange_of(view: View, info: LayerInfo) -> np.ndarray:
    """Return which spots look like nothing the model was trained on, where the spread is shown."""
    name = _keys.ood(info.stem or _keys.STEM)
    if not info.is_spread or name not in view.table.obs:
        return np.zeros(len(view.place.rows), dtype=bool)
    return view.table.obs[name].to_numpy(dtype=bool)[view.place.rows]


def title_of(view: View, gene: str, column: int, info: LayerInfo, ringed: bool) -> dict[str, str]:
    table = view.table
    title = f"{gene}, {info.label}{' (ringed: unlike training tissue)' if ringed else ''}"
    if not info.stem or info.is_spread:
        return {"label": title}
    if is_unlike(table, info.stem, view.place.name):
        return {"label": f"{title}{UNKNOWN_ACCURACY}", "color": WARNING}
    accuracy = expected_accuracy(table, info.stem, column)
    if not np.isfinite(accuracy):
        return {"label": title}
    expected = f"expected r = {accuracy:.2f}"
    if accuracy < LOW_ACCURACY:
        return {"label": f"{WARNING_SIGN} {title} (weak: {expected})", "color": WARNING}
    return {"label": f"{title} ({expected})"}
