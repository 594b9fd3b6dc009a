"""Where things are in the toy tissue: smooth fields, regions, and cells of four types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, sparse

if TYPE_CHECKING:
    from numpy.random import Generator

BASE_UM = 4.0
"""Pitch of the grid on which regions are laid out."""
CELL_TYPES = ("tumour", "stroma", "immune", "fat")


@dataclass(frozen=True)
class Cells:
    """Cells of one type: centres in um as (x, y), half axes in um, and the angle of the long one."""

    xy: np.ndarray
    axes: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class Tissue:
    """Layout of one section on a grid of ``BASE_UM``; every region is a signed field, positive inside, in sds or so.

    ``grade`` says how malignant the tumour looks (large, pale, loose nuclei), ``angle`` where fibres point to.
    """

    size_um: float
    inside: np.ndarray
    nest: np.ndarray
    fat: np.ndarray
    aggregate: np.ndarray
    grade: np.ndarray
    angle: np.ndarray
    cells: dict[str, Cells]


def smooth_noise(rng: Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Return Gaussian noise of mean 0 and sd 1, float32, smoothed over ``scale`` grid units."""
    down, right = (np.exp(-2 * (np.pi * scale * f) ** 2) for f in (fft.fftfreq(shape[0]), fft.rfftfreq(shape[1])))
    spectrum = fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    spectrum *= down[:, None].astype(np.float32)
    spectrum *= right.astype(np.float32)
    field = fft.irfft2(spectrum, shape)
    field -= field.mean()
    field /= field.std()
    return field


def enlarge(field: np.ndarray, shape: tuple[int, int], rows: slice = slice(None)) -> np.ndarray:
    """Return a field on a finer grid over the same area (or some rows of it), interpolated between the centers of its pixels."""
    down, right = (_interpolation(n, m) for n, m in zip(field.shape, shape))
    # Along x first: the second product then runs over whole rows of the large image.
    down = down[rows]
    first, last = down.indices.min(), down.indices.max() + 1
    wide = np.ascontiguousarray((right @ field[first:last].T).T, dtype=np.float32)
    return down[:, first:last] @ wide


def _interpolation(n: int, m: int) -> sparse.csr_matrix:
    """Return the ``(m, n)`` matrix that interpolates n pixel centers at m pixel centers."""
    at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), max(n - 2, 0))
    high = np.minimum(low + 1, n - 1)
    share = (at - low).astype(np.float32)
    row = np.arange(m)
    return sparse.csr_matrix(
        (np.concatenate([1 - share, share]), (np.concatenate([row, row]), np.concatenate([low, high]))), shape=(m, n)
    )


def at_points(field: np.ndarray, xy: np.ndarray, pitch_um: float) -> np.ndarray:
    """Return the values of a grid of ``pitch_um`` at points in um."""
    col, row = (np.clip((xy[:, i] / pitch_um).astype(int), 0, field.shape[1 - i] - 1) for i in (0, 1))
    return field[row, col]


def make_tissue(rng: Generator, size_um: float) -> Tissue:
    """Lay out one section of ``size_um`` a side."""
    n = round(size_um / BASE_UM)
    shape = (n, n)

    def noise(scale_um: float) -> np.ndarray:
        return smooth_noise(rng, shape, scale_um / BASE_UM)

    center = (np.arange(n) + 0.5) / n * 2 - 1
    radius = np.hypot(center[None] * rng.uniform(0.9, 1.1), center[:, None] * rng.uniform(0.9, 1.1))
    outline = 4 * (0.88 - radius) + 0.45 * noise(110) + 0.18 * noise(25)
    tears = 6 * (2.5 - noise(38))
    inside = np.minimum(outline, tears)

    nest = noise(26) + noise(110) - 0.3
    fat = 1.3 * noise(110) + 2.2 * radius**2 - 2.75
    nest -= 2 * np.clip(fat + 0.4, 0, None)
    aggregate = _aggregates(rng, n, nest, inside - np.clip(fat, 0, None)) + 0.25 * noise(14)
    # Fibres run in one direction that bends from place to place, without the whorls of a random field of directions.
    angle = (rng.uniform(0, np.pi) + 0.75 * noise(120) + 0.18 * noise(30)).astype(np.float32)
    grade = noise(130)
    regions = {"inside": inside, "nest": nest, "fat": fat, "aggregate": aggregate, "grade": grade, "angle": angle}
    return Tissue(size_um, **regions, cells=_place_cells(rng, size_um, **regions, tight=noise(60)))


