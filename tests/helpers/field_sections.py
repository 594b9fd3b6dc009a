"""Sections over a plane on which smooth fields decide expression, with dense features that show them at every place."""

from __future__ import annotations

import numpy as np
import shapely
from scipy.sparse import csr_matrix

from hisdiff._geometry._grid import bins_touching, overlap
from hisdiff._section import FeatureSpec, Locations, Section

GENES = np.array(["UP", "DOWN", "BOTH", "FLAT"])
RADIUS_UM = 27.5


class Plane:
    """Three fields with waves of 60 um and more: features of any place, averaged for patches."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._waves = rng.uniform(-1, 1, (3, 6, 2)) * 2 * np.pi / 60
        self._phases = rng.uniform(0, 2 * np.pi, (3, 6))
        self.spec = FeatureSpec("plane", "1", 3, 4.0, 8.0)
        self.mean, self.std = np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32)

    def values(self, xy_um: np.ndarray) -> np.ndarray:
        """Return ``(n, 3)``, of variance 1."""
        return np.sin(np.einsum("nd,fwd->nfw", xy_um, self._waves) + self._phases).sum(axis=2) / np.sqrt(3)

    def raster(self, box_um, resolution_um: float) -> np.ndarray:
        x0, y0, x1, y1 = box_um
        columns, rows = round((x1 - x0) / resolution_um), round((y1 - y0) / resolution_um)
        x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
        xy = np.stack([x, y], axis=-1).reshape(-1, 2) * resolution_um + [x0, y0]
        return self.values(xy).reshape(rows, columns, 3).astype(np.float32)

    def at(self, locations: Locations) -> np.ndarray:
        """Return the mean over a patch of 60 um around each location."""
        steps = np.stack(np.meshgrid([-20, 0, 20], [-20, 0, 20]), axis=-1).reshape(-1, 2)
        around = (locations.xy_um[:, None] + steps).reshape(-1, 2)
        return self.values(around).reshape(len(locations), 9, 3).mean(axis=1).astype(np.float32)

    def rates(self, xy_um: np.ndarray) -> np.ndarray:
        """Return expected counts of a footprint filled with tissue like that of a place, ``(n, G)``."""
        up, down, _ = self.values(xy_um).T
        relative = np.stack([1 + 0.6 * up, 1 - 0.6 * up, 1 + 0.4 * (up + down), np.ones_like(up)], axis=1)
        return 60 * np.maximum(relative, 0.05)


def field_section(name: str, seed: int, side: int = 10) -> Section:
    """Spots of 55 um at a pitch of 100 um, with Poisson counts."""
    plane = Plane(seed)
    xy = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) + 1.0) * 100
    spots = Locations(xy, RADIUS_UM)
    ij = bins_touching(spots, 5.0)
    share = overlap(spots, ij, 5.0) * 25 / (np.pi * RADIUS_UM**2)
    counts = np.random.default_rng(seed).poisson(share @ plane.rates((ij[:, ::-1] + 0.5) * 5.0))
    tissue = shapely.box(30, 30, (side + 1) * 100 - 30, (side + 1) * 100 - 30)
    made = Section(name, GENES, csr_matrix(counts), spots, None, plane, tissue, dense=plane)
    return made.with_panel(GENES)
