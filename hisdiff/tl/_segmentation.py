"""Options of regions of a programme, and the labels of one section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from hisdiff._check import one_of, positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._sdata._area import Area
    from hisdiff.methods.tesla._regions import Regions, Target

# Labels of fewer pixels are merged, as a part of the shorter side's square: 1000 pixels where that side has 1000.
_MIN_PART = 1e-3
_MIN_PX = 4.0
_MAX_STEPS = 30


def checked_options(
    n_required: int,
    pool: str,
    target: str,
    min_count: float | None,
    n_labels: int,
    continuity: float,
    working_px: int,
    n_markers: int,
) -> dict[str, Any]:
    """Check the options of a segmentation and return them by name."""
    from hisdiff.methods.tesla._regions import Target

    if not n_markers:
        raise ValueError("markers is empty; name the genes of the programme.")
    if positive(n_required, "n_required", integer=True) > n_markers:
        raise ValueError(f"n_required={n_required} is more than there are markers ({n_markers}).")
    one_of(pool, ("min", "mean"), "pool")
    one_of(target, get_args(Target), "target")
    if min_count is not None:
        positive(min_count, "min_count")
    if continuity < 0:
        raise ValueError(f"continuity is zero or above, not {continuity!r}.")
    return {
        "n_required": n_required,
        "pool": pool,
        "target": target,
        "min_count": min_count,
        "n_labels": positive(n_labels, "n_labels", integer=True),
        "continuity": float(continuity),
        "working_px": positive(working_px, "working_px", integer=True),
    }


def label_section(
    area: Area, values: np.ndarray, options: Mapping[str, Any], run: Mapping[str, Any]
) -> tuple[Regions, np.ndarray]:
    """Label one section; values are log2(1 + count) of the markers ``(n, m)``. Also the label of each location."""
    from hisdiff.methods.tesla._regions import find_targets, programme, unit_range
    from hisdiff.methods.tesla._segment import segment

    if options["min_count"] is not None:
        values = np.where(values < np.log2(1 + options["min_count"]), 0, values)
    raster = area.raster
    inside = raster.inside
    gene = np.where(
        inside, unit_range(raster.paint(programme(values, options["n_required"], options["pool"])), inside), 0
    )
    gray = np.where(inside, unit_range(area.gray(), inside), 0)
    labels = segment(
        np.stack([gray, gene]),
        n_labels=options["n_labels"],
        continuity_weight=options["continuity"],
        min_px=max(_MIN_PX, _MIN_PART * min(inside.shape) ** 2),
        n_steps=_MAX_STEPS,
        **run,
    )
    target: Target = options["target"]
    return find_targets(labels, gene, inside, target), raster.at(labels)
