"""From locations to features that kernels are functions of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._training._spots import Projection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff._training._spots import TrainingSpots

# Of a block of features, in parts of the longest one: one that varies less would be blown up, and be far off in other sections.
_MIN_LENGTH = 0.1


@dataclass(frozen=True)
class Features:
    """From a location to what the mean is a function of.

    Attributes
    ----------
    projection
        Principal components of the own embedding and of the means over 9 and over 49 anchors.
    center, scale
        ``(3 k,)``: each component is centred, and each of the three blocks is scaled to mean square length 1 / 3, so that the
        surroundings, whose means vary less, weigh as much as the spot itself. A block that hardly varies is left out (its
        scale is infinite): the spots of a small section share their 49 anchors, and nothing can be learned from those.
    """

    projection: Projection
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, projection: Projection, values: np.ndarray, *, equal_blocks: bool = True) -> Features:
        """Scale the features ``(n, 3 k)`` of training spots; without ``equal_blocks`` all by one number."""
        center = values.mean(axis=0)
        if not equal_blocks:
            length = np.sqrt(np.square(values - center).sum(axis=1).mean())
            return cls(projection, center, np.full(values.shape[1], max(length, 1e-12)))
        blocks = np.stack(np.split(values - center, 3, axis=1))
        length = np.sqrt(3 * np.square(blocks).sum(axis=2).mean(axis=1))
        varies = length > _MIN_LENGTH * length.max()
        return cls(projection, center, np.repeat(np.where(varies, length, np.inf), values.shape[1] // 3))

    def alone(self) -> Features:
        """Return the features of the location without its surroundings, of the same mean square length."""
        scale = self.scale / np.sqrt(3)
        scale[len(scale) // 3 :] = np.inf
        return Features(self.projection, self.center, scale)

    def at(self, section: Section, locations: Locations) -> np.ndarray:
        """Return float64 ``(n, 3 k)``, of mean square length 1 on training spots."""
        return self.scaled(self.projection.features(section, locations))

    def of(self, spots: TrainingSpots) -> np.ndarray:
        """Return those of training spots, ``(n, 3 k)``."""
        return self.scaled(spots.features(self.projection))

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Scale what ``projection`` gave."""
        return (values - self.center) / self.scale

    def state(self) -> State:
        """Return arrays and plain settings."""
        of = self.projection
        arrays = {"center": of.center, "scale": of.scale, "axes": of.axes}
        arrays |= {"feature_center": self.center, "feature_scale": self.scale}
        return arrays, {"scaling": of.scaling, "pitch_um": of.pitch_um}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Features:
        """Rebuild what ``state`` described."""
        projection = Projection(
            settings["scaling"], settings["pitch_um"], arrays["center"], arrays["scale"], arrays["axes"]
        )
        return cls(projection, arrays["feature_center"], arrays["feature_scale"])
