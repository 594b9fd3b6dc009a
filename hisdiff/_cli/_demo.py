"""The main workflow on the built-in toy tissue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("pcc_all", "pcc_50", "mse", "rvd", "coexpression_r", "energy_score", "module_crps", "coverage_90")
"""Metrics that are printed."""


def demo(out: Path, *, seed: int = 0) -> None:
    """Fit on two toy sections, predict a third, and leave plots, metrics and the object in a folder.

    Parameters
    ----------
    out
        Folder to write into; it is made where it is missing.
    seed
        Of the tissue, the fit and the draws.
    """
    import matplotlib as mpl
    import pandas as pd

    import hisdiff as hd
    from hisdiff._log import logger
    from hisdiff._section import needed

    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    *train, test = hd.datasets.toy(seed=seed, n_sections=3, size_um=1200)
    hd.pp.select_genes(train)
    hd.pp.embed([*train, test])
    model = hd.tl.fit(train, rng=seed, save=out / "model")
    hd.tl.predict(test, model, keep_draws=4, rng=seed)
    table = hd.tl.evaluate(test)
    table.to_csv(out / "evaluation.csv")
    genes = table["pearson"].sort_values(ascending=False).index[:2].tolist()
    panels: dict[str, Axes | Figure] = {
        "gene_map": hd.pl.gene_map(test, genes),
        "uncertainty_map": hd.pl.uncertainty_map(test, genes[0]),
        "evaluation": hd.pl.evaluation(test),
        "training": hd.pl.training(model),
    }
    for name, panel in panels.items():
        needed(panel.get_figure(root=True)).savefig(out / f"{name}.png", dpi=120, bbox_inches="tight")
    test.write(out / "test.zarr", overwrite=True)
    summary = pd.DataFrame(table.attrs["summary"])
    summary.to_csv(out / "summary.csv")
    shown = summary.loc[list(SHOWN)].round(2).to_string(na_rep="")
    logger.info(
        "metrics on the section that was left out (docs/metrics.md explains them; summary.csv has all):\n%s", shown
    )
    logger.info("done in %.0f s; see %s", time.perf_counter() - start, out.resolve())
