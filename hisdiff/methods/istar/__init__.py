"""iStar: superpixels predicted from a dense embedding, supervised by the sums over spots.

A re-implementation from the mathematics of Zhang et al., Nature Biotechnology 2024 (doi:10.1038/s41587-023-02019-9).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from hisdiff._device import resolve_device
from hisdiff._keys import LOG2
from hisdiff._log import logger
from hisdiff._prediction._superpixels import Footprints, Inputs, bin_parts, dense_rasters
from hisdiff._section import Prediction, needed
from hisdiff._training._calibration import Calibration, Dispersion
from hisdiff._training._loop import train
from hisdiff.methods.istar._network import Ensemble, FootprintLoss, Superpixels
from hisdiff.methods.istar._training_spots import are_discs, check_dense, gather, kept_rows
from hisdiff.methods.istar.config import IStarConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from hisdiff._section import Locations, Section

__all__ = ["FittedIStar", "IStar", "IStarConfig"]

# Superpixels that the networks see at a time.
_CHUNK = 4096
# Training spots whose footprints they see at a time.
_SPOTS = 32


@dataclass(frozen=True, eq=False)
class FittedIStar:
    """A fitted ensemble.

    Attributes
    ----------
    genes
        ``(G,)`` names.
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

    n_steps: ClassVar[int] = 0

    genes: np.ndarray
    config: IStarConfig
    network: Ensemble
    inputs: Inputs
    low: np.ndarray
    span: np.ndarray
    footprint_um2: float
    log2_size: float
    dispersion: Dispersion | None = None
    calibration: Calibration | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network.eval()

    def predict(
        self,
        section: Section,
        locations: Locations,
        *,
        n_draws: int,
        keep_draws: int = 0,
        n_steps: int | None = None,
        units: str = LOG2,
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> Prediction:
        """Predict at locations of a section, in the order of ``genes``: sums over the superpixels of each footprint.

        Draws are the members of the ensemble, so that there are never more than it has. The mean is their median, as
        published, and the standard deviation their spread. There are no steps and nothing random.
        """
        check_dense(section)
        footprints = Footprints.of(
            locations, self.config.superpixel_um, whole_discs=self.config.reference_compat and are_discs(locations)
        )
        members = min(n_draws, self.network.n_members)
        network = self.network.to(resolve_device(device))
        means = np.zeros((members, len(locations), len(self.genes)), dtype=np.float32)
        for rows, vectors in dense_rasters(needed(section.dense), footprints.ij, self.config.superpixel_um):
            part = footprints.share[:, rows]
            touched = np.flatnonzero(np.diff(part.indptr))
            each = self._members(network, self.inputs.of(needed(section.dense), vectors))[:members]
            for e in range(members):
                means[e, touched] += part[touched] @ each[e]
        area = np.pi * locations.radius_um**2 / self.footprint_um2
        counts = self._counts(means, self._factor(section, library_size)) * area[:, None].astype(np.float32)
        values = np.log2(1 + counts) if units == LOG2 else counts
        std = values.std(axis=0, ddof=1) if members > 1 else np.full_like(values[0], np.nan)
        kept = values[:keep_draws] if keep_draws else None
        return Prediction(np.median(values, axis=0), std, self.genes, units, kept, n_draws=members)

    def field(
        self,
        section: Section,
        *,
        n_draws: int,
        n_steps: int | None = None,
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> EnsembleField:
        """Prepare predictions finer than the spots; draws are members of the ensemble."""
        check_dense(section)
        return EnsembleField(
            self, section, min(n_draws, self.network.n_members), self._factor(section, library_size), device
        )

    def _factor(self, section: Section, library_size: float | None) -> float:
        """Return what counts at the library size of the fit are multiplied by."""
        wanted = section.library_size if library_size is None and not self.config.reference_compat else library_size
        return 1.0 if wanted is None else float(wanted / 2.0**self.log2_size)

    def _counts(self, scaled: np.ndarray, factor: float) -> np.ndarray:
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

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        arrays = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        arrays |= {"low": self.low, "span": self.span}
        if self.dispersion is not None:
            arrays |= self.dispersion.arrays()
        if self.inputs.axes is not None:
            arrays |= {"center": self.inputs.center, "axes": self.inputs.axes}
        settings = {
            "config": self.config.to_dict(),
            "footprint_um2": self.footprint_um2,
            "log2_size": self.log2_size,
            "n_inputs": int(self.network.weights[0].shape[1]),
        }
        return arrays, settings

    @classmethod
    def from_state(
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        genes: np.ndarray,
        *,
        calibration: Calibration | None = None,
        history: Sequence[dict[str, float]] = (),
    ) -> FittedIStar:
        """Rebuild what ``state`` described."""
        config = IStarConfig.from_dict(settings["config"])
        network = Ensemble(config.n_members, settings["n_inputs"], config.width, len(genes))
        named = {name.removeprefix("network."): a for name, a in arrays.items() if name.startswith("network.")}
        network.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in named.items()})
        inputs = Inputs(not config.reference_compat, arrays.get("center"), arrays.get("axes"))
        sizes = settings["footprint_um2"], settings["log2_size"]
        dispersion = Dispersion.from_arrays(arrays)
        return cls(
            genes,
            config,
            network,
            inputs,
            arrays["low"],
            arrays["span"],
            *sizes,
            dispersion,
            calibration,
            list(history),
        )


