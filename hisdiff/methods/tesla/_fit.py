"""A fit of TESLA fixes options and panel, and measures how well left-out spots are filled in from the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._log import logger
from hisdiff._section import needed
from hisdiff._training._calibration import Calibration
from hisdiff.methods.tesla._fitted import FittedTesla, check_has_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.tesla.config import TeslaConfig


def fit_tesla(sections: Sequence[Section], config: TeslaConfig, run: FitRun) -> FittedTesla:
    """Fix options and panel. Nothing is learned, so validation sections are an error and ``run`` has no other use."""
    if run.validation:
        raise ValueError("TESLA learns nothing that another section could validate; validation= has no effect.")
    for section in sections:
        check_has_counts(section)
    fitted = FittedTesla(sections[0].genes, config)
    calibration = Calibration.from_values(*_held_out(fitted, sections))
    logger.info(
        "tesla: left-out spots are filled in with a median correlation of %.2f",
        np.nanmedian(calibration.cv_pcc) if np.isfinite(calibration.cv_pcc).any() else np.nan,
    )
    return replace(fitted, calibration=calibration)


def _held_out(fitted: FittedTesla, sections: Sequence[Section]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what was measured at spots, what the others fill in for them, ``(n, G)`` in log2, and their section."""
    measured, filled, number = [], [], []
    for i, section in enumerate(sections):
        field = fitted.field(section, n_draws=1)
        weights = field.map.weights(needed(section.spots).xy_um, leave_out_self=True)
        near = np.diff(weights.indptr) > 0
        measured.append(np.log2(1 + needed(section.counts)[near].toarray()))
        filled.append(np.log2(1 + field.of(weights[near])))
        number.append(np.full(int(near.sum()), i))
    return np.concatenate(measured), np.concatenate(filled), np.concatenate(number)
