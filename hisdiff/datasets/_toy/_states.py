"""States of the toy tissue that nothing shows, and the law of expression given the image that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff.datasets._toy._genes import CELL_COUNTS, MASS, PROGRAMME_SEED, TRUTH_UM, Programmes, Truth
from hisdiff.datasets._toy._tissue import CELL_TYPES, smooth_noise

if TYPE_CHECKING:
    from numpy.random import Generator

STATES = ("clone", "active", "gradient")
"""The subclone of tumour cells (0 or 1), whether immune cells are active (0 or 1), and what stroma follows (mean 0, sd 1)."""
_SCALES_UM = {"clone": 90.0, "active": 70.0, "gradient": 160.0, "hidden": 130.0}
"""Over which the fields behind the states are smooth; a region is some four times as wide."""
_SHARES = {"clone": 0.4, "active": 0.4}
"""Part of the tissue in state 1."""


@dataclass(frozen=True)
class Effects:
    """Log change of expression ``(G,)`` by a state, in the cells of one type only.

    The clone changes tumour cells, activation immune cells, the gradient stroma.
    """

    clone: np.ndarray
    active: np.ndarray
    gradient: np.ndarray

    @classmethod
    def of(cls, programmes: Programmes) -> Effects:
        """Return those of the genes of every toy tissue."""
        rng = np.random.default_rng(PROGRAMME_SEED + 1)
        n = len(programmes.names)

        def change(names: tuple[str, ...], low: float, high: float) -> np.ndarray:
            size = rng.uniform(low, high, n) * rng.choice([-1, 1], n)
            return np.where(np.isin(programmes.programme, names), size, 0)

        return cls(change(("TUM", "PRO"), 0.5, 1.2), change(("IMM",), 0.8, 1.6), change(("STR",), 0.3, 0.6))


@dataclass(frozen=True)
class Law:
    """The law of expression given the image: all that the image may show is given, states and hidden field are random.

    Attributes
    ----------
    shape, row, col
        Grid of the truth, and its bins inside the tissue.
    cells
        ``(n, 4)`` number of cells of each type in each bin.
    grade
        ``(n,)`` how malignant the tumour looks.
    programmes, size_factor
        Genes, and library size relative to that of the first section.
    """

    shape: tuple[int, int]
    row: np.ndarray
    col: np.ndarray
    cells: np.ndarray
    grade: np.ndarray
    programmes: Programmes
    size_factor: float

    def draw(self, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return one draw of states ``(n, 3)``, hidden field ``(n, 1)`` and expected counts ``(n, G)``, float32."""
        fields = {name: smooth_noise(rng, self.shape, um / TRUTH_UM) for name, um in _SCALES_UM.items()}
        for name, share in _SHARES.items():
            fields[name] = (fields[name] > np.quantile(fields[name], 1 - share)).astype(np.float32)
        states = np.stack([fields[name][self.row, self.col] for name in STATES], axis=1)
        hidden = fields["hidden"][self.row, self.col][:, None]
        return states, hidden, self.expected(states, hidden)

    def expected(self, states: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Return expected counts of bins in given states."""
        programmes, effects = self.programmes, Effects.of(self.programmes)
        change = {
            "tumour": states[:, :1] * effects.clone - _mean_change(effects.clone, _SHARES["clone"]),
            "immune": states[:, 1:2] * effects.active - _mean_change(effects.active, _SHARES["active"]),
            "stroma": states[:, 2:] * effects.gradient - np.square(effects.gradient) / 2,
        }
        per_cell = CELL_COUNTS * self.size_factor / programmes.loading[0].sum()
        expected = np.full((len(self.cells), 1), TRUTH_UM**2) * programmes.loading[-1]
        for kind, cells, loading in zip(CELL_TYPES, self.cells.T, programmes.loading):
            rate = cells[:, None] * (MASS[kind] * loading)
            expected = expected + (rate * np.exp(change[kind]) if kind in change else rate)
        of_hidden = programmes.hidden[0]
        common = self.grade[:, None] * programmes.grade + hidden * of_hidden
        common -= (np.square(programmes.grade) + np.square(of_hidden)) / 2
        return (per_cell * expected * np.exp(common)).astype(np.float32)

    def truth(self, rng: Generator) -> Truth:
        """Return a section in one draw of its states."""
        states, hidden, expected = self.draw(rng)
        nuclei = self.cells.sum(axis=1, keepdims=True)
        composition = (self.cells / np.where(nuclei > 0, nuclei, 1)).astype(np.float32)
        return Truth(self.shape, self.row, self.col, expected, composition, hidden, states)


def _mean_change(effect: np.ndarray, share: float) -> np.ndarray:
    """Return log E exp(state effect): states change how expression is spread, not its mean."""
    return np.log(1 - share + share * np.exp(effect))
