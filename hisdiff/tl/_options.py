"""Options of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hisdiff import _keys
from hisdiff._check import one_of, positive
from hisdiff._prediction._agreement import MODES

N_DRAWS = 16
KEEP_DRAWS = 1
FINE_DRAWS = 4
LAYERS, PANEL = "layers", "panel"
"""Where predictions at spots go: layers of the table, or a table of the panel's genes."""
MAX_LIBRARY_SIZE = 1e12
"""More counts than any location has."""


@dataclass(frozen=True)
class PredictOptions:
    """Settings of ``hd.tl.predict``, checked; made once and passed on as they are.

    Attributes
    ----------
    n_draws, n_steps, keep_draws, units, library_size
        See ``hd.tl.predict``; ``n_steps`` and ``library_size`` are None where the model and the section decide.
    calibrate
        One of ``MODES``; ``"none"`` at spots.
    table
        ``LAYERS``, ``PANEL``, or None where the size decides.
    """

    n_draws: int
    n_steps: int | None
    keep_draws: int
    units: str
    library_size: float | None
    calibrate: str
    table: str | None

    @classmethod
    def of(
        cls,
        *,
        finer: bool,
        n_draws: int | None,
        n_steps: int | None,
        keep_draws: int | None,
        units: str | None,
        library_size: float | None,
        calibrate: str | None,
        table: str | None,
    ) -> PredictOptions:
        """Check what a caller gave, and fill in the defaults of predictions at spots, or ``finer`` than these."""
        if calibrate is not None and not finer:
            raise ValueError(
                "calibrate= is for predictions with resolution_um= or at=; spots have counts of their own."
            )
        if table is not None and finer:
            raise ValueError(f"table={table!r} is for predictions at spots; finer ones have a table of their own.")
        n_draws = positive((FINE_DRAWS if finer else N_DRAWS) if n_draws is None else n_draws, "n_draws", integer=True)
        return cls(
            n_draws=n_draws,
            n_steps=None if n_steps is None else positive(n_steps, "n_steps", integer=True),
            keep_draws=_kept(keep_draws, n_draws, 0 if finer else KEEP_DRAWS),
            units=one_of(units or (_keys.COUNTS if finer else _keys.LOG2), (_keys.LOG2, _keys.COUNTS), "units"),
            library_size=_checked_library_size(library_size),
            calibrate=one_of(calibrate or MODES[0], MODES, "calibrate") if finer else "none",
            table=None if table is None else one_of(table, (LAYERS, PANEL), "table"),
        )


def _checked_library_size(library_size: Any) -> float | None:
    if library_size is None:
        return None
    size = float(positive(library_size, "library_size"))
    if not 1 <= size <= MAX_LIBRARY_SIZE:
        raise ValueError(
            f"library_size is the median total count of a spot over the panel, from 1 to {MAX_LIBRARY_SIZE:.0e}, not {library_size!r}."
        )
    return size


def _kept(keep_draws: int | None, n_draws: int, usual: int) -> int:
    if keep_draws is None:
        return min(usual, n_draws)
    if keep_draws != 0:
        positive(keep_draws, "keep_draws", integer=True)
    if keep_draws > n_draws:
        raise ValueError(f"keep_draws={keep_draws} is more than n_draws={n_draws}.")
    return keep_draws
