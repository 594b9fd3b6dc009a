"""STAGE: expression as a smooth function of place, learned by an autoencoder whose hidden layer is the coordinates.

Li et al. (2024), Nucleic Acids Research; written anew from its equations (docs/methods/stage.md). No image is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from hisdiff._check import positive, seed_of
from hisdiff._device import resolve_device
from hisdiff._geometry import pitch_of
from hisdiff._keys import LOG2
from hisdiff._log import logger
from hisdiff._prediction._point import point_prediction
from hisdiff._section import needed
from hisdiff._stats._accuracy import pearson
from hisdiff._training._calibration import Calibration
from hisdiff._training._config import TrainingConfig
from hisdiff._training._loop import train
from hisdiff.methods.stage._frame import Frame, levels_of
from hisdiff.methods.stage._network import StageNetwork
from hisdiff.methods.stage.config import StageConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from hisdiff._section import Locations, Prediction, Section
    from hisdiff.methods.stage._frame import Known

__all__ = ["FittedStage", "Stage", "StageConfig", "StageField"]

# Total that every spot is scaled to before the logarithm.
_TARGET = 1e4
_EPOCHS = 2000  # of the published code, where no number of steps is given
_MIN_SPOTS = 4
# Places decoded at once, and rows of the history.
_CHUNK, _ROWS = 8192, 50


class StageField:
    """Expected counts anywhere in one section; see :class:`~hisdiff.methods._protocols.Field`."""

    n_draws = 1
    fitted_to_section = True
    dispersion = None

    def __init__(
        self, fitted: FittedStage, known: Known, section: Section, library_size: float | None, device: Any
    ) -> None:
        self.genes = fitted.genes
        self.footprint_um2 = float(np.pi * np.median(needed(section.spots).radius_um) ** 2)
        self._fitted, self._known, self._device = fitted, known, device
        self._spots = cKDTree(known.xy_um)
        self._reach = fitted.config.reach_pitches * pitch_of(known.xy_um)
        own = float(np.median(known.totals[known.totals > 0]))
        self._factor = (own if library_size is None else library_size) / _TARGET

    def mean(self, bins: Locations) -> None:
        """Return None: the one value is all there is."""

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield the one value of each bin, float32 ``(n, G)``; NaN far from all spots."""
        values = self._fitted.decode(self._fitted.frame.of_locations(self._known, bins), self._device)
        counts = np.expm1(values, out=values) * np.float32(self._factor)
        if np.isfinite(self._reach):
            counts[self._spots.query(bins.xy_um)[0] > self._reach] = np.nan
        yield counts


