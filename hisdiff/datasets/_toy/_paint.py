"""Paint the toy tissue as haematoxylin and eosin would stain it: optical densities, then light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from hisdiff.datasets._toy._tissue import BASE_UM, Cells, Tissue, enlarge, smooth_noise

if TYPE_CHECKING:
    from numpy.random import Generator

FIBRE_UM = 1.0
VACUOLE_UM = 2.0
BAND = 256


@dataclass(frozen=True)
class Stain:
    """How a section was stained and scanned: optical density per unit of each stain in red, green, blue; white level."""

    haematoxylin: tuple[float, float, float] = (0.62, 0.70, 0.33)
    eosin: tuple[float, float, float] = (0.10, 0.78, 0.30)
    white: tuple[float, float, float] = (243.0, 241.0, 244.0)

    def shifted(self, rng: Generator) -> Stain:
        """Return what another batch of dyes and another scanner make of it."""
        shift = lambda color, strength: tuple(  # noqa: E731
            np.array(color) * np.exp(strength + rng.normal(0, 0.06, 3))
        )
        strengths = rng.choice([-1, 1], 2) * rng.uniform(0.08, 0.25, 2)
        white = tuple(np.array(self.white) - rng.uniform(0, 12, 3))
        return Stain(shift(self.haematoxylin, strengths[0]), shift(self.eosin, strengths[1]), white)


def paint(rng: Generator, tissue: Tissue, mpp: float, stain: Stain) -> np.ndarray:
    """Return the section as uint8 ``(3, y, x)``."""
    n = round(tissue.size_um / mpp)
    shape = (n, n)
    layout = tissue.nest.shape
    fine = (round(tissue.size_um),) * 2  # one value per micrometre
    fields = {
        "fibres": _fibres(rng, tissue),
        "loose": smooth_noise(rng, layout, 50 / BASE_UM),
        "cleft": smooth_noise(rng, layout, 30 / BASE_UM),
        "vacuole": _vacuoles(tissue),
        "inside": tissue.inside,
        "nest": tissue.nest,
        "fat": tissue.fat,
        "aggregate": tissue.aggregate,
    }
    grain, wobble = (enlarge(smooth_noise(rng, fine, scale), shape) for scale in (0.9, 1.8))
    nuclei, fat_nuclei = np.zeros((2, n * n), dtype=np.float32)
    for kind in ("tumour", "stroma", "immune"):
        _add_nuclei(nuclei, rng, tissue.cells[kind], mpp, n, _LOOKS[kind], wobble, grain)
    _add_nuclei(fat_nuclei, rng, _fat_nuclei(rng, tissue.cells["fat"]), mpp, n, _LOOKS["fat"], wobble, grain)

    pixels = np.empty((3, n, n), dtype=np.uint8)
    for top in range(0, n, BAND):  # band by band, which stays in the cache
        rows = slice(top, min(top + BAND, n))
        here = {name: enlarge(field, shape, rows) for name, field in fields.items()}
        flat = slice(rows.start * n, rows.stop * n)
        haematoxylin, eosin = _densities(
            here, grain[rows], nuclei[flat].reshape(-1, n), fat_nuclei[flat].reshape(-1, n)
        )
        sensor = rng.standard_normal(eosin.shape, dtype=np.float32)
        for channel in range(3):
            density = haematoxylin * np.float32(stain.haematoxylin[channel])
            density += eosin * np.float32(stain.eosin[channel])
            light = np.exp(-1.15 * density) * np.float32(stain.white[channel])
            light += np.float32(1.3) * np.roll(sensor, channel * 7)
            pixels[channel, rows] = np.clip(light + np.float32(0.5), 0, 255)
    return pixels


def _densities(
    here: dict[str, np.ndarray], grain: np.ndarray, nuclei: np.ndarray, fat_nuclei: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the densities of haematoxylin and eosin: stroma first, and over it what lies on or in it."""

    def inside(name: str, edge: float) -> np.ndarray:
        return np.clip(0.5 + here[name] / np.float32(edge), 0, 1)

    fibres, loose = here["fibres"], here["loose"]
    eosin = (0.40 + 0.11 * fibres) * (1 + 0.16 * loose)
    eosin *= np.clip(2.1 + 0.5 * loose + fibres, 0.25, 1)  # gaps between fibre bundles, wider where they are loose
    haematoxylin = 0.035 + 0.01 * fibres

    def cover(where: np.ndarray, with_eosin: np.ndarray | float, with_haematoxylin: np.ndarray | float) -> None:
        nonlocal eosin, haematoxylin
        eosin += where * (with_eosin - eosin)
        haematoxylin += where * (with_haematoxylin - haematoxylin)

    in_aggregate, in_vacuole = inside("aggregate", 0.4), inside("vacuole", 1.6)
    cover(inside("nest", 0.12), 0.33 + 0.05 * grain, 0.14 + 0.03 * grain)
    cover(0.8 * in_aggregate, 0.20 + 0.04 * grain, 0.10 + 0.02 * grain)
    # Nests retract from the stroma: a pale cleft follows some of their border.
    width = np.clip(0.12 * (here["cleft"] - 0.5), 0.001, 0.15)
    along = np.clip(width / 0.03, 0, 1) * (1 - in_aggregate)
    cover(np.clip(1.2 - np.abs(here["nest"] + width) / width, 0, 1) * along, 0.03, 0.0)
    cover(inside("fat", 0.15), 0.36 + 0.03 * grain, 0.05)
    cover(in_vacuole, 0.012, 0.0)

    stacked = nuclei * (1 - in_vacuole) + fat_nuclei
    stacked = 1.3 * (1 - np.exp(-stacked / 1.3))  # nuclei on top of each other darken less and less
    eosin *= 1 - 0.55 * np.clip(2 * stacked, 0, 1)
    present = inside("inside", 0.1)
    return (haematoxylin + stacked) * present, eosin * present


