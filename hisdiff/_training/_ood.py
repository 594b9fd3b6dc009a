"""What the training embeddings look like, so that a location unlike any of them can be flagged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._pca import column_scale, principal_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMPONENTS = 32
# More rows than this add nothing to 32 components and cost time.
_MAX_ROWS = 5000
# "Far outside": twice as far as all but one in a hundred training locations. Another section of the same tissue lies
# somewhat outside the training sections by its stain alone and is not to be flagged for that.
_QUANTILE = 0.99
_MARGIN = 2.0


@dataclass(frozen=True)
class EmbeddingDistribution:
    """A Gaussian in the leading principal components, and the usual distance from their plane.

    Attributes
    ----------
    center, scale
        ``(D,)`` mean and sd of the training embeddings.
    components
        ``(k, D)`` principal axes of the standardised embeddings.
    spread
        ``(k,)`` sd along them.
    rest
        ``()`` root mean square distance of the training embeddings from the plane of the components.
    threshold
        ``()`` distance beyond which a location is flagged.
    """

    center: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    spread: np.ndarray
    rest: np.ndarray
    threshold: np.ndarray

    @classmethod
    def fit(cls, embeddings: np.ndarray) -> EmbeddingDistribution:
        """Describe training embeddings, ``(n, D)``."""
        if len(embeddings) > _MAX_ROWS:
            rows = np.random.default_rng(0).choice(len(embeddings), _MAX_ROWS, replace=False)
            embeddings = embeddings[np.sort(rows)]
        values = np.asarray(embeddings, dtype=np.float64)
        center, scale = column_scale(values)
        # A sixth of the rows at most: with as many axes as rows every training location would lie equally far out.
        axes, spread = principal_axes((values - center) / scale, min(_COMPONENTS, len(values) // 6))
        components, spread = axes.T, np.maximum(spread, 1e-6)
        loose = cls(center, scale, components, spread, np.array(1.0), np.array(np.inf))
        off = loose._parts(values)[1]
        rest = max(float(np.sqrt(np.mean(off**2))), 1e-6)
        unscaled = cls(center, scale, components, spread, np.array(rest), np.array(np.inf))
        threshold = _MARGIN * float(np.quantile(unscaled.distance(values), _QUANTILE))
        return cls(center, scale, components, spread, np.array(rest), np.array(max(threshold, 1e-3)))

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the distance of embeddings ``(n, D)`` from the training embeddings, ``(n,)``; about 1 inside.

        Root mean square of the Mahalanobis distance per component and of the distance from the plane in units of its
        usual size: the second sees looks that the training tissue does not have at all.
        """
        along, off = self._parts(embeddings)
        return np.sqrt((np.mean(along**2, axis=1) + (off / self.rest) ** 2) / 2)

    def flag(self, embeddings: np.ndarray) -> np.ndarray:
        """Return which embeddings ``(n, D)`` lie far outside the training embeddings, bool ``(n,)``."""
        return ~(self.distance(embeddings) <= self.threshold)  # an embedding with NaN is far outside as well

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays from which ``from_arrays`` rebuilds the same object."""
        return asdict(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> EmbeddingDistribution:
        """Rebuild what ``arrays`` gave."""
        return cls(**arrays)

    def _parts(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        standard = (np.asarray(embeddings, dtype=np.float64) - self.center) / self.scale
        scores = standard @ self.components.T
        off = np.sqrt(np.maximum(np.sum(standard**2, axis=1) - np.sum(scores**2, axis=1), 0))
        return scores / self.spread, off
