"""Settings of the method `tesla`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np

from hisdiff._check import one_of, positive
from hisdiff._training._config import Config
from hisdiff.methods.tesla._weights import Kernel


@dataclass(frozen=True, slots=True)
class TeslaConfig(Config):
    """Settings of TESLA.

    Attributes
    ----------
    step_um
        Side of the superpixels that the statistics of a section are taken over, and of the window of a place's colour.
    n_neighbors
        Spots that a place is composed of at most.
    color_weight
        What one sd of colour is worth beside the section's extent; 0 for distance in the plane alone.
    kernel, power
        ``"power"``: weights fall with distance to the minus ``power``; ``"exponential"``: exponentially.
    reference_compat
        Reproduce the published numbers: spots scaled by their own grey value, 0 where no spot is near enough, outline of
        the tissue enlarged by 1.05, offset of distances in pixels.
    """

    method_name: ClassVar[str] = "tesla"

    step_um: float = 25.0
    n_neighbors: int = 10
    color_weight: float = 1.0
    kernel: Kernel = "power"
    power: float = 2.0
    reference_compat: bool = False

    def __post_init__(self) -> None:
        positive(self.step_um, "step_um")
        positive(self.n_neighbors, "n_neighbors", integer=True)
        positive(self.power, "power")
        one_of(self.kernel, get_args(Kernel), "kernel")
        if not isinstance(self.color_weight, (int, float)) or not 0 <= self.color_weight < np.inf:
            raise ValueError(f"color_weight is a number, zero or above, not {self.color_weight!r}.")
        if not isinstance(self.reference_compat, bool):
            raise TypeError(f"reference_compat is True or False, not {self.reference_compat!r}.")