@dataclass(frozen=True)
class _Look:
    """Appearance of nuclei: optical density, how pale the middle is, whether nucleoli show, sharpness of the edge."""

    density: float
    pale: float
    nucleoli: float
    reach_um: float


_LOOKS = {
    "tumour": _Look(density=1.1, pale=0.5, nucleoli=0.7, reach_um=8.5),
    "stroma": _Look(density=0.95, pale=0.1, nucleoli=0.0, reach_um=8.5),
    "immune": _Look(density=1.6, pale=0.05, nucleoli=0.0, reach_um=4.0),
    "fat": _Look(density=0.9, pale=0.0, nucleoli=0.0, reach_um=5.5),
}


def _add_nuclei(
    canvas: np.ndarray,
    rng: Generator,
    cells: Cells,
    mpp: float,
    n: int,
    look: _Look,
    wobble: np.ndarray,
    grain: np.ndarray,
) -> None:
    """Add the optical density of nuclei to a flat canvas of ``n * n`` pixels."""
    reach = int(np.ceil(look.reach_um / mpp))
    step = np.arange(-reach, reach + 1, dtype=np.float32)
    density = (look.density * np.exp(rng.normal(0, 0.14, len(cells.xy)))).astype(np.float32)
    nucleolus = rng.uniform(-0.45, 0.45, (len(cells.xy), 2)).astype(np.float32)
    batch = max(1, 2_000_000 // step.size**2)
    for first in range(0, len(cells.xy), batch):
        rows = slice(first, first + batch)
        center = cells.xy[rows] / mpp
        corner = np.floor(center).astype(int)
        x = corner[:, 0, None] + step.astype(int)
        y = corner[:, 1, None] + step.astype(int)
        dx = ((x + 0.5 - center[:, 0, None]) * mpp).astype(np.float32)[:, None, :]
        dy = ((y + 0.5 - center[:, 1, None]) * mpp).astype(np.float32)[:, :, None]
        cos, sin = (f(cells.angle[rows]).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        long, short = (cells.axes[rows, i].astype(np.float32)[:, None, None] for i in (0, 1))
        u = (dx * cos + dy * sin) / long
        v = (dy * cos - dx * sin) / short
        square = u**2 + v**2
        which, row, col = np.nonzero(square < 1.7)
        inside = (x[which, col] >= 0) & (x[which, col] < n) & (y[which, row] >= 0) & (y[which, row] < n)
        which, row, col = which[inside], row[inside], col[inside]
        pixel = y[which, row] * n + x[which, col]
        u, v, q2 = u[which, row, col], v[which, row, col], square[which, row, col]
        q = np.sqrt(q2) * (1 + 0.1 * wobble.ravel()[pixel])
        # The edge is as wide as the optics make it, about half a micrometre, for nuclei of any size.
        edge = 0.9 / cells.axes[rows, 1].astype(np.float32)[which]
        value = np.clip((1 - q) / edge + 0.5, 0, 1) * (1 - look.pale * np.clip(1 - q2, 0, 1))
        value *= 1 + 0.22 * grain.ravel()[pixel]
        if look.nucleoli:
            at = nucleolus[rows][which]
            value += look.nucleoli * np.exp(-((u - at[:, 0]) ** 2 + (v - at[:, 1]) ** 2) / 0.03)
        np.add.at(canvas, pixel, value * density[rows][which])


def _fibres(rng: Generator, tissue: Tissue) -> np.ndarray:
    """Return a fibre texture of sd 1 on a grid of ``FIBRE_UM``: noise summed along the fibres, where they show."""
    n = round(tissue.size_um / FIBRE_UM)
    noise = smooth_noise(rng, (n, n), 0.8).ravel()
    # cos and sin are interpolated, not the angle, which jumps.
    cos, sin = (enlarge(f(tissue.angle), (n, n)).ravel() for f in (np.cos, np.sin))
    shown = np.minimum(tissue.inside + 0.3, np.minimum(0.2 - tissue.nest, 0.3 - tissue.fat)) > 0
    start = np.flatnonzero(np.kron(shown, np.ones((round(BASE_UM / FIBRE_UM),) * 2, dtype=bool)))
    total = noise[start]
    for sense in (-1.0, 1.0):
        at: np.ndarray = start
        x, y = (start % n).astype(np.float32), (start // n).astype(np.float32)
        for _ in range(8):
            x += np.float32(sense * 2.2) * cos[at]
            y += np.float32(sense * 2.2) * sin[at]
            np.clip(x, 0, n - 1, out=x)
            np.clip(y, 0, n - 1, out=y)
            at = y.astype(np.int32) * n + x.astype(np.int32)
            total += noise[at]
    texture = np.zeros(n * n, dtype=np.float32)
    texture[start] = total / max(float(total.std()), 1e-6)
    return texture.reshape(n, n)


def _vacuoles(tissue: Tissue) -> np.ndarray:
    """Return how deep each point of a grid of ``VACUOLE_UM`` lies in a vacuole, in um; negative outside all."""
    n = round(tissue.size_um / VACUOLE_UM)
    depth = np.full((n, n), -10, dtype=np.float32)
    centers, radius = tissue.cells["fat"].xy, tissue.cells["fat"].axes[:, 0]
    row, col = np.nonzero(enlarge(tissue.fat, (n, n)) > -1)
    if len(centers) < 2 or len(row) == 0:
        return depth
    points = np.stack([col + 0.5, row + 0.5], axis=1) * VACUOLE_UM
    distance, near = cKDTree(centers).query(points, k=2)
    wall, rim = (distance[:, 1] - distance[:, 0]) / 2, radius[near[:, 0]] - distance[:, 0]
    # A soft minimum rounds the corners where three cells meet.
    depth[row, col] = np.clip(-3 * np.logaddexp(-wall / 3, -rim / 3) - 0.3, -10, 10)
    return depth


def _fat_nuclei(rng: Generator, fat: Cells) -> Cells:
    """Return the flat nuclei that fat cells have at their rim."""
    n = len(fat.xy)
    towards = rng.uniform(0, 2 * np.pi, n)
    at = fat.xy + 0.9 * fat.axes[:, :1] * np.stack([np.cos(towards), np.sin(towards)], axis=1)
    return Cells(at, np.stack([rng.uniform(3, 5, n), rng.uniform(1, 1.5, n)], axis=1), towards + np.pi / 2)
