"""Whether the spots that stand around a spot are there."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from hisdiff._log import logger
from hisdiff._training._context import share_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._sdata._bound import Bound

MANY_MISSING = 0.25


def warn_gaps(bounds: Sequence[Bound], pitch_um: float | None) -> None:
    """Log where many spots are missing between the others: a spot's neighborhood is made of spots, and then reaches farther.

    A published checkpoint does not know its pitch (NaN), and a fit has none yet (None): the spots of the section are its neighborhood, whatever their pitch.
    """
    known = pitch_um if pitch_um is not None and isfinite(pitch_um) else None
    for bound in bounds:
        if bound.section.features is None:
            continue
        missing = share_missing(bound.section, known)
        if missing > MANY_MISSING:
            logger.warning(
                "%s: about %.0f %% of the spots that lie on its tissue are missing from the table. The neighborhood of a spot is made "
                "of the spots around it, so predictions change where spots were filtered out; keep all spots on the tissue.",
                bound.place.name, 100 * missing,
            )  # fmt: skip
