"""``python -m hisdiff demo``: the main job on the built-in toy tissue."""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hisdiff", description="Spatial gene expression from H&E.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo_parser = commands.add_parser("demo", help="fit, predict, evaluate and plot on the toy tissue")
    demo_parser.add_argument(
        "--out", type=Path, default=Path("hisdiff-demo"), help="folder for the figures and the zarr store"
    )
    demo_parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    demo(arguments.out, seed=arguments.seed)
    return 0


def demo(out: Path, *, seed: int = 0) -> None:
    """Fit on two toy sections, predict a third, and leave figures, figures of merit and the object in a folder.

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
    figures: dict[str, Any] = {  # one panel is an Axes, several are a Figure
        "gene_map": hd.pl.gene_map(test, genes),
        "uncertainty_map": hd.pl.uncertainty_map(test, genes[0]),
        "evaluation": hd.pl.evaluation(test),
        "training": hd.pl.training(model),
    }
    for name, figure in figures.items():
        getattr(figure, "figure", figure).savefig(out / f"{name}.png", dpi=120, bbox_inches="tight")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")  # of anndata, once for every array
        test.write(out / "test.zarr", overwrite=True)
    summary = pd.DataFrame(table.attrs["summary"])
    summary.to_csv(out / "summary.csv")
    logger.info("figures of merit on the section that was left out:\n%s", summary.round(3).to_string())
    logger.info("done in %.0f s; see %s", time.perf_counter() - start, out.resolve())


if __name__ == "__main__":
    raise SystemExit(main())
