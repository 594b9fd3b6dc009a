"""Modules of genes: directions of expression that many genes share.

Counting noise is independent between genes, so that a score over thousands of single genes is mostly the score of that
noise, the same for every prediction. A projection on a direction that many genes share averages it out, and what is left
tells predictions apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from hisdiff._stats._structure import normalize_library_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scipy.sparse import csr_matrix

N_MODULES = 8
# Spots from which modules are found; more do not move eight of them.
_MAX_SPOTS = 2000
# A gene whose sd, or an axis whose singular value, is below this part of the largest is rounding.
_RANK = 1e-6


@dataclass(frozen=True)
class GeneModules:
    """The leading modules of a cohort, as weights of its genes.

    Attributes
    ----------
    raw
        ``(G, K)``: values of log2(1 + count), times these weights, have unit variance over a section of the cohort.
    normalized
        ``(G, K)``, the same for spots that were scaled to one total count first.
    """

    raw: np.ndarray
    normalized: np.ndarray

    @classmethod
    def fit(cls, measured: np.ndarray, section: np.ndarray, n: int = N_MODULES) -> GeneModules:
        """Find the modules of a cohort.

        Parameters
        ----------
        measured
            ``(n, G)``, log2(1 + count) at the cohort's spots.
        section
            ``(n,)`` section of each spot. Modules are what varies inside sections: differences between sections are
            batches and patients, which would take the first places.
        n
            How many; fewer where the cohort has fewer directions.
        """
        flat = np.empty(measured.shape)
        for name in np.unique(section):
            flat[section == name] = normalize_library_size(measured[section == name])
        return cls(_axes(measured, section, n), _axes(flat, section, n))

    @classmethod
    def of_counts(cls, sections: Sequence[csr_matrix]) -> GeneModules:
        """Find the modules from raw counts ``(n_s, G)`` of the sections of a cohort, at evenly spaced spots of them."""
        step = _step(sum(counts.shape[0] for counts in sections))
        measured = [np.log2(1 + counts[::step].toarray()) for counts in sections]
        section = np.repeat(np.arange(len(measured)), [len(part) for part in measured])
        return cls.fit(np.concatenate(measured), section)

    def take(self, columns: np.ndarray) -> GeneModules:
        """Return the modules on some of the genes, which have the part of each module that these genes have."""
        return GeneModules(self.raw[columns], self.normalized[columns])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays from which ``from_arrays`` makes the same."""
        return {"raw": self.raw, "normalized": self.normalized}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> GeneModules:
        """Read what ``arrays`` wrote."""
        return cls(arrays["raw"], arrays["normalized"])


def centered(values: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Subtract from each location the mean of its section: ``(..., n, K)`` with ``section`` ``(n,)``, float64."""
    result = np.array(values, dtype=np.float64)
    for name in np.unique(section):
        rows = section == name
        result[..., rows, :] -= result[..., rows, :].mean(axis=-2, keepdims=True)
    return result


def evenly(values: np.ndarray, section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return as many evenly spaced spots, ``(n, G)`` and their sections ``(n,)``, as modules are found from."""
    step = _step(len(values))
    return values[::step], section[::step]


def _step(n: int) -> int:
    return max(1, n // _MAX_SPOTS)


def _axes(values: np.ndarray, section: np.ndarray, n: int) -> np.ndarray:
    """Return principal axes of standardised values inside sections as weights ``(G, K)``, float32."""
    inside = centered(values, section)
    sd = inside.std(axis=0)
    varies = sd > _RANK * max(float(sd.max(initial=0)), _RANK)
    inside = inside[:, varies] / sd[varies]
    # The smaller Gram matrix has the same leading axes as a full decomposition, many times faster.
    tall = len(inside) >= inside.shape[1]
    gram = inside.T @ inside if tall else inside @ inside.T
    k = min(n, len(gram))
    weights = np.zeros((len(sd), 0))
    if k:
        values_, vectors = eigh(gram, subset_by_index=[len(gram) - k, len(gram) - 1])
        keep = np.flatnonzero(values_ > _RANK * values_[-1])[::-1]
        axes = vectors[:, keep] if tall else inside.T @ vectors[:, keep]
        axes = axes / (inside @ axes).std(axis=0)
        axes *= np.where(axes.sum(axis=0) < 0, -1, 1)  # of two equal axes, the one along which most genes rise
        weights = np.zeros((len(sd), len(keep)))
        weights[varies] = axes / sd[varies, None]
    return weights.astype(np.float32)
