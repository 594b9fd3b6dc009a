"""What a method learns about itself from out-of-fold predictions: accuracy, and how wide its intervals must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from hisdiff._keys import LOG2
from hisdiff._section import needed
from hisdiff._stats._accuracy import pearson
from hisdiff._stats._proper import LEVEL, coverage_of
from hisdiff._stats._structure import normalize_library_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hisdiff._section import Prediction, Section

_LOWEST, _HIGHEST = 0.4, 8.0
_SHAPES = (0.1, 100.0)
_TURNS = 3
_TOP = 30.0  # log2 of more counts than a gene can have
# Halvings of the range of log k_g: to less than one in a thousand.
_HALVINGS = 12
# Sampling variance of log k_g is about this over n: an interval end is a quantile, var(quantile) = p (1 - p) / (n f^2)
# with p = .9 and f k = .34 the density of |z| at the end of a normal 90 % interval, times its place.
_LOG_VARIANCE = LEVEL * (1 - LEVEL) / 0.34**2
# Enough spots: their sampling error of 2 % is below the differences between sections.
_MAX_ROWS = 2000
# With thousands of genes fewer do, since genes are correlated.
_MAX_VALUES, _MIN_ROWS = 2_000_000, 500


class Predicts(Protocol):
    """A fitted method, as far as it is evaluated here."""

    @property
    def predict(self) -> Callable[..., Prediction]:
        """Predict at locations; see ``hisdiff.methods.Fitted``."""


class Dispersion(NamedTuple):
    """How far counts scatter around predictions beyond counting noise: by factors of mean 1 with Gamma distributions.

    Attributes
    ----------
    gene
        ``(G,)`` shape of the factor that every gene has of its own at every spot.
    spot
        Shape of the factor that all genes of a spot share: how much of its tissue was caught.
    """

    gene: np.ndarray
    spot: np.ndarray

    @classmethod
    def from_counts(cls, counts: np.ndarray, predicted: np.ndarray) -> Dispersion:
        """Return how counts scatter around predictions, by the moments of gamma-Poisson distributions.

        One factor per gene first makes the two agree in total, since an offset is not dispersion. What the genes of a
        spot share and what each has of its own are found in turns, since either is seen only once the other is accounted
        for.

        Parameters
        ----------
        counts, predicted
            ``(n, G)``, measured, and predicted out of fold.
        """
        total = predicted.sum(axis=0)
        mean = predicted * (counts.sum(axis=0) / np.where(total > 0, total, 1))
        dispersion = cls(gene=_shape(counts, mean), spot=np.asarray(_SHAPES[1]))
        for _ in range(_TURNS):
            counted, expected = dispersion.pooled(counts, mean)
            spot = _shape(counted, expected)
            shared = ((counted + spot) / (expected + spot))[:, None]
            dispersion = cls(gene=_shape(counts, shared * mean), spot=spot)
        return dispersion

    def pooled(self, counts: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pooled count and prediction of all genes of a spot, which determine their shared factor, ``(n,)`` each.

        Every gene has the weight of its prediction over the variance m + m^2 / a of its count, so that the sum has the
        variance of a Poisson count.
        """
        weight = 1 / (1 + predicted / self.gene)
        return (weight * counts).sum(axis=1), (weight * predicted).sum(axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays from which ``from_arrays`` makes the same."""
        return {f"dispersion.{name}": array for name, array in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Dispersion | None:
        """Read what ``arrays`` wrote among others; None where it is not there."""
        names = [f"dispersion.{name}" for name in cls._fields]
        return cls(*(arrays[name] for name in names)) if names[0] in arrays else None


@dataclass(frozen=True)
class Calibration:
    """Accuracy and interval factors of a fitted method, measured on left-out training tissue.

    Attributes
    ----------
    cv_pcc
        ``(G,)`` out-of-fold Pearson correlation of each gene.
    cv_pcc_norm
        The same after every spot was scaled to one total count; None where that is not known.
    interval_factor
        ``(G,)`` factor k_g of the 90 % interval ``max(0, mean +- k_g sd)``.
    dispersion
        Of counts around predictions; None where that is not known.
    """

    cv_pcc: np.ndarray
    interval_factor: np.ndarray
    dispersion: Dispersion | None = None
    cv_pcc_norm: np.ndarray | None = None

    @classmethod
    def from_held_out(
        cls, measured: np.ndarray, mean: np.ndarray, std: np.ndarray, sections: np.ndarray
    ) -> Calibration:
        """Summarise out-of-fold predictions.

        Parameters
        ----------
        measured
            ``(n, G)``, log2(1 + count) at training spots.
        mean, std
            ``(n, G)``, predicted for the same spots by fits that had not seen them, from at least two draws.
        sections
            ``(n,)`` section of each spot.
        """
        some = slice(None, None, max(1, len(measured) // _MAX_ROWS))
        counts, predicted = (
            np.exp2(np.clip(values[some], 0, _TOP), dtype=np.float64) - 1 for values in (measured, mean)
        )
        return cls(
            cv_pcc=cv_pcc_of(measured, mean, sections),
            cv_pcc_norm=cv_pcc_of(measured, mean, sections, normalize_library_size),
            interval_factor=interval_factor(measured, mean, std),
            dispersion=Dispersion.from_counts(counts, predicted),
        )

    @classmethod
    def from_sections(
        cls, fitted: Predicts, sections: Sequence[Section], *, n_draws: int, seed: int = 0, device: str | None = None
    ) -> Calibration:
        """Predict the spots of sections with counts that the fit has not seen, and summarise."""
        predictions = [
            fitted.predict(s, needed(s.spots), n_draws=n_draws, units=LOG2, seed=seed, device=device) for s in sections
        ]
        return cls.from_held_out(
            np.concatenate([np.log2(1 + needed(s.counts).toarray()) for s in sections]),
            np.concatenate([p.mean for p in predictions]),
            np.concatenate([p.std for p in predictions]),
            np.repeat(np.arange(len(sections)), [len(needed(s.spots)) for s in sections]),
        )

    @classmethod
    def from_values(cls, measured: np.ndarray, mean: np.ndarray, sections: np.ndarray) -> Calibration:
        """Summarise out-of-fold predictions of a method that gives one value: without a spread there is no interval (NaN)."""
        return cls(cv_pcc_of(measured, mean, sections), interval_factor=np.full(measured.shape[1], np.nan))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, float64, from which ``from_arrays`` makes the same."""
        own = {"cv_pcc": self.cv_pcc, "interval_factor": self.interval_factor}
        if self.cv_pcc_norm is not None:
            own["cv_pcc_norm"] = self.cv_pcc_norm
        named = own if self.dispersion is None else own | self.dispersion.arrays()
        return {name: np.asarray(array, dtype=np.float64) for name, array in named.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Calibration:
        """Read what ``arrays`` wrote."""
        dispersion = Dispersion.from_arrays(arrays)
        return cls(arrays["cv_pcc"], arrays["interval_factor"], dispersion, arrays.get("cv_pcc_norm"))


def cv_pcc_of(
    measured: np.ndarray,
    mean: np.ndarray,
    sections: np.ndarray,
    scaled: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> np.ndarray:
    """Return the correlation of each gene, ``(G,)``; the arguments are those of ``Calibration.from_held_out``.

    Correlations are taken inside sections and averaged, weighted by spots, since differences between sections are no
    skill. The values of a section are ``scaled`` first.
    """
    names, index = np.unique(sections, return_inverse=True)
    correlations = np.stack(
        [pearson(scaled(measured[index == i]), scaled(mean[index == i])) for i in range(len(names))]
    )
    weights = np.where(np.isfinite(correlations), np.bincount(index)[:, None], 0)
    total = weights.sum(axis=0)
    return np.where(total > 0, (weights * np.nan_to_num(correlations)).sum(axis=0) / np.maximum(total, 1), np.nan)


def _shape(counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the shape a for which counts have the variance m + m^2 / a around m, over the first axis.

    Bounded, as a gene that follows its prediction more closely than counting allows, or not at all, determines a poorly.
    """
    excess = np.square(counts - mean).sum(axis=0) - mean.sum(axis=0)
    return np.clip(np.square(mean).sum(axis=0) / np.maximum(excess, 1e-12), *_SHAPES)


def interval_factor(measured: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the factor k_g of each gene for which max(0, mean -+ k_g sd) covers 90 % of the measured counts, ``(G,)``.

    Coverage is that of the randomised PIT (``hisdiff._stats._proper.coverage``). A factor from few spots is uncertain,
    so the logarithm of each gene's own is drawn towards that of all genes together, as far as their spread is no more
    than sampling would give (empirical Bayes).

    Parameters
    ----------
    measured, mean, std
        ``(n, G)``, log2(1 + count): measured, and predicted out of fold.
    """
    most = min(_MAX_ROWS, max(_MIN_ROWS, _MAX_VALUES // max(measured.shape[1], 1)))
    if len(measured) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(measured), most, replace=False))
        measured, mean, std = measured[rows], mean[rows], std[rows]
    if len(measured) == 0 or measured.shape[1] == 0:
        return np.ones(measured.shape[1])
    covered = coverage_of(measured, mean, std)
    pooled = _crossing(lambda factor: covered(factor[0]).mean(keepdims=True), 1)[0]
    if np.isnan(pooled):
        # No factor brings all genes together to the level: they are covered too often, or nothing is certain enough.
        pooled = _LOWEST if covered(_LOWEST).mean() >= LEVEL else _HIGHEST
    apart = np.log(_crossing(covered, measured.shape[1]) / pooled)
    crosses = np.isfinite(apart)
    noise = _LOG_VARIANCE / len(measured)
    spread = max(float(np.mean(apart[crosses] ** 2)) - noise, 0) if crosses.any() else 0.0
    return pooled * np.exp(np.where(crosses, spread / (spread + noise) * apart, 0))


def _crossing(covered: Callable[[np.ndarray], np.ndarray], size: int) -> np.ndarray:
    """Return the factors, ``(size,)``, at which coverage rises to the level, by halving the range.

    NaN where it is above from the start or never reaches it: a gene with hardly any counts, whose zeros are covered
    nine times in ten whatever the factor, does not determine it.
    """
    low, high = np.full(size, np.log(_LOWEST)), np.full(size, np.log(_HIGHEST))
    crosses = (covered(np.exp(low)) < LEVEL) & (covered(np.exp(high)) >= LEVEL)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = covered(np.exp(middle)) < LEVEL
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(crosses, np.exp((low + high) / 2), np.nan)
