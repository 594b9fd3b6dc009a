"""Options of regions of a programme, and the labels of one section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from hisdiff._check import one_of, positive

if TYPE_CHECKING:
    from hisdiff._runtime import Runtime
    from hisdiff._sdata._area import Area
    from hisdiff.methods.tesla._regions import Regions, Target

# Labels of fewer pixels are merged, as a part of the shorter side's square: 1000 pixels where that side has 1000.
_MIN_PART = 1e-3
_MIN_PX = 4.0
_MAX_STEPS = 30


@dataclass(frozen=True)
class SegmentOptions:
    """Checked settings of a segmentation; see ``hd.tl.marker_regions``."""

    n_required: int
    pool: Literal["min", "mean"]
    target: Target
    min_count: float | None
    n_labels: int
    continuity: float
    working_px: int

    def __post_init__(self) -> None:
        from hisdiff.methods.tesla._regions import Target

        one_of(self.pool, ("min", "mean"), "pool")
        one_of(self.target, get_args(Target), "target")
        if self.min_count is not None:
            positive(self.min_count, "min_count")
        if self.continuity < 0:
            raise ValueError(f"continuity is zero or above, not {self.continuity!r}.")
        for name in ("n_labels", "working_px"):
            object.__setattr__(self, name, positive(getattr(self, name), name, integer=True))
        object.__setattr__(self, "continuity", float(self.continuity))


def label_section(
    area: Area, values: np.ndarray, options: SegmentOptions, runtime: Runtime
) -> tuple[Regions, np.ndarray]:
    """Label one section; values are log2(1 + count) of the markers ``(n, m)``. Also the label of each location."""
    from hisdiff.methods.tesla._regions import find_targets, programme, unit_range
    from hisdiff.methods.tesla._segment import segment

    if options.min_count is not None:
        values = np.where(values < np.log2(1 + options.min_count), 0, values)
    raster = area.raster
    inside = raster.inside
    painted = raster.paint(programme(values, options.n_required, options.pool))
    gene = np.where(inside, unit_range(painted, inside), 0)
    gray = np.where(inside, unit_range(area.gray(), inside), 0)
    labels = segment(
        np.stack([gray, gene]),
        n_labels=options.n_labels,
        continuity_weight=options.continuity,
        min_px=max(_MIN_PX, _MIN_PART * min(inside.shape) ** 2),
        n_steps=_MAX_STEPS,
        seed=runtime.seed,
        device=runtime.device,
        progress_bar=runtime.progress,
    )
    return find_targets(labels, gene, inside, options.target), raster.at(labels)
