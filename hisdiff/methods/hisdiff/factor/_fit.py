"""Fit the `fast` model: mean, factors, flow, and calibration on left-out tissue."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._cores import cores_for
from hisdiff._device import one_thread, resolve_device
from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._log import logger
from hisdiff._nn._initialize import initialize
from hisdiff._training._loop import generator_for, train
from hisdiff._training._once import is_shared, once
from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.factor._closed import ClosedForm
from hisdiff.methods.hisdiff.factor._flow import FactorFlow, LeftOut
from hisdiff.methods.hisdiff.factor._local import LocalRates, fit_local
from hisdiff.methods.hisdiff.factor._model import FactorModel, new_flow
from hisdiff.methods.hisdiff.factor._watched import Watched, of_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from hisdiff._json import State
    from hisdiff._section import Section
    from hisdiff._training._spots import TrainingSpots
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.hisdiff.factor._watched import Prepared
    from hisdiff.methods.hisdiff.factor.config import FactorConfig

# Members of the flow that judge it.
_MAX_LEFT_OUT = 5


def fit_factor_model(sections: Sequence[Section], config: FactorConfig, run: FitRun) -> FittedHisDiff:
    """Fit mean, factors and flow.

    For every fold (every few, beyond five) there is one member of the flow that does not see it; together they predict all spots out of
    fold, which decides when to stop and what the model knows about itself. The members that see all spots are trained beside
    them, for as many steps, and make the predictions.
    """
    closed = ClosedForm.fit(sections, config, run)
    spots, held_out, laws, summary = closed.spots, closed.held_out, closed.laws, closed.summary
    spread, deep = laws.spread, laws.rows
    fold = spots.fold % _MAX_LEFT_OUT
    folds = np.unique(fold)
    left_out = folds if len(folds) > 1 else np.empty(0, dtype=np.int64)
    member_folds = torch.from_numpy(np.concatenate([left_out, np.full(config.n_members, -1)]).astype(np.int64))
    flow = initialize(
        new_flow(config, laws.scores.shape[1], summary.axes.shape[1], member_folds), generator_for(run.seed, -1)
    )
    local = _local_rates(spots, held_out, config, run) if config.fine else None
    model = FactorModel(config=config, mean=closed.mean, summary=summary, flow=flow, local=local, **closed.parts)
    by_member = replace(closed, spots=replace(spots, fold=fold))
    watched = Watched.of(model, by_member, run.validation, member_folds.numpy(), partial(_drawn, config))
    result = None
    if config.flow:
        data = {
            "scores": torch.from_numpy(laws.scores.astype(np.float32)),
            "condition": torch.from_numpy(summary(held_out[deep])),
            "fold": torch.from_numpy(fold[deep]),
        }
        with one_thread(resolve_device(run.device)):
            result = train(
                flow,
                data,
                config,
                seed=run.seed,
                validate=watched.score if run.validation or not len(left_out) else LeftOut(**data, seed=run.seed),
                device=run.device,
                checkpoint=run.checkpoint,
                resume=run.resume,
                progress_bar=run.progress,
                desc="fitting hisdiff",
            )
    logger.info(
        "fitted %d genes on %d spots; the image explains %.0f %% of the variance of left-out spots, %d factors describe the "
        "rest; %s",
        len(sections[0].genes), len(spots.section), 100 * closed.explained, len(spread.factors.loadings), of_network(result),
    )  # fmt: skip
    flow.cpu()
    return FittedHisDiff(
        sections[0].genes,
        config,
        model,
        spots.radius_um,
        calibration=watched.calibration(),
        history=[] if result is None else result.history,
    )


def _local_rates(spots: TrainingSpots, held_out: np.ndarray, config: FactorConfig, run: FitRun) -> LocalRates | None:
    """Fit the rates of bins; of several processes the first one does."""

    def fitted() -> LocalRates | None:
        return fit_local(
            spots, held_out, n_components=config.n_components, linear=config.linear, gammas=config.gammas, seed=run.seed
        )

    def state() -> State:
        local = fitted()
        return ({}, {}) if local is None else local.state()

    with cores_for(len(spots.section)):
        if not is_shared():
            return fitted()
        arrays, plain = once(state, run.device)
    return LocalRates.from_state(arrays, plain) if arrays else None


def _drawn(config: FactorConfig, flow: nn.Module, part: Prepared) -> torch.Tensor:
    """Return scores of draws ``(D n, K)`` by the member of a flow that has not seen a part."""
    if not isinstance(flow, FactorFlow):
        raise TypeError(f"A flow makes draws, not a {type(flow).__name__}.")
    own, device = flow.take(np.array([part.member])), flow.member_folds.device
    condition, start = part.condition.to(device), part.start[None].to(device)
    return own.sample(condition, start, n_steps=config.n_steps, sampler=SAMPLERS[config.sampler])[0]
