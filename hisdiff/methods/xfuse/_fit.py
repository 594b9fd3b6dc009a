"""Fit XFuse: training in stretches, between which metagenes are split and dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hisdiff._keys import COUNTS
from hisdiff._log import logger
from hisdiff._section import needed
from hisdiff._training._calibration import Dispersion
from hisdiff._training._loop import generator_for, train
from hisdiff.methods._base import PredictRun
from hisdiff.methods.xfuse._fitted import FittedXFuse, digest_of
from hisdiff.methods.xfuse._metagenes import contributions, drop, keep, resized, split
from hisdiff.methods.xfuse._model import FAST_GENES, FAST_POSTERIORS, Covariate, XFuseLoss, XFuseModel
from hisdiff.methods.xfuse._network import inverse_softplus, last_of
from hisdiff.methods.xfuse._patches import Slides
from hisdiff.methods.xfuse._slides import Slide
from hisdiff.methods.xfuse._start import fit_spots, profiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.xfuse.config import XFuseConfig

_MIN_SPOTS = 2
_CALIBRATION_DRAWS = 16
_FINAL_DRAWS = 10
_SECTION = "section"


def covariates_of(config: XFuseConfig, names: Sequence[str]) -> list[Covariate]:
    """Return the covariates of some sections; by default each of several sections is a level of its own."""
    for name, levels in config.covariates.items():
        if len(levels) != len(names):
            raise ValueError(f"Covariate {name!r} has {len(levels)} levels for {len(names)} sections.")
        if all(level is None for level in levels):
            raise ValueError(f"Covariate {name!r} has no known level.")
    found = [Covariate.of(name, levels) for name, levels in config.covariates.items()]
    if config.section_effects and len(names) > 1:
        unique = [f"{i}:{name}" for i, name in enumerate(names)]  # two sections may have one name
        found.append(Covariate.of(_SECTION, unique))
    return found


def start(config: XFuseConfig, slides: Sequence[Slide], *, seed: int) -> XFuseModel:
    """Return a model that begins at the counts of the spots and the colours of the images."""
    counted = [slide for slide in slides if len(slide.counts)]
    counts = np.concatenate([slide.counts for slide in counted])
    log_rate, logit = fit_spots(counts, seed=seed)
    gamma = profiles(counts, config.n_metagenes, seed=seed) if config.start == "profiles" else None
    n = 1 if gamma is None else len(gamma)
    with torch.random.fork_rng(devices=[]):  # layers start from the global generator
        torch.random.manual_seed(seed % 2**63)
        covariates = covariates_of(config, [slide.name for slide in slides])
        model = XFuseModel(config, counts.shape[1], n, len(slides), covariates)
    area = float(np.mean(np.concatenate([slide.areas for slide in counted])))
    with torch.no_grad():
        model.baseline_.copy_(torch.from_numpy(log_rate) / FAST_GENES)
        model.logit_.copy_(torch.from_numpy(logit) / FAST_GENES)
        last = last_of(model.scale_head)
        last.weight.normal_(0, 1e-5, generator=generator_for(seed, 0))
        assert last.bias is not None
        last.bias.fill_(float(inverse_softplus(torch.tensor(1 / area))))
        if gamma is not None and n > 1:
            model.metagenes.mean_.copy_(torch.from_numpy(gamma) / FAST_POSTERIORS)
        pixels = torch.from_numpy(np.concatenate([slide.image.reshape(3, -1) for slide in slides], axis=1))
        model.image_heads.start(pixels.mean(dim=1).clamp(-0.95, 0.95), pixels.std(dim=1).clamp(min=1e-2))
    return model


def fit_xfuse(sections: Sequence[Section], config: XFuseConfig, run: FitRun) -> FittedXFuse:
    """Fit on sections that share one panel."""
    covariates_of(config, [section.name for section in sections])  # complains before anything is read
    n = sum(len(needed(s.spots)) for s in sections if s.counts is not None)
    if n < _MIN_SPOTS:
        raise ValueError(f"XFuse needs at least {_MIN_SPOTS} spots; section(s) {[s.name for s in sections]} have {n}.")
    for section in sections:
        if section.image is None:
            raise ValueError(f"XFuse needs an image, and section {section.name!r} has none.")
    slides = [Slide.of(section, config.image_mpp, config.step_px) for section in sections]
    logger.info(
        "xfuse: %d slide(s) of %s pixels, %d spots, %d genes",
        len(slides), ", ".join("{} x {}".format(*slide.shape) for slide in slides), n, len(sections[0].genes),
    )  # fmt: skip
    model, history = train_model(config, start(config, slides, seed=run.seed), Slides(slides), run)
    model.cpu()
    area = float(np.median(np.concatenate([s.areas for s in slides]))) * config.image_mpp**2
    known = {digest_of(s): (i, float(_log2_size(s))) for i, s in enumerate(sections) if s.counts is not None}
    size = _plain_log2_size(model, sections)
    fitted = FittedXFuse(sections[0].genes, config, model, area, size, known, history=history)
    fitted = replace(fitted, dispersion=_dispersion(fitted, sections, run))
    return fitted.calibrated(run, n_draws=_CALIBRATION_DRAWS)


def train_model(
    config: XFuseConfig, model: XFuseModel, slides: Slides, run: FitRun
) -> tuple[XFuseModel, list[dict[str, float]]]:
    """Train a model; return it, with the metagenes that it ended with, and the training curve."""
    rows = np.repeat(np.arange(len(slides.shapes)), slides.n_patches(config.patch_px))
    data = {"section": torch.from_numpy(rows)}
    config = config.with_steps(config.steps(len(rows)))
    forest: list[Any] = list(range(model.n_metagenes))
    history: list[dict[str, float]] = []
    stretches = _stretches(config)
    for number, n_steps in enumerate(stretches):
        result = train(
            XFuseLoss(model, slides),
            data,
            config.with_steps(n_steps),
            seed=run.seed + 7919 * number,
            device=run.device,
            checkpoint=None if run.checkpoint is None else run.checkpoint / f"stretch-{number}",
            resume=run.resume,
            progress_bar=run.progress,
            desc="fitting xfuse" if len(stretches) == 1 else f"fitting xfuse ({number + 1}/{len(stretches)})",
        )
        done = sum(stretches[:number])
        history += [
            {**row, "step": row["step"] + done, "metagenes": float(model.n_metagenes)} for row in result.history
        ]
        if number + 1 < len(stretches):
            model, forest = _grown(model, forest, slides, run.seed + number, done / needed(config.max_steps))
    if config.prune and model.n_metagenes > 1:
        gains = contributions(model, slides, seed=run.seed, n_draws=_FINAL_DRAWS).tolist()
        kept = [m for m, gain in enumerate(gains) if gain < 0] or [int(np.argmin(gains))]
        if len(kept) < model.n_metagenes:
            logger.info("xfuse: %d of %d metagenes contribute; the others are dropped", len(kept), model.n_metagenes)
            model = resized(model, kept, jitter=config.jitter, seed=run.seed)
    return model.eval(), history


def _log2_size(section: Section) -> float:
    return section.log2_size if section.library_size is not None else 0.0


def _plain_log2_size(model: XFuseModel, sections: Sequence[Section]) -> float:
    """Return the library size of a section without effects: that of the training sections less what their effects add."""
    mean = (model.baseline + model.logit).detach().exp()
    effects = model.effects(None)
    added = ((effects.rate + effects.logit).detach().exp() @ mean / mean.sum()).log2()
    own = [_log2_size(s) - float(added[i]) for i, s in enumerate(sections) if s.counts is not None]
    return float(np.mean(own))


def _dispersion(fitted: FittedXFuse, sections: Sequence[Section], run: FitRun) -> Dispersion:
    """Return the dispersion of the counts of training spots around their predictions."""
    counted = [s for s in sections if s.counts is not None]
    own = PredictRun(1, units=COUNTS, seed=run.seed, device=run.device)
    expected = [fitted.predict_with(s, needed(s.spots), own).mean for s in counted]
    return Dispersion.from_counts(
        np.concatenate([needed(s.counts).toarray() for s in counted]), np.concatenate(expected)
    )


def _stretches(config: XFuseConfig) -> list[int]:
    """Return the steps of each stretch: the number of metagenes changes between them, not in the last one."""
    steps = needed(config.max_steps)
    if config.strategy == "none":
        return [steps]
    whole = max(1, steps // config.grow_every)
    return [config.grow_every] * (whole - 1) + [steps - config.grow_every * (whole - 1)]


def _grown(
    model: XFuseModel, forest: list[Any], slides: Slides, seed: int, done: float
) -> tuple[XFuseModel, list[Any]]:
    """Drop metagenes that do not contribute and add some."""
    config = model.config
    gains = contributions(model, slides, seed=seed).tolist()
    if config.strategy == "split":
        kept, old = keep(drop(forest, gains))
        forest, sources = split(kept, config.max_metagenes)
        sources = [old[source] for source in sources]
    else:
        useful = [m for m, gain in enumerate(gains) if gain < 0] or [int(np.argmin(gains))]
        spare = [m for m, gain in enumerate(gains) if gain >= 0 and m not in useful]
        # Fewer and fewer are kept in reserve, down to one at the end.
        n_spare = max(1, round(config.n_extra + done * (1 - config.n_extra)))
        sources = [*useful, *spare[:n_spare], *(useful * n_spare)[: max(0, n_spare - len(spare))]]
        sources = sources[: config.max_metagenes]
        forest = list(range(len(sources)))
    n = sum(gain < 0 for gain in gains)
    logger.info("xfuse: %d of %d metagenes contribute; continuing with %d", n, len(gains), len(sources))
    return resized(model, sources, jitter=config.jitter, seed=seed), forest
