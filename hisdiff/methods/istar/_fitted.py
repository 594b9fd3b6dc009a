"""The fitted ensemble: predictions at footprints, and a field for anything finer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hisdiff._device import resolve_device
from hisdiff._keys import LOG2
from hisdiff._nn._weights import load_weights, weights_of
from hisdiff._prediction._superpixels import Footprints, Inputs, bin_parts, dense_rasters
from hisdiff._section import Prediction, needed
from hisdiff._training._calibration import Dispersion
from hisdiff.methods._base import BaseFitted
from hisdiff.methods.istar._network import Ensemble
from hisdiff.methods.istar._training_spots import are_discs, check_dense
from hisdiff.methods.istar.config import IStarConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff.methods._base import PredictRun

# Superpixels that the networks see at a time.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class FittedIStar(BaseFitted):
    """A fitted ensemble.

    Attributes
    ----------
    config, network, inputs
        Settings, the ensemble, and the scaling of its inputs.
    low, span
        ``(G,)`` lowest count of a training spot, and highest minus lowest, at ``log2_size``.
    footprint_um2
        Area of the footprint that counts refer to.
    log2_size
        log2 of the median total count over the panel that ``low`` and ``span`` belong to.
    dispersion
        Of the counts of training spots around their predictions.
    """

    config: IStarConfig
    network: Ensemble
    inputs: Inputs
    low: np.ndarray
    span: np.ndarray
    footprint_um2: float
    log2_size: float
    dispersion: Dispersion | None = None

    def __post_init__(self) -> None:
        self.network.eval()

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return sums over the superpixels of each footprint.

        Draws are the members of the ensemble, so that there are never more than it has. The mean is their median, as
        published, and the standard deviation their spread. There are no steps and nothing random.
        """
        check_dense(section)
        footprints = Footprints.of(
            locations, self.config.superpixel_um, whole_discs=self.config.reference_compat and are_discs(locations)
        )
        members = min(run.n_draws, self.network.n_members)
        network = self.network.to(resolve_device(run.device))
        means = np.zeros((members, len(locations), len(self.genes)), dtype=np.float32)
        for rows, vectors in dense_rasters(needed(section.dense), footprints.ij, self.config.superpixel_um):
            part = footprints.share[:, rows]
            touched = np.flatnonzero(np.diff(part.indptr))
            each = self._members(network, self.inputs.of(needed(section.dense), vectors))[:members]
            for e in range(members):
                means[e, touched] += part[touched] @ each[e]
        area = np.pi * locations.radius_um**2 / self.footprint_um2
        counts = self.counts(means, self._factor(section, run.library_size)) * area[:, None].astype(np.float32)
        values = np.log2(1 + counts) if run.units == LOG2 else counts
        std = values.std(axis=0, ddof=1) if members > 1 else np.full_like(values[0], np.nan)
        kept = values[: run.keep_draws] if run.keep_draws else None
        return Prediction(np.median(values, axis=0), std, self.genes, run.units, kept, n_draws=members)

    def field_with(self, section: Section, run: PredictRun) -> EnsembleField:
        """Prepare predictions finer than the spots; draws are members of the ensemble."""
        check_dense(section)
        members = min(run.n_draws, self.network.n_members)
        return EnsembleField(self, section, members, self._factor(section, run.library_size), run.device)

    def _factor(self, section: Section, library_size: float | None) -> float:
        """Return what counts at the library size of the fit are multiplied by."""
        wanted = section.library_size if library_size is None and not self.config.reference_compat else library_size
        return 1.0 if wanted is None else float(wanted / 2.0**self.log2_size)

    def counts(self, scaled: np.ndarray, factor: float) -> np.ndarray:
        """Return expected counts of a footprint for predictions between 0 and 1."""
        return np.maximum(scaled * self.span + self.low, 0) * np.float32(factor)

    @torch.inference_mode()
    def _members(self, network: Ensemble, features: np.ndarray) -> np.ndarray:
        """Return predictions of each member, float32 ``(E, n, G)``, on the scale of the targets."""
        device = network.weights[0].device
        parts = [
            network(torch.from_numpy(features[start : start + _CHUNK]).to(device)).cpu().numpy()
            for start in range(0, len(features), _CHUNK)
        ]
        return np.concatenate(parts, axis=1)

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        arrays = weights_of(self.network, "network.") | {"low": self.low, "span": self.span}
        if self.dispersion is not None:
            arrays |= self.dispersion.arrays()
        if self.inputs.axes is not None:
            arrays |= {"center": needed(self.inputs.center), "axes": self.inputs.axes}
        settings = {
            "config": self.config.to_dict(),
            "footprint_um2": self.footprint_um2,
            "log2_size": self.log2_size,
            "n_inputs": int(self.network.weights[0].shape[1]),
        }
        return arrays, settings

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedIStar:
        """Rebuild what ``state`` described."""
        config = IStarConfig.from_dict(settings["config"])
        network = Ensemble(config.n_members, settings["n_inputs"], config.width, len(genes))
        load_weights(network, arrays, "network.")
        inputs = Inputs(not config.reference_compat, arrays.get("center"), arrays.get("axes"))
        scale = arrays["low"], arrays["span"], settings["footprint_um2"], settings["log2_size"]
        return cls(genes, config, network, inputs, *scale, Dispersion.from_arrays(arrays))


class EnsembleField:
    """Predictions of the ensemble at the bins of any grid; see :class:`~hisdiff.methods.Field`.

    Bins larger than a superpixel are the mean of equal parts that are not; smaller ones are looked at as they are,
    since what a vector describes does not depend on the size of the bin.
    """

    fitted_to_section = False

    def __init__(self, fitted: FittedIStar, section: Section, n_draws: int, factor: float, device: str | None) -> None:
        self.genes, self.footprint_um2, self.n_draws = fitted.genes, fitted.footprint_um2, n_draws
        self._fitted, self._section, self._factor = fitted, section, factor
        self.dispersion = fitted.dispersion
        self._network = fitted.network.to(resolve_device(device))
        self._last: tuple[Locations, np.ndarray] | None = None

    def mean(self, bins: Locations) -> np.ndarray:
        """Return the median over members, as published."""
        return np.median(self._members(bins), axis=0)

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield the expected counts of a footprint, one member after the other, float32 ``(n, G)``."""
        yield from self._members(bins)

    def _members(self, bins: Locations) -> np.ndarray:
        """Return the expected counts of a footprint as each member has them, ``(E, n, G)``."""
        if self._last is not None and self._last[0] is bins:  # mean and draws of the same bins cost one pass
            return self._last[1]
        out = np.empty((self.n_draws, len(bins), len(self.genes)), dtype=np.float32)
        dense = needed(self._section.dense)
        for rows, parts, vectors in bin_parts(dense, bins, self._fitted.config.superpixel_um):
            each = self._fitted._members(self._network, self._fitted.inputs.of(dense, vectors))[: self.n_draws]
            out[:, rows] = each.reshape(self.n_draws, len(rows), parts, -1).mean(axis=2)
        out = self._fitted.counts(out, self._factor)
        self._last = bins, out
        return out