def _aggregates(rng: Generator, n: int, nest: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Return a signed field of lymphocyte aggregates: bumps beside the nests."""
    field = np.full((n, n), -1.0, dtype=np.float32)
    rows, cols = np.nonzero((np.abs(nest + 0.5) < 0.3) & (room > 0.3))
    if len(rows) == 0:
        return field
    y, x = np.mgrid[:n, :n] * BASE_UM
    for i in rng.choice(len(rows), size=max(2, round((n * BASE_UM) ** 2 / 2.4e5))):
        radius = rng.uniform(35, 85)
        stretch, turn = rng.uniform(0.6, 1), rng.uniform(0, np.pi)
        dx, dy = x - cols[i] * BASE_UM, y - rows[i] * BASE_UM
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        np.maximum(field, 2 * (1 - np.hypot(u, v / stretch) / radius), out=field)
    return field


def _inside(field: np.ndarray, softness: float = 0.2) -> np.ndarray:
    return np.clip(0.5 + field / softness, 0, 1)


def _place_cells(
    rng: Generator,
    size_um: float,
    inside: np.ndarray,
    nest: np.ndarray,
    fat: np.ndarray,
    aggregate: np.ndarray,
    grade: np.ndarray,
    angle: np.ndarray,
    tight: np.ndarray,
) -> dict[str, Cells]:
    tissue, in_fat, in_aggregate = _inside(inside - 0.15), _inside(fat), _inside(aggregate)
    in_nest = _inside(nest) * (1 - in_aggregate) * (1 - in_fat)
    stroma = (1 - in_nest) * (1 - in_fat) * (1 - 0.85 * in_aggregate)
    # Share of the sites of a lattice that hold a cell, by type.
    occupancy = {
        "tumour": in_nest * np.clip(0.8 - 0.16 * grade + 0.08 * tight, 0.25, 0.97),
        "stroma": stroma * np.clip(0.55 + 0.3 * tight, 0.08, 1),
        "immune": np.clip(
            0.93 * in_aggregate + 0.35 * _inside(aggregate + 0.5, 1.0) + 0.07 * np.clip(tight, 0, 1.5) * stroma + 0.012,
            0,
            1,
        )
        * (1 - in_fat),
        "fat": in_fat,
    }
    spacing = {"tumour": 9.6, "stroma": 15.0, "immune": 6.9, "fat": 52.0}
    cells = {}
    for kind in CELL_TYPES:
        xy = _sites(rng, size_um, spacing[kind], jitter=0.3 if kind != "fat" else 0.22)
        xy = xy[rng.random(len(xy)) < at_points(occupancy[kind] * tissue, xy, BASE_UM)]
        axes, turn = _shapes(rng, kind, at_points(grade, xy, BASE_UM), at_points(angle, xy, BASE_UM))
        cells[kind] = Cells(xy, axes, turn)
    return cells


def _sites(rng: Generator, size_um: float, spacing: float, jitter: float) -> np.ndarray:
    """Return a jittered hexagonal lattice: random, and yet no two sites on top of each other."""
    rows = np.arange(0, size_um, spacing * np.sqrt(0.75))
    cols = np.arange(0, size_um, spacing)
    x = cols[None] + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    xy = np.stack([x, np.broadcast_to(rows[:, None], x.shape)], axis=-1).reshape(-1, 2)
    xy = xy + rng.uniform(-jitter, jitter, size=xy.shape) * spacing
    return xy[((xy >= 0) & (xy < size_um)).all(axis=1)]


def _shapes(rng: Generator, kind: str, grade: np.ndarray, fibre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return half axes and angles of nuclei; for fat, the radius of its one vacuole."""
    n = len(grade)
    free = rng.uniform(0, np.pi, n)
    if kind == "tumour":
        # Higher grade: larger nuclei, and less alike.
        size = 3.7 * np.exp(0.17 * np.clip(grade, -2, 2) + rng.normal(0, 0.09, n) * (1.5 + np.clip(grade, -1, 1.5)))
        long = np.exp(rng.uniform(0.02, 0.3, n))
        return np.clip(np.stack([size * long, size / long**0.6], axis=1), 2.2, 8), free
    if kind == "stroma":
        return np.stack([rng.uniform(4.5, 8, n), rng.uniform(1.1, 1.9, n)], axis=1), fibre + rng.normal(0, 0.22, n)
    if kind == "immune":
        size = rng.normal(2.75, 0.22, n)
        return np.stack([size * rng.uniform(1, 1.15, n), size], axis=1), free
    return np.broadcast_to(rng.uniform(27, 36, n)[:, None], (n, 2)), free
