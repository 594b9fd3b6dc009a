"""How embeddings and expression are standardised for the `dit` model; expression as its library size demands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._pca import column_scale

if TYPE_CHECKING:
    from collections.abc import Mapping

OCTAVES = 5.0
"""How far below the library size of their section counts are thinned in training, log2."""
_STEP = 0.5
# A gene that is hardly ever seen at a low library size would otherwise have values of hundreds where it is.
_MIN_SD = 0.1


@dataclass(frozen=True)
class GeneScale:
    """Centre and spread of what a network takes and gives, all float32.

    Attributes
    ----------
    inputs
        ``(2, D)`` mean and sd of the training embeddings.
    log2_sizes
        ``(K,)`` library sizes, log2 of the median total count over the panel, increasing and evenly spaced.
    targets
        ``(2, K, G)`` mean and sd of log2(1 + count) of the training spots, brought to each library size.
    """

    inputs: np.ndarray
    log2_sizes: np.ndarray
    targets: np.ndarray

    @classmethod
    def fit(cls, inputs: np.ndarray, counts: np.ndarray, log2_size: np.ndarray) -> GeneScale:
        """Measure training spots.

        Parameters
        ----------
        inputs
            ``(n, D)`` embeddings.
        counts
            ``(n, G)``.
        log2_size
            ``(n,)`` library size of each spot's section.
        """
        low, high = float(log2_size.min()) - OCTAVES, float(log2_size.max())
        log2_sizes = np.linspace(low, high, 1 + int(np.ceil((high - low) / _STEP)))
        levels = [column_scale(np.log2(1 + counts_at(counts, log2_size, wanted))) for wanted in log2_sizes]
        center, scale = (np.stack(values) for values in zip(*levels))
        targets = np.stack([center, np.maximum(scale, _MIN_SD)])
        return cls(*(a.astype(np.float32) for a in (np.stack(column_scale(inputs)), log2_sizes, targets)))

    @classmethod
    def identity(cls, embedding_dim: int, n_genes: int) -> GeneScale:
        """Leave both as they are, at any library size."""
        inputs, targets = (np.stack([np.zeros(n), np.ones(n)]).astype(np.float32) for n in (embedding_dim, n_genes))
        return cls(inputs, np.zeros(1, dtype=np.float32), targets[:, None])

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """Standardise embeddings ``(n, D)``."""
        center, scale = self.inputs
        return (values - center) / scale

    def inside(self, log2_size: float) -> float:
        """Return the nearest library size that was measured."""
        return float(np.clip(log2_size, self.log2_sizes[0], self.log2_sizes[-1]))

    def at(self, log2_size: float) -> tuple[np.ndarray, np.ndarray]:
        """Return centre and spread of each gene at a library size, ``(G,)`` each."""
        place = np.interp(log2_size, self.log2_sizes, np.arange(len(self.log2_sizes)))
        low = min(int(place), len(self.log2_sizes) - 1)
        high, share = min(low + 1, len(self.log2_sizes) - 1), np.float32(place - low)
        center, scale = self.targets[:, low] * (1 - share) + self.targets[:, high] * share
        return center, scale

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays."""
        return {"scale/inputs": self.inputs, "scale/library sizes": self.log2_sizes, "scale/targets": self.targets}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> GeneScale:
        """Rebuild what ``state`` described."""
        return cls(arrays["scale/inputs"], arrays["scale/library sizes"], arrays["scale/targets"])


def counts_at(counts: np.ndarray, log2_size: np.ndarray, wanted: float) -> np.ndarray:
    """Bring counts ``(n, G)`` of sections of some library size ``(n,)`` to one library size: thinned where lower, scaled where higher."""
    shift = (wanted - log2_size)[:, None]
    thinned = np.random.default_rng(0).binomial(counts.astype(np.int64), np.exp2(np.minimum(shift, 0)))
    return thinned * np.exp2(np.maximum(shift, 0))
