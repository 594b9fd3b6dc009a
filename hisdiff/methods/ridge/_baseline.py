"""Ridge regression with resampled residuals: the baseline that a generative model has to beat. It stays as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from hisdiff._keys import LOG2
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._noise import BlockNoise
from hisdiff._training._calibration import Calibration
from hisdiff._training._checkpoint import check_shapes
from hisdiff._training._spots import Projection
from hisdiff.methods._base import BaseFitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import State
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff._training._spots import TrainingSpots
    from hisdiff.methods._base import PredictRun

# Sizes of the arrays of a saved model: features, components, inputs of the regression, residuals, genes.
_SHAPES = {"center": "D", "scale": "D", "axes": "D K", "slopes": "P G", "intercept": "G", "residuals": "R G"}
# Draws per spot from which the spread of out-of-fold predictions is taken, as many as `predict` makes at spots.
_CALIBRATION_DRAWS = 16


@dataclass(frozen=True, eq=False)
class BaselineRidge(BaseFitted):
    """A fitted ridge whose draws are the regression plus a whole residual vector.

    Expression is modelled as log2(1 + count) at one library size, that of the deepest training section. For another library size the
    counts are scaled; draws for a shallower one also get the noise of the counts that were not read.

    Attributes
    ----------
    projection
        Embeddings to features.
    slopes, intercept
        ``(3 k, G)``, ``(G,)``.
    residuals
        ``(m, G)``, out of fold, log2.
    log2_size
        log2 of the median total count over the panel that ``intercept`` and ``residuals`` belong to.
    usual_log2_size
        That of the median training section, which a section without counts is predicted at.
    radius_um
        Of a training spot.
    """

    projection: Projection
    slopes: np.ndarray
    intercept: np.ndarray
    residuals: np.ndarray
    log2_size: float
    usual_log2_size: float
    radius_um: float

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return the mean of infinitely many draws and the standard deviation of ``n_draws``.

        That mean is the regression itself; for counts, times the mean factor that the residuals amount to.
        """
        mean = self._regression(section, locations)
        wanted = section.library_size if run.library_size is None else run.library_size
        log2_size = self.usual_log2_size if wanted is None else math.log2(wanted)
        spots = section.spots
        whole = mean if spots is None or spots is locations else self._regression(section, spots)
        noise = BlockNoise.at(run.seed, locations)
        return self._around(mean, whole, log2_size, run.n_draws, run.keep_draws, run.units, noise)

    def _regression(self, section: Section, locations: Locations) -> np.ndarray:
        return self.projection.features(section, locations) @ self.slopes + self.intercept

    def _expected_counts(self, mean: np.ndarray) -> np.ndarray:
        """Return counts expected around a regression value: the mean over residuals of 2^(value + residual) - 1."""
        factor = np.exp2(self.residuals).mean(axis=0, dtype=np.float64)
        return np.maximum(np.exp2(mean) * factor - 1, 0)

    def _log2_size_of(self, mean: np.ndarray) -> float:
        """Return the library size that regression values at a section's spots amount to.

        A stain that the training sections do not have moves all values of a section up or down together; measured
        against its own library size, as library size is defined, that falls out.
        """
        totals = self._expected_counts(mean).sum(axis=1)
        return float(np.log2(np.median(totals[totals > 0]))) if (totals > 0).any() else self.log2_size

    def _around(
        self,
        mean: np.ndarray,
        whole: np.ndarray,
        log2_size: float,
        n_draws: int,
        keep_draws: int,
        units: str,
        noise: BlockNoise,
    ) -> Prediction:
        """Draw around regression values, scaled so that those of the ``whole`` section are as deep as asked."""
        shift, read = log2_size - self._log2_size_of(whole), log2_size - self.log2_size
        rows = np.arange(len(mean))
        draws = DrawAccumulator(units, keep_draws)
        for draw in range(n_draws):
            pick = ndtr(noise.normal(draw, 0, rows, 1)[:, 0].astype(np.float64))
            chosen = np.minimum((pick * len(self.residuals)).astype(np.int64), len(self.residuals) - 1)
            values = at_size(mean + self.residuals[chosen], shift)
            if read < 0:
                values = unread(values, read, noise.normal(draw, 1, rows, mean.shape[1]))
            draws.add(values)
        expected = at_size(mean, shift) if units == LOG2 else self._expected_counts(mean) * 2.0**shift
        return replace(draws.result(self.genes), mean=expected.astype(np.float32))

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        projection = self.projection
        arrays = {
            "center": projection.center,
            "scale": projection.scale,
            "axes": projection.axes,
            "slopes": self.slopes,
            "intercept": self.intercept,
            "residuals": self.residuals,
        }
        settings = {"scaling": projection.scaling, "pitch_um": projection.pitch_um}
        return arrays, settings | {
            "log2_size": self.log2_size,
            "usual_log2_size": self.usual_log2_size,
            "radius_um": self.radius_um,
        }

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> BaselineRidge:
        """Rebuild what ``state`` described."""
        check_shapes(arrays, _SHAPES, G=len(genes))
        settings = dict(settings)
        scaling, pitch_um = settings.pop("scaling"), settings.pop("pitch_um")
        projection = Projection(scaling, pitch_um, arrays["center"], arrays["scale"], arrays["axes"])
        return cls(genes, projection, arrays["slopes"], arrays["intercept"], arrays["residuals"], **settings)


def at_size(log2_values: np.ndarray, shift: float) -> np.ndarray:
    """Scale counts by ``2 ** shift``: log2(1 + count) in and out, clipped at zero expression."""
    return np.log2(1 + (np.exp2(np.maximum(log2_values, 0)) - 1) * 2.0**shift)


def unread(log2_values: np.ndarray, read: float, normal: np.ndarray) -> np.ndarray:
    """Add the noise of reading only a part ``2 ** read`` of the counts, given what is expected to be read.

    Binomial thinning of a count of which ``c`` is expected to stay has variance ``c (1 - 2 ** read)``. A log-normal
    factor of mean 1 and that variance stays positive, fades out as all is read, and comes from one normal value.
    """
    counts = np.exp2(log2_values) - 1
    variance = np.log1p((1 - 2.0**read) / np.maximum(counts, 1e-6))
    return np.log2(1 + counts * np.exp(np.sqrt(variance) * normal - variance / 2))


def baseline_calibration(
    fitted: BaselineRidge, training: TrainingSpots, held_out: np.ndarray, seed: int
) -> Calibration:
    """Predict the training spots out of fold, as deep as each section is, and compare."""
    parts = [held_out[training.section == i] for i in range(len(training.sections))]
    predicted = [
        fitted._around(part, part, log2_size, _CALIBRATION_DRAWS, 0, LOG2, BlockNoise.for_rows(seed, len(part)))
        for part, log2_size in zip(parts, training.log2_sizes)
    ]
    return Calibration.from_held_out(
        training.measured,
        np.concatenate([p.mean for p in predicted]),
        np.concatenate([p.std for p in predicted]),
        training.section,
    )