class EnsembleField:
    """Predictions of the ensemble at the bins of any grid; see :class:`~hisdiff.methods._protocols.Field`.

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
        out = self._fitted._counts(out, self._factor)
        self._last = bins, out
        return out


class IStar:
    """An ensemble of superpixel networks, trained so that the mean over each spot's footprint is its scaled count.

    Counts of all sections are brought to one library size and one footprint area and scaled gene by gene to 0..1 over all
    training spots together: a section that has less of a gene keeps having less. (Scaling each section alone, the other
    choice, would teach that the highest spot of every section has the same expression.)
    """

    name: ClassVar[str] = "istar"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "image", "features"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image", "features"})
    config_type: ClassVar[type] = IStarConfig
    fitted_type: ClassVar[type] = FittedIStar

    def fit(
        self,
        sections: Sequence[Section],
        config: IStarConfig,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> FittedIStar:
        """Fit on sections that share one panel (``Section.with_panel``).

        ``validation`` sections are not used for fitting; the expected accuracy of the model is measured on them. Without
        any, it is unknown.
        """
        for section in (*sections, *validation):
            check_dense(section)
        kept = [kept_rows(section) for section in sections]
        log2_size = float(np.median([s.log2_size for s in sections if np.isfinite(s.log2_size)] or [0.0]))
        spots = [needed(s.spots).take(rows) for s, rows in zip(sections, kept)]
        areas = [np.pi * part.radius_um**2 for part in spots]
        footprint_um2 = float(np.median(np.concatenate(areas)))
        counts = [needed(s.counts)[rows].toarray() for s, rows in zip(sections, kept)]
        if not config.reference_compat:
            counts = [
                c
                * 2.0 ** (log2_size - (s.log2_size if np.isfinite(s.log2_size) else log2_size))
                * (footprint_um2 / area)[:, None]
                for s, c, area in zip(sections, counts, areas)
            ]
        every = np.concatenate(counts).astype(np.float32)
        low, span = every.min(axis=0), np.ptp(every, axis=0)
        target = (every - low) / (span + 1e-12)

        inputs, bins, share, superpixels = gather(sections, spots, config)
        start = None if config.reference_compat else target.mean(axis=0)
        network = Ensemble(config.n_members, superpixels.shape[1], config.width, len(low), seed=seed, start=start)
        logger.info(
            "istar: %d members on %d spots, %d superpixels of %g um and %d inputs",
            config.n_members, len(target), len(superpixels), config.superpixel_um, superpixels.shape[1],
        )  # fmt: skip
        module = FootprintLoss(network, Superpixels(superpixels), config.footprint_sample)
        result = train(
            module,
            {"bins": torch.from_numpy(bins), "share": torch.from_numpy(share), "target": torch.from_numpy(target)},
            config.for_spots(len(target)),
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            resume=resume,
            progress_bar=progress,
            desc="fitting istar",
        )
        told = _means(module, bins, share)
        fitted = FittedIStar(
            sections[0].genes,
            config,
            network.cpu(),
            inputs,
            low,
            span,
            footprint_um2,
            log2_size,
            history=result.history,
        )
        fitted = replace(fitted, dispersion=Dispersion.from_counts(every, fitted._counts(told, 1.0)))
        if not validation:
            return fitted
        calibration = Calibration.from_sections(fitted, validation, n_draws=network.n_members, device=device)
        return replace(fitted, calibration=calibration)


@torch.inference_mode()
def _means(module: FootprintLoss, bins: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the median over members of the mean over each training footprint, ``(n, G)``."""
    device, parts = module.network.weights[0].device, []
    for rows in np.array_split(np.arange(len(bins)), -(-len(bins) // _SPOTS)):
        batch = (torch.from_numpy(a[rows]).to(device) for a in (bins, share))
        parts.append(np.median(module.footprint_means(*batch).cpu().numpy(), axis=0))
    return np.concatenate(parts)