@dataclass(frozen=True, eq=False)
class FittedStage:
    """A trained STAGE.

    Attributes
    ----------
    genes
        ``(G,)`` names.
    config
        Settings.
    frame
        The sections it was trained on and the scale of their coordinates, with the split of the spots.
    network
        Encoder and decoder, in evaluation mode.
    position_error_um
        Mean distance per axis between a spot and where the encoder puts it: the blur of the map.
    """

    n_steps: ClassVar[int] = 0

    genes: np.ndarray
    config: StageConfig
    frame: Frame
    network: StageNetwork
    position_error_um: float
    calibration: Calibration | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network.eval()

    def decode(self, coordinates: np.ndarray, device: Any) -> np.ndarray:
        """Return log1p of expression scaled to 1e4 at coordinates ``(n, d)``, float32 ``(n, G)``, not below zero."""
        out = np.empty((len(coordinates), len(self.genes)), dtype=np.float32)
        decoder = self.network.decoder.to(device)
        with torch.inference_mode():
            for start in range(0, len(coordinates), _CHUNK):
                part = torch.from_numpy(coordinates[start : start + _CHUNK]).to(device)
                out[start : start + _CHUNK] = decoder(part).clamp_min(0).cpu().numpy()
        return out

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
        """Predict at locations of a section it was trained on, at heights of their own where they have any.

        There is one value, so that no draws are kept and the spread is NaN. ``obs["generated"]`` flags locations that
        no spot was measured at, ``obs["held_out"]`` spots that were not trained on.
        """
        field = self.field(section, n_draws=n_draws, library_size=library_size, device=device)
        known = self.frame.find(section, self.genes)
        distance, row = cKDTree(known.xy_um).query(locations.xy_um)
        generated = distance > 1e-3
        obs = {"generated": generated, "held_out": ~generated & ~known.trained[row]}
        return point_prediction(next(field.draws(locations)), self.genes, units, obs)

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
    ) -> StageField:
        """Prepare predictions anywhere in a section it was trained on."""
        positive(n_draws, "n_draws", integer=True)
        return StageField(self, self.frame.find(section, self.genes), section, library_size, resolve_device(device))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        weights = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        settings = {
            "config": self.config.to_dict(),
            "sections": [known.name for known in self.frame.sections],
            "levels_um": [known.z_um for known in self.frame.sections],
            "position_error_um": self.position_error_um,
        }
        return weights | self.frame.state(), settings

    @classmethod
    def from_state(
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        genes: np.ndarray,
        *,
        calibration: Calibration | None = None,
        history: Sequence[dict[str, float]] = (),
    ) -> FittedStage:
        """Rebuild what ``state`` described."""
        config = StageConfig.from_dict(settings["config"])
        frame = Frame.from_state(arrays, settings["sections"], settings["levels_um"])
        network = _network(len(genes), frame.n_dims, config)
        prefix = "network."
        weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
        network.load_state_dict(weights)
        return cls(genes, config, frame, network, settings["position_error_um"], calibration, list(history))


