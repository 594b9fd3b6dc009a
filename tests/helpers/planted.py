"""Cohorts of a known law: sections that differ in the level of every gene and in their relation to the features."""

import numpy as np
from scipy.sparse import csr_matrix

from hisdiff._section import FeatureSpec, Locations, Section
from hisdiff._stats._counting import count_rate

GENES = np.array([f"G{i}" for i in range(40)])
SIDE, D = 8, 6


class Table:
    """Features of locations by their position."""

    spec = FeatureSpec("planted", "1", D, 1.0, 300.0)

    def __init__(self, xy, values):
        self.rows = {tuple(p): v for p, v in zip(xy, values)}
        self.mean, self.std = values.mean(axis=0), values.std(axis=0)

    def at(self, locations):
        return np.stack([self.rows[tuple(p)] for p in locations.xy_um]).astype(np.float32)


def planted_cohort(seed, n, *, steeper=1.0, away=1.0):
    """Sections that differ in the level of every gene and in their relation to the features.

    The last one is of another patient: what features tell is ``steeper``, and its levels differ by ``away`` times as much.
    """
    rng = np.random.default_rng(seed)
    directions, slopes = rng.normal(size=(3, len(GENES))) * 0.6, rng.normal(size=(D, 3)) / np.sqrt(D)
    base, loadings = rng.uniform(3, 7, len(GENES)), rng.normal(size=(2, len(GENES))) * 0.4
    xy = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2) * 200.0
    sections = []
    for i in range(n):
        values = rng.normal(size=(len(xy), D))
        steep, far = (steeper, away) if i == n - 1 else (1.0, 1.0)
        own = steep * slopes + 0.35 * rng.normal(size=slopes.shape) / np.sqrt(D)
        level = far * 0.3 * rng.normal(size=len(GENES)) + rng.normal(size=(len(xy), 2)) @ loadings
        counts = rng.poisson(count_rate(np.maximum(base + values @ own @ directions + level, 0)))
        made = Section(f"S{i}", GENES, csr_matrix(counts), Locations(xy, 50.0), None, Table(xy, values))
        sections.append(made.with_panel(GENES))
    return sections
