"""Fit STAGE: split the spots, train the autoencoder, and predict the spots that were held out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from hisdiff._log import logger
from hisdiff._section import needed
from hisdiff._stats._accuracy import pearson
from hisdiff._training._calibration import Calibration
from hisdiff._training._config import TrainingConfig
from hisdiff._training._loop import train
from hisdiff.methods.stage._fitted import TARGET, FittedStage, network_for
from hisdiff.methods.stage._frame import Frame, levels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.stage._network import StageNetwork
    from hisdiff.methods.stage.config import StageConfig

_MIN_SPOTS = 4
# Rows of the history.
_ROWS = 50


def fit_stage(sections: Sequence[Section], config: StageConfig, run: FitRun) -> FittedStage:
    """Fit on sections that share one panel."""
    check_can_fit(sections, run.validation, config)
    masks = _splits(sections, config.train_fraction, run.seed)
    frame = Frame.of(sections, masks, config.section_spacing_um)
    x, c = _training_data(sections, frame)
    network = network_for(x.shape[1], frame.n_dims, config)
    network.initialize(run.seed, x, c)
    batch = min(config.batch_size, len(x))
    max_steps = config.steps(len(x))
    options = TrainingConfig(
        **config.of_training()
        | {
            "max_steps": max_steps,
            "max_epochs": None,
            "batch_size": batch,
            "validate_every": max(1, max_steps // _ROWS),
        }
    )
    result = train(
        network,
        {"x": x, "c": c},
        options,
        seed=run.seed,
        device=run.device,
        checkpoint=run.checkpoint,
        resume=run.resume,
        progress_bar=run.progress,
        desc="fitting stage",
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
    return np.log1p(counts * (TARGET / counts.sum(axis=1, keepdims=True)))


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
