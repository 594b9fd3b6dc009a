"""Small sections in which expression follows the embedding, with features known by position."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from hisdiff._section import FeatureSpec, Locations, Section

GENES = np.array([f"G{i}" for i in range(8)])
D = 6


class Table:
    """Features of locations by their position."""

    spec = FeatureSpec("fake", "1", D, 0.5, 100.0)

    def __init__(self, xy: np.ndarray, values: np.ndarray) -> None:
        self.rows = {tuple(p): v for p, v in zip(xy, values)}
        self.mean, self.std = values.mean(0), values.std(0)

    def at(self, locations: Locations) -> np.ndarray:
        return np.stack([self.rows[tuple(p)] for p in locations.xy_um]).astype(np.float32)


def linear_section(
    name: str, seed: int, side: int = 12, level: float = 4.0, stain: float = 0.0, hidden: float = 0.0
) -> Section:
    """Genes 0 to 5 follow the embedding and, by ``hidden``, a factor that it does not show; 6 is noise, 7 is absent."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * 200.0
    values = rng.normal(size=(len(xy), D))
    rates = np.zeros((len(xy), len(GENES)))
    rates[:, :6] = level + values @ np.random.default_rng(99).normal(size=(D, 6)) * 0.6
    if hidden:
        rates[:, :6] += hidden * rng.normal(size=(len(xy), 1)) * np.array([1, 1, 1, -1, -1, -1])
    rates[:, 6] = level
    counts = rng.poisson(np.exp2(rates))
    counts[:, 7] = 0
    made = Section(name, GENES, csr_matrix(counts), Locations(xy, 50.0), None, Table(xy, values + stain))
    return made.with_panel(GENES)


def log2(section: Section) -> np.ndarray:
    return np.log2(1 + section.counts.toarray())
