"""Fit the `dit` model around the closed-form mean: left-out tissue decides how many steps the network is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._device import Products
from hisdiff._log import logger
from hisdiff._nn._initialize import initialize
from hisdiff._stats._modules import heatmap_order
from hisdiff._training._loop import TrainingResult, generator_for, train
from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.factor._closed import ClosedForm
from hisdiff.methods.hisdiff.factor._watched import N_DRAWS, Watched, of_network
from hisdiff.methods.hisdiff.factor.config import FactorConfig
from hisdiff.methods.hisdiff.gene._around import AroundLoss, AroundModel
from hisdiff.methods.hisdiff.gene._drawing import Drawing
from hisdiff.methods.hisdiff.gene._model import GeneModel, GeneNetwork, Sizes
from hisdiff.methods.hisdiff.gene._rows import Rows
from hisdiff.methods.hisdiff.gene._scale import GeneScale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.hisdiff.factor._watched import Prepared
    from hisdiff.methods.hisdiff.gene._loss import Anchors
    from hisdiff.methods.hisdiff.gene.config import GeneConfig


def fit_around_mean(sections: Sequence[Section], config: GeneConfig, run: FitRun) -> FittedHisDiff:
    """Fit mean and laws in closed form, then the network on what they leave.

    Validation sections decide when to stop. Without any, one section (of a single one, a block) is held out in a first training,
    and a second one is on all tissue for the steps that were best in the first; where that is none, the factors stay normal.
    """
    closed = ClosedForm.fit(sections, FactorConfig(n_blocks=config.n_blocks), run)
    spots, rows = closed.spots, closed.laws.rows
    model = _new_model(closed, config, run.seed)
    last = spots.fold.max()
    members = np.array([last, -1]) if last > 0 else np.array([-1])
    watched = Watched.of(model, closed, run.validation, members, lambda *_: torch.empty(0))
    everywhere = Rows(spots, np.ones(len(spots.section), dtype=bool))
    judged = Rows.of_sections(run.validation) or everywhere
    data, anchors = everywhere.tensors(model.gene)
    seen = data if not run.validation else judged.tensors(model.gene)[0]
    of_judged = anchors if not run.validation else judged.tensors(model.gene)[1]
    data["summary"] = torch.from_numpy(model.summary(closed.held_out))

    @cache
    def drawing_on(device: torch.device) -> Drawing:
        return Drawing(model.gene.chunk_rows(device), Products.of(config.precision, device, emulated=False))

    watched = replace(watched, draw=partial(_drawn, config, drawing_on, seen, of_judged))
    scores = torch.zeros(len(spots.section), closed.laws.scores.shape[1])
    scores[rows] = torch.from_numpy(closed.laws.scores.astype(np.float32))
    data["scores"] = scores

    def trained(some: np.ndarray, settings: GeneConfig, watch: bool, name: str) -> TrainingResult:
        """Train a fresh network on some spots; it is the model's afterwards."""
        initialize(model.network, generator_for(run.seed, -1))
        return train(
            AroundLoss(model.network, anchors, model.log2_size),
            {key: values[some] for key, values in data.items() if key != "counts"},
            settings,
            seed=run.seed,
            validate=watched.score if watch else None,
            device=run.device,
            checkpoint=None if run.checkpoint is None else run.checkpoint / name,
            resume=run.resume,
            progress_bar=run.progress,
            desc="fitting hisdiff",
        )

    if run.validation or last == 0:
        result = trained(rows, config, True, "all")
    else:
        result = trained(rows[spots.fold[rows] != last], config, True, "held-out")
        if result.best_step:
            trained(rows, replace(config, max_steps=result.best_step, max_epochs=None), False, "all")
    model = replace(model, kept=result.best_step > 0)
    logger.info(
        "fitted %d genes on %d spots; the image explains %.0f %% of the variance of left-out spots, %d factors describe the "
        "rest; %s",
        len(sections[0].genes), len(spots.section), 100 * closed.explained, len(closed.laws.spread.factors.loadings), of_network(result),
    )  # fmt: skip
    model.network.cpu().eval()
    calibration = watched.calibration()
    return FittedHisDiff(
        sections[0].genes, config, model, spots.radius_um, calibration=calibration, history=result.history
    )


def _new_model(closed: ClosedForm, config: GeneConfig, seed: int) -> AroundModel:
    """Return the model with starting weights, genes that vary together in one token."""
    spots = closed.spots
    everywhere = Rows(spots, np.ones(len(spots.section), dtype=bool))
    embeddings = everywhere.embeddings(config)
    sizes = Sizes.of(config, spots.measured.shape[1], embeddings.shape[1])
    scale = GeneScale.fit(embeddings, everywhere.counts, everywhere.log2_sizes)
    network = GeneNetwork.of(config, sizes)
    groups = getattr(network.denoiser, "groups", None)
    if groups is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            together = np.nan_to_num(np.corrcoef(spots.centered.T))
        order = heatmap_order(together, np.zeros(len(together), dtype=np.int64))
        groups.arrange(torch.from_numpy(np.ascontiguousarray(order)))
    parts = closed.parts
    gene = GeneModel(config, sizes, network, scale, log2_size=parts["log2_size"], pitch_um=spots.pitch_um)
    model = AroundModel.of(gene, closed.summary, closed.mean, parts, closed.laws.scores.shape[1])
    initialize(model.network, generator_for(seed, -1))
    return model


def _drawn(
    config: GeneConfig,
    drawing_on: Callable[[torch.device], Drawing],
    data: dict[str, Tensor],
    anchors: Anchors,
    module: nn.Module,
    part: Prepared,
) -> Tensor:
    """Return scores of draws of a part, ``(D n, K)``."""
    assert isinstance(module, AroundLoss)
    device = module.network.view.device
    batch = {name: data[name][part.rows].to(device) for name in ("own", "near", "wide", "log2_size")}
    batch["summary"] = part.condition[: len(part.rows)].to(device)
    with torch.no_grad():
        condition = module.condition(batch, anchors).repeat(N_DRAWS, 1)
    start = part.start.to(device)

    def sample(products: Products, rows: np.ndarray) -> np.ndarray:
        some = torch.from_numpy(rows).to(device)
        return (
            module.network.sample(
                condition[some], start[some], n_steps=config.n_steps, sampler=config.sampler, products=products
            )
            .cpu()
            .numpy()
        )

    return torch.from_numpy(drawing_on(device)(len(start), sample))
