"""Fit iStar: footprints of the training spots, the ensemble, and the dispersion of counts around it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._log import logger
from hisdiff._section import needed
from hisdiff._training._calibration import Dispersion
from hisdiff._training._loop import train
from hisdiff.methods.istar._fitted import FittedIStar
from hisdiff.methods.istar._network import Ensemble, FootprintLoss, Superpixels
from hisdiff.methods.istar._training_spots import check_dense, gather, kept_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.istar.config import IStarConfig

# Training spots whose footprints the networks see at a time.
_SPOTS = 32


def fit_istar(sections: Sequence[Section], config: IStarConfig, run: FitRun) -> FittedIStar:
    """Fit on sections that share one panel."""
    for section in (*sections, *run.validation):
        check_dense(section)
    kept = [kept_rows(section) for section in sections]
    log2_size = float(np.median([s.log2_size for s in sections if np.isfinite(s.log2_size)] or [0.0]))
    spots = [needed(s.spots).take(rows) for s, rows in zip(sections, kept)]
    areas = [np.pi * part.radius_um**2 for part in spots]
    footprint_um2 = float(np.median(np.concatenate(areas)))
    counts = [needed(s.counts)[rows].toarray() for s, rows in zip(sections, kept)]
    if not config.reference_compat:
        counts = [_scaled(c, s, log2_size, footprint_um2 / area) for s, c, area in zip(sections, counts, areas)]
    every = np.concatenate(counts).astype(np.float32)
    low, span = every.min(axis=0), np.ptp(every, axis=0)
    target = (every - low) / (span + 1e-12)

    inputs, bins, share, superpixels = gather(sections, spots, config)
    start = None if config.reference_compat else target.mean(axis=0)
    network = Ensemble(config.n_members, superpixels.shape[1], config.width, len(low), seed=run.seed, start=start)
    logger.info(
        "istar: %d members on %d spots, %d superpixels of %g um and %d inputs",
        config.n_members, len(target), len(superpixels), config.superpixel_um, superpixels.shape[1],
    )  # fmt: skip
    module = FootprintLoss(network, Superpixels(superpixels), config.footprint_sample)
    result = train(
        module,
        {"bins": torch.from_numpy(bins), "share": torch.from_numpy(share), "target": torch.from_numpy(target)},
        config.for_spots(len(target)),
        seed=run.seed,
        device=run.device,
        checkpoint=run.checkpoint,
        resume=run.resume,
        progress_bar=run.progress,
        desc="fitting istar",
    )
    means = _means(module, bins, share)
    fitted = FittedIStar(
        sections[0].genes, config, network.cpu(), inputs, low, span, footprint_um2, log2_size, history=result.history
    )
    fitted = replace(fitted, dispersion=Dispersion.from_counts(every, fitted.counts(means, 1.0)))
    return fitted.calibrated(run, n_draws=network.n_members)


def _scaled(counts: np.ndarray, section: Section, log2_size: float, area: np.ndarray) -> np.ndarray:
    """Return the counts of a section as at another library size, and at ``area`` times the footprint."""
    own = section.log2_size if np.isfinite(section.log2_size) else log2_size
    return counts * 2.0 ** (log2_size - own) * area[:, None]


@torch.inference_mode()
def _means(module: FootprintLoss, bins: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the median over members of the mean over each training footprint, ``(n, G)``."""
    device, parts = module.network.weights[0].device, []
    for rows in np.array_split(np.arange(len(bins)), -(-len(bins) // _SPOTS)):
        batch = (torch.from_numpy(a[rows]).to(device) for a in (bins, share))
        parts.append(np.median(module.footprint_means(*batch).cpu().numpy(), axis=0))
    return np.concatenate(parts)
