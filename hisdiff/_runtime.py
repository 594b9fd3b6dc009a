"""How a call runs: what decides how it is computed, not what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hisdiff._check import positive, seed_of
from hisdiff._device import resolve_device

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Runtime:
    """Device, batches, progress and seed of one call of a public function; made once and passed on as it is.

    Attributes
    ----------
    device
        Name of a device, or None for the package's setting.
    batch_size
        Patches per call of an encoder, or None for its own choice.
    progress
        Whether progress bars are shown, or None for the package's setting.
    seed
        Seed of all that is random.
    """

    device: str | None = None
    batch_size: int | None = None
    progress: bool | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        *,
        device: str | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
        rng: int | np.random.Generator = 0,
    ) -> Runtime:
        """Check what a caller gave; a Generator is drained once to one integer."""
        if device is not None:
            resolve_device(device)
        if batch_size is not None:
            batch_size = positive(batch_size, "batch_size", integer=True)
        return cls(device, batch_size, progress, seed_of(rng))
