"""The sections a model was fitted on: what they have in common, and their spots known again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from hisdiff._section import FeatureSpec, Names
# Spots whose counts hold less look alike by chance: of a million spots, one in four thousand has a double at so many bits.
_IDENTIFYING_BITS = 32
# Share of known spots above which a section is a known one.
_SAME_SECTION = 0.01


@dataclass(frozen=True)
class Cohort:
    """The sections that a model was fitted on.

    Attributes
    ----------
    sections
        Their names.
    features
        Specification of their embedding, or None if the method needs none.
    licence, derivatives
        Licence of the encoder, and whether it permits sharing models trained on its embeddings (None: unknown).
    mpp
        Micrometres per pixel of each section's image.
    expression
        ``(G,)`` part of each gene in all counts, mean over sections; None in models of before it was kept.
    pitch_um, radius_um
        Median distance between spots, and their median radius.
    library_size
        Median of the sections' library sizes (the geometric mean of the middle two); NaN if unknown.
    spots
        uint64, one hash for each spot, by which sections are recognised, whole or cropped.
    symbols
        ``(G,)`` what readers call the genes of a panel of Ensembl ids; None where the panel is of symbols, or they are unknown.
    patients
        Number of the patient of each section, from 0 in order of appearance, without names, since models are shared; None where
        sections were left out and not patients.
    """

    sections: tuple[str, ...]
    features: FeatureSpec | None
    licence: str
    derivatives: bool | None
    mpp: tuple[float, ...]
    pitch_um: float
    radius_um: float
    library_size: float
    spots: np.ndarray = field(repr=False)
    expression: np.ndarray | None = field(default=None, repr=False)
    symbols: tuple[str, ...] | None = field(default=None, repr=False)
    patients: tuple[int, ...] | None = None

    def missing_factor(self, there: np.ndarray) -> float:
        """Return how many times larger the library size of the panel is than that of its genes that are ``there``, ``(G,)`` bool."""
        if self.expression is None or not self.expression[there].sum() > 0:
            return 1.0
        return float(1 / self.expression[there].sum())

    def contains(self, counts: csr_matrix, genes: Names) -> bool | None:
        """Whether spots of a section, with counts of the whole panel, are among those of the cohort; None: unknown."""
        return shares_spots(self.spots, counts, genes) if len(self.spots) else None


def spot_hashes(counts: csr_matrix, genes: Names) -> np.ndarray:
    """Return a hash of the counts of each spot that has any, uint64; the order of genes does not matter."""
    weights = np.array(
        [int.from_bytes(hashlib.blake2b(g.encode(), digest_size=8).digest(), "little") for g in genes], dtype=np.uint64
    )
    terms = counts.data.astype(np.uint64) * weights[counts.indices]
    sums = np.add.reduceat(np.append(terms, np.uint64(0)), np.minimum(counts.indptr[:-1], len(terms)))
    return sums[_counted(counts)]


def shares_spots(known: np.ndarray, counts: csr_matrix, genes: Names) -> bool | None:
    """Whether more than one in a hundred spots is among known ones, by their hashes; None: unknown.

    A spot without a match is new. A match counts only if the counts hold enough information that it is not due to chance,
    which is not the case with a handful of genes.
    """
    again = np.isin(spot_hashes(counts, genes), known)
    if not len(again):
        return None
    telling = _bits(counts)[_counted(counts)] >= _IDENTIFYING_BITS
    if telling.any() and float(again[telling].mean()) > _SAME_SECTION:
        return True
    if float(again.mean()) <= _SAME_SECTION or float(telling.mean()) >= 0.5:
        return False
    return None


def _counted(counts: csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel() > 0


def _bits(counts: csr_matrix) -> np.ndarray:
    """Return how unlikely it is that each spot has its double by chance, in bits.

    Two counts from one Poisson law of mean c are equal with probability 1 / sqrt(4 pi c), about.
    """
    counts = counts.copy()
    counts.eliminate_zeros()
    counts.data = 0.5 * np.log2(4 * np.pi * counts.data.astype(np.float64))
    return np.asarray(counts.sum(axis=1)).ravel()
