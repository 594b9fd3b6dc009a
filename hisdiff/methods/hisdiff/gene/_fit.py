"""Fit the `dit` model: held-out tissue determines when to stop and the expected accuracy, then all tissue is used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._device import resolve_device
from hisdiff._keys import LOG2
from hisdiff._log import logger
from hisdiff._nn._compile import compile_forward, compiles
from hisdiff._nn._initialize import initialize
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._training._calibration import Calibration
from hisdiff._training._loop import generator_for, train
from hisdiff._training._spots import TrainingSpots
from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.gene._around_fit import fit_around_mean
from hisdiff.methods.hisdiff.gene._loss import GeneLoss, HeldOutLoss
from hisdiff.methods.hisdiff.gene._model import GeneModel, GeneNetwork, Sizes, genes_per_token
from hisdiff.methods.hisdiff.gene._rows import Rows
from hisdiff.methods.hisdiff.gene._scale import GeneScale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff._training._loop import TrainingResult
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.hisdiff.gene.config import GeneConfig

_CALIBRATION_DRAWS = 16
# Spots that are worth drawing for; a gene's correlation is known to a few hundredths from them.
_CALIBRATION_ROWS = 400
# Draws of the calibration must not be those of a later prediction with the same seed.
_OWN_SEED = 104_729


def fit_gene_model(sections: Sequence[Section], config: GeneConfig, run: FitRun) -> FittedHisDiff:
    """Fit conditioner and denoiser; around the closed-form mean where the settings say so.

    Validation sections decide when to stop. Without any, one section (of a single one, a block) is held out in a first
    run, and a second one trains on all tissue for the steps that were best in the first. A configuration without
    ``patience`` does not stop early, so it trains on all tissue at once, as published; what it knows about itself then
    comes from validation sections alone.
    """
    genes_per_token(config, len(sections[0].genes))  # an error before work starts
    if config.around is not None:
        return fit_around_mean(sections, config, run)
    spots = TrainingSpots.of(sections, n_blocks=config.n_blocks)
    everything = Rows(spots, np.ones(len(spots.section), dtype=bool))
    # Each training has a checkpoint of its own.
    first, last = (
        run if run.checkpoint is None else replace(run, checkpoint=run.checkpoint / name)
        for name in ("held-out", "all")
    )
    if config.patience is not None and not run.validation and spots.fold.max() > 0:
        held_out = spots.fold == spots.fold.max()
        watched = Rows(spots, held_out)
        model, result = _train(Rows(spots, ~held_out), config, watched, first)
        calibration: Calibration | None = _calibration(model, watched, run)
        model, _ = _train(everything, config.with_steps(max(result.best_step, 1)), None, last)
        model = replace(model, config=config)
    else:
        others = Rows.of_sections(run.validation)
        model, result = _train(everything, config, others, last)
        calibration = None if others is None else _calibration(model, others, run)
    if calibration is None:
        logger.info("hisdiff: no tissue was held out, so its accuracy is not known; validation= measures it")
    logger.info(
        "hisdiff: %d steps on %d spots, %d genes, embeddings of %d values",
        result.best_step, len(spots.section), model.sizes.n_genes, model.sizes.embedding_dim,
    )  # fmt: skip
    model.network.cpu()
    return FittedHisDiff(
        sections[0].genes, config, model, spots.radius_um, calibration=calibration, history=result.history
    )


def _train(rows: Rows, config: GeneConfig, watched: Rows | None, run: FitRun) -> tuple[GeneModel, TrainingResult]:
    """Train a network on some spots."""
    model = _new_model(rows, config, run.seed)
    data, anchors = rows.tensors(model)
    module = GeneLoss(model, anchors)
    if compiles(config.compile, resolve_device(run.device), config.steps(len(data["counts"]))):
        compile_forward(model.network.get_submodule("denoiser"))
    result = train(
        module,
        data,
        config,
        seed=run.seed,
        validate=None if watched is None else HeldOutLoss(*watched.tensors(model), run.seed),
        device=run.device,
        checkpoint=run.checkpoint,
        resume=run.resume,
        progress_bar=run.progress,
        desc="fitting hisdiff",
    )
    return model, result


def _new_model(rows: Rows, config: GeneConfig, seed: int) -> GeneModel:
    """Return a model with starting weights, scaled by the spots it will be trained on."""
    spots = rows.spots
    embeddings, n_genes = rows.embeddings(config), spots.measured.shape[1]
    sizes = Sizes.of(config, n_genes, embeddings.shape[1])
    scale = GeneScale.identity(sizes.embedding_dim, n_genes)
    if config.standardize:
        scale = GeneScale.fit(embeddings, rows.counts, rows.log2_sizes)
    network = initialize(GeneNetwork.of(config, sizes), generator_for(seed, -1))
    return GeneModel(
        config,
        sizes,
        network,
        scale,
        log2_size=float(np.median(spots.log2_sizes)),
        pitch_um=spots.pitch_um,
    )


def _calibration(model: GeneModel, watched: Rows, run: FitRun) -> Calibration:
    """Return accuracy and interval factors on spots that the network was not trained on."""
    spots = watched.spots
    among = np.flatnonzero(watched.mask)
    among = among[np.unique(np.linspace(0, len(among) - 1, _CALIBRATION_ROWS).astype(int))]
    asked = Rows(spots, np.isin(np.arange(len(watched.mask)), among))
    mean, std = [], []
    for i in np.unique(spots.section[asked.mask]).tolist():
        section, draws = spots.sections[i], DrawAccumulator(LOG2)
        for draw in model.draws(
            section,
            section.spots.take(asked.locations(i)),
            log2_size=spots.log2_sizes[i],
            n_draws=_CALIBRATION_DRAWS,
            n_steps=model.config.n_steps,
            seed=run.seed + _OWN_SEED,
            device=run.device,
        ):
            draws.add(draw)
        prediction = draws.result(section.genes)
        mean.append(prediction.mean)
        std.append(prediction.std)
    measured = spots.measured[asked.mask]
    return Calibration.from_held_out(measured, np.concatenate(mean), np.concatenate(std), spots.section[asked.mask])