class Stage:
    """STAGE on one section, or on a stack of aligned ones."""

    name: ClassVar[str] = "stage"
    needs: ClassVar[frozenset[str]] = frozenset({"counts"})
    needs_to_predict: ClassVar[frozenset[str]] = needs
    config_type: ClassVar[type] = StageConfig
    fitted_type: ClassVar[type] = FittedStage

    def fit(
        self,
        sections: Sequence[Section],
        config: StageConfig,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> FittedStage:
        """Fit on sections that share one panel. ``validation`` is an error: other sections have other coordinates."""
        check_can_fit(sections, validation, config)
        seed = seed_of(seed)
        masks = _splits(sections, config.train_fraction, seed)
        frame = Frame.of(sections, masks, config.section_spacing_um)
        x, c = _training_data(sections, frame)
        network = _network(x.shape[1], frame.n_dims, config)
        network.initialize(seed, x, c)
        batch = min(config.batch_size, len(x))
        max_steps = config.max_steps or _EPOCHS * -(-len(x) // batch)
        options = TrainingConfig(
            **config.of_training()
            | {"max_steps": max_steps, "batch_size": batch, "validate_every": max(1, max_steps // _ROWS)}
        )
        result = train(
            network,
            {"x": x, "c": c},
            options,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            resume=resume,
            progress_bar=progress,
            desc="stage",
        )
        network.cpu()
        fitted = FittedStage(sections[0].genes, config, frame, network, _position_error(network, x, c, frame))
        logger.info("stage: spots are placed to %.0f um", fitted.position_error_um)
        held_out = _held_out(fitted, sections)
        if held_out is None:
            return replace(fitted, history=result.history)
        correlation = {"held_out_pcc": held_out.scaled_pcc} if np.isfinite(held_out.scaled_pcc) else {}
        *earlier, last = result.history
        calibration = Calibration.from_values(held_out.measured, held_out.predicted, held_out.section)
        return replace(fitted, calibration=calibration, history=[*earlier, last | correlation])


def check_can_fit(sections: Sequence[Section], validation: Sequence[Section], config: StageConfig) -> None:
    """Raise, before any work, for what STAGE cannot do."""
    if validation:
        raise ValueError(
            "STAGE learns the coordinates of the sections that it is fitted on, which no other section shares: validation= has no effect. "
            "Part of the spots is held out with config={'train_fraction': 0.8}."
        )
    for section in sections:
        if section.counts is None or section.spots is None:
            raise ValueError(f"STAGE needs the counts and places of spots, and section {section.name!r} lacks them.")
        with_counts = int((np.asarray(section.counts.sum(axis=1)).ravel() > 0).sum())
        if with_counts < _MIN_SPOTS:
            raise ValueError(
                f"STAGE needs at least {_MIN_SPOTS} spots with counts; section {section.name!r} has {with_counts}."
            )
    levels_of(sections, config.section_spacing_um)


def _network(n_genes: int, n_dims: int, config: StageConfig) -> StageNetwork:
    return StageNetwork(
        n_genes,
        n_dims,
        last_relu=config.last_relu,
        decoder_only=config.decoder_only,
        n_directions=config.n_directions,
    )


def _splits(sections: Sequence[Section], fraction: float, seed: int) -> list[np.ndarray]:
    """Return which spots of each section are trained on: a random part of those that have counts."""
    masks = []
    for i, section in enumerate(sections):
        rows = np.flatnonzero(np.asarray(needed(section.counts).sum(axis=1)).ravel() > 0)
        keep = max(_MIN_SPOTS - 1, round(fraction * len(rows)))
        chosen = np.random.default_rng([seed, i]).permutation(rows)[:keep]
        masks.append(np.isin(np.arange(needed(section.counts).shape[0]), chosen))
    return masks


def _normalized(section: Section, rows: np.ndarray) -> np.ndarray:
    """Return log1p of counts scaled to 1e4 per spot, float32 ``(n, G)``."""
    counts = needed(section.counts)[rows].toarray().astype(np.float32)
    return np.log1p(counts * (_TARGET / counts.sum(axis=1, keepdims=True)))


def _training_data(sections: Sequence[Section], frame: Frame) -> tuple[torch.Tensor, torch.Tensor]:
    x = np.concatenate([_normalized(s, known.trained) for s, known in zip(sections, frame.sections)])
    c = np.concatenate([frame.scaled(known.xy_um[known.trained], known.z_um) for known in frame.sections])
    return torch.from_numpy(x), torch.from_numpy(c)


@torch.inference_mode()
def _position_error(network: StageNetwork, x: torch.Tensor, c: torch.Tensor, frame: Frame) -> float:
    if network.decoder_only:
        return 0.0
    return float((network.encoder(x) - c)[:, :2].abs().mean()) * float(frame.scale_um[0])


class _HeldOut(NamedTuple):
    """Held-out spots: measured and predicted log2(1 + count) ``(n, G)``, their section, and correlation on the scale of training."""

    measured: np.ndarray
    predicted: np.ndarray
    section: np.ndarray
    scaled_pcc: float


def _held_out(fitted: FittedStage, sections: Sequence[Section]) -> _HeldOut | None:
    """Predict the spots that were held out; None where there are none."""
    measured, predicted, number, scaled = [], [], [], []
    for i, (section, known) in enumerate(zip(sections, fitted.frame.sections)):
        rows = np.flatnonzero(~known.trained & (known.totals > 0))
        if len(rows) < 2:
            continue
        places = needed(section.spots).take(rows)
        prediction = fitted.predict(section, places, n_draws=1, device="cpu")
        near = np.isfinite(prediction.mean).all(axis=1)
        measured.append(np.log2(1 + needed(section.counts)[rows[near]].toarray()))
        predicted.append(prediction.mean[near])
        number.append(np.full(int(near.sum()), i))
        own = fitted.decode(fitted.frame.of_locations(known, places), torch.device("cpu"))
        scaled.append(pearson(_normalized(section, rows), own))
    if not measured:
        return None
    pooled = np.concatenate(scaled)
    scaled_pcc = float(np.nanmean(pooled)) if np.isfinite(pooled).any() else float("nan")
    return _HeldOut(np.concatenate(measured), np.concatenate(predicted), np.concatenate(number), scaled_pcc)
