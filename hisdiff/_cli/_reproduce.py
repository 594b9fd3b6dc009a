"""The published numbers of HisDiff, on HEST-1k."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._check import one_of, present
from hisdiff._files import check_writable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hisdiff._json import Plain
    from hisdiff.methods.hisdiff import GeneConfig
    from hisdiff.models import Model

METRICS = ("pcc_10", "pcc_50", "pcc_200", "pcc_all", "mse", "mae", "rvd")
"""Metrics of the publication, and the correlation over all genes beside those of the best."""


def reproduce(
    study: str,
    hest: Path,
    out: Path,
    *,
    encoder: str = "uni",
    settings: Mapping[str, Any] | None = None,
    samples: Sequence[str] | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Plain:
    """Train on all samples of a study but one, predict that one, and compare.

    Genes are chosen on all samples, the test sample included, as published; it flatters the result, and no other command
    does so.

    Parameters
    ----------
    study
        One of ``hisdiff.datasets.hest``.
    hest
        Folder of the collection.
    out
        Folder for ``model``, ``evaluation.csv`` (a row for each gene) and ``summary.json``.
    encoder, seed, device
        As everywhere.
    settings
        Of :class:`~hisdiff.methods.hisdiff.GeneConfig`, beside those of the published setting.
    samples
        Training samples; None for all of the study but the one that is left out.

    Returns
    -------
    What the command reports: samples, number of genes and spots, and ``summary``.
    """
    import hisdiff as hd
    from hisdiff._sdata._read import open_sections
    from hisdiff._sdata._selection import Selection
    from hisdiff.datasets._hest import STUDIES, TESTED_ON
    from hisdiff.methods.hisdiff import GeneConfig
    from hisdiff.pp._embed import published_patch_um

    one_of(study, STUDIES, "study")
    test = TESTED_ON[study]
    config = GeneConfig.from_dict({"preset": "paper", "reference_compat": True, **(settings or {})})
    trained = [name for name in STUDIES[study] if name != test]
    if samples:
        trained = [present(name, trained, f"training sample of {study!r}:") for name in samples]
    hd.encoders.get(encoder)  # whether its weights are to be had, before gigabytes are fetched
    check_writable(out, "The result")
    opened = dict(zip([*trained, test], hd.datasets.hest([*trained, test], hest)))
    # In the order of the study, whose first section is counted twice.
    sections = [opened[name] for name in STUDIES[study] if name in opened]
    hd.pp.select_genes(sections, reference_compat=True)
    patch_um = published_patch_um(open_sections(sections, Selection(), needs=("image",)))
    hd.pp.embed(sections, encoder, patch_um=patch_um, device=device)
    names = [name for name in STUDIES[study] if name in opened and name != test]
    train = [opened[name] for name in names]
    model = _fitted(out / "model", names, config, encoder, seed)
    if model is None:
        model = hd.tl.fit(train, config=config, rng=seed, device=device, save=out / "model", resume=True)
    hd.tl.predict(opened[test], model, rng=seed, device=device)
    table = hd.tl.evaluate(opened[test])
    table.to_csv(out / "evaluation.csv")
    of = table.attrs["summary"]["mean"]
    # Fewer genes than a metric needs leave it out.
    summary = {name: float(of[name]) for name in METRICS if np.isfinite(of.get(name, np.nan))}
    report = {
        "test": test,
        "train": trained,
        "n_genes": len(model.genes),
        "n_spots": sum(len(sdata.tables["table"]) for sdata in train),
        "encoder": encoder,
        "patch_um": patch_um,
        "config": config.to_dict(),
        "summary": summary,
    }
    (out / "summary.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _fitted(folder: Path, names: Sequence[str], config: GeneConfig, encoder: str, seed: int) -> Model | None:
    """Return the model that an earlier call fitted, where it is what this one is to fit."""
    from hisdiff import models
    from hisdiff._log import logger

    if not folder.exists():
        return None
    model = models.load(folder)
    features = model.cohort.features
    same = (
        (model.cohort.sections, model.config, model.seed) == (tuple(names), config.to_dict(), seed)
        and features is not None
        and features.encoder == encoder
    )
    if same:
        logger.info("%s holds the fitted model; continuing from there", folder)
    return model if same else None
