"""Real sections that are left out: metrics of every method, with intervals of what it is better or worse than ridge.

    python tests/benchmarks/sections.py --data DATA --seeds 3 --json sections.json
    python tests/benchmarks/sections.py --data DATA --splits MOB --methods ridge hisdiff dit=hisdiff:dit

``DATA`` holds ``her2st`` and ``mob``. Splits: ``C``, four sections of one patient left out in turn; ``MOB``, three of a mouse
olfactory bulb left out in turn; ``B4``, a section of another patient, with all of C to learn from. To decide on something without a look
at those: ``C-two`` and ``MOB-one`` learn from one section less, every choice of them, and ``C-of-B4`` learns from B4. A method is a name that
``hd.tl.fit`` knows, or ``label=name:config`` with a preset or a JSON mapping; the first one is what the others are compared
with. Genes are chosen on the training sections, and genes, embedding and split are the same for all. Predictions are made at
the section's own library size; with ``--thin``, sections that are left out are read that many octaves less deeply. Intervals are 95 % bootstrap intervals of the mean over sections of a difference between two
methods, both on the same spots, where blocks of 1 mm are drawn with replacement inside each section.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hisdiff as hd
from hisdiff._sdata._shallow_copy import shallow_copy
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._proper import crps, energy_score
from hisdiff._stats._resample import block_weights
from hisdiff._stats._structure import normalize_library_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spatialdata import SpatialData

C, MOB = ("C2", "C3", "C4", "C5"), ("MOB1", "MOB2", "MOB3")


def left_out(names: Sequence[str], n_train: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return each section with every choice of ``n_train`` others to learn from."""
    return [(name, train) for name in names for train in combinations([n for n in names if n != name], n_train)]


SPLITS = {"C": left_out(C, 3), "MOB": left_out(MOB, 2), "B4": [("B4", C)],
          "C-two": left_out(C, 2), "MOB-one": left_out(MOB, 1), "C-of-B4": [(name, ("B4",)) for name in C]}  # fmt: skip
REPORTED = ("C", "MOB", "B4")
MOB_MPP, MOB_DIAMETER_UM = 4.42, 100.0
BLOCK_UM = 1000.0
N_DRAWS, N_RESAMPLES = 16, 1000
BASELINE = "ridge"
# Variance below which resampled values are constant.
_FLAT = 1e-9
KEY = "bench"
COLUMNS = (
    ("PCC", "mean", "pcc_all"),
    ("norm", "mean_norm", "pcc_all"),
    ("PCC-50", "mean", "pcc_50"),
    ("PCC-200", "mean", "pcc_200"),
    ("SSIM", "mean", "ssim"),
    ("MSE", "mean", "mse"),
    ("norm", "mean_norm", "mse"),
    ("ES", "mean", "energy_score"),
    ("mCRPS", "mean", "module_crps"),
    ("inside", "mean", "module_crps_centered"),
    ("norm", "mean_norm", "module_crps_centered"),
    ("mES", "mean", "module_energy_score"),
    ("inside", "mean", "module_energy_score_centered"),
    ("norm", "mean_norm", "module_energy_score_centered"),
    ("cover", "mean", "coverage_90"),
    ("draw PCC", "draw", "pcc_all"),
    ("coex r", "draw", "coexpression_r"),
    ("coex MAE", "draw", "coexpression_mae"),
    ("norm", "draw_norm", "coexpression_mae"),
    ("Moran", "draw", "moran_mae"),
    ("RVD", "draw", "rvd"),
    ("fit s", "time", "fit"),
    ("pred s", "time", "predict"),
)


@dataclass(frozen=True)
class Entry:
    """A method to be measured, as named on the command line."""

    label: str
    method: str
    config: str | dict = "fast"

    @classmethod
    def parse(cls, text: str) -> Entry:
        label, _, rest = text.partition("=") if "=" in text.split(":")[0] else (text.split(":")[0], "", text)
        method, _, config = rest.partition(":")
        usual = "baseline" if method == BASELINE else "fast"
        return cls(label, method, json.loads(config) if config.startswith("{") else config or usual)


@dataclass
class Run:
    """One method, fitted with one seed, on one section that was left out, and what the bootstrap needs of it.

    ``spots`` holds ``(n,)`` values whose mean is compared, ``genes`` pairs of measured and predicted ``(n, G)`` whose
    correlations are.
    """

    summary: dict[str, dict[str, float]]
    genes: dict[str, tuple[np.ndarray, np.ndarray]]
    spots: dict[str, np.ndarray]
    blocks: np.ndarray


def timed(function: Callable, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - start


def open_section(data: Path, name: str) -> SpatialData:
    """Read a section."""
    if name not in MOB:
        return hd.io.her2st(data / "her2st", name)
    import anndata as ad

    table = ad.read_h5ad(data / "mob" / f"{name}.h5ad")
    return hd.io.from_anndata(table, data / "mob" / f"{name}.jpg", mpp=MOB_MPP, spot_diameter_um=MOB_DIAMETER_UM)


def read(data: Path, name: str) -> SpatialData:
    """Read a section and embed it as its image allows."""
    sdata = open_section(data, name)
    hd.pp.embed(sdata, "texture-4um" if name in MOB else "texture")
    return sdata


def thinned(sdata: SpatialData, octaves: float) -> SpatialData:
    """Return a section of whose molecules a part is kept at random."""
    result, table = shallow_copy(sdata), sdata.tables["table"].copy()
    table.X = table.X.tocsr(copy=True)
    kept = np.random.default_rng(0).binomial(table.X.data.astype(np.int64), 2.0**-octaves)
    table.X.data = kept.astype(table.X.dtype)
    table.X.eliminate_zeros()
    result.tables["table"] = table
    return result


def measure(entry: Entry, train: Sequence[SpatialData], test: SpatialData, seed: int) -> Run:
    """Fit, predict, evaluate."""
    model, fit_s = timed(hd.tl.fit, train, method=entry.method, config=entry.config, rng=seed)
    _, predict_s = timed(hd.tl.predict, test, model, n_draws=N_DRAWS, keep_draws=N_DRAWS, key_added=KEY, rng=seed)
    frame = hd.tl.evaluate(test, layer=KEY, control=train)
    table = test.tables["table"]
    xy = np.asarray(table.obsm["spatial"]) * model.cohort.mpp[0]
    table = table[:, frame.index]
    counts = table.X.toarray().astype(np.float64)
    measured, mean = np.log2(1 + counts), np.asarray(table.layers[KEY], dtype=np.float64)
    draws = [np.asarray(table.layers[f"{KEY}_draw{i}"]) for i in range(N_DRAWS)]
    modules = GeneModules(*(np.asarray(table.varm[f"{KEY}_gene_modules{end}"]) for end in ("", "_norm")))
    total = float(np.median(counts.sum(axis=1)))
    flat = [normalize_library_size(values, total) for values in (measured, mean)]
    spots = {"MSE": np.square(measured - mean).mean(axis=1), "MSE norm": np.square(flat[0] - flat[1]).mean(axis=1),
             "ES": energy_score(np.stack(draws), measured)}  # fmt: skip
    for end, axes, view in (
        ("", modules.raw, lambda x: x),
        (" norm", modules.normalized, lambda x: normalize_library_size(x, total)),
    ):
        drawn, true = np.stack([view(one) @ axes for one in draws]), view(measured) @ axes
        inside = drawn - drawn.mean(axis=1, keepdims=True), true - true.mean(axis=0)
        spots |= {f"mCRPS{end}": crps(drawn, true).mean(axis=1), f"mES{end}": energy_score(drawn, true)}
        spots |= {f"mCRPS inside{end}": crps(*inside).mean(axis=1), f"mES inside{end}": energy_score(*inside)}
    genes = {"PCC": (measured, mean), "PCC norm": tuple(flat), "draw PCC": (measured, draws[0])}
    summary = {**frame.attrs["summary"], "time": {"fit": fit_s, "predict": predict_s}}
    return Run(summary, genes, spots, np.unique(xy // BLOCK_UM, axis=0, return_inverse=True)[1].ravel())


def average(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the mean of every metric over runs."""
    return {
        group: {name: float(np.mean([run.summary[group][name] for run in runs])) for name in names}
        for group, names in runs[0].summary.items()
    }


def resampled(run: Run, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric that is compared on resampled spots, ``(R,)``, with ``weights`` ``(R, n)`` of the spots."""
    total = weights.sum(axis=1, keepdims=True)
    result = {name: (weights @ values) / total[:, 0] for name, values in run.spots.items()}
    for name, (y, x) in run.genes.items():
        y, x = y - y.mean(axis=0), x - x.mean(axis=0)
        mean_y, mean_x = weights @ y / total, weights @ x / total
        var_y, var_x = (weights @ np.square(v) / total - np.square(m) for v, m in ((y, mean_y), (x, mean_x)))
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (weights @ (x * y) / total - mean_x * mean_y) / np.sqrt(var_y * var_x)
        result[name] = np.nanmean(np.where(var_y > _FLAT, np.where(var_x > _FLAT, r, 0), np.nan), axis=1)
    return result


def against(ours: list[list[Run]], theirs: list[list[Run]]) -> dict[str, list[float]]:
    """Return estimate and ends of the interval of the difference between two methods, from the runs of each section.

    Of correlations the difference; of errors and scores by how many per cent ours are lower.
    """
    differences: dict[str, list[np.ndarray]] = {}
    for section, (one, other) in enumerate(zip(ours, theirs)):
        weights = block_weights(one[0].blocks, N_RESAMPLES, seed=section)
        weights = np.vstack([np.ones(weights.shape[1]), weights])
        sides = [[resampled(run, weights) for run in runs] for runs in (one, other)]
        for name in sides[0][0]:
            a, b = (np.mean([found[name] for found in side], axis=0) for side in sides)
            differences.setdefault(name, []).append(a - b if "PCC" in name else 100 * (1 - a / b))
    result = {}
    for name, parts in differences.items():
        first, *others = np.mean(parts, axis=0)
        result[name] = [float(first), *(float(v) for v in np.quantile(others, [0.025, 0.975]))]
    return result


def show(title: str, table: dict[str, dict]) -> None:
    width = max(len(label) for label in table)
    print(f"\n{title}\n{'':{width}}  " + " ".join(f"{heading:>8}" for heading, *_ in COLUMNS))
    for label, metrics in table.items():
        cells = [metrics.get(group, {}).get(name, np.nan) for _, group, name in COLUMNS]
        print(
            f"{label:{width}}  " + " ".join(f"{'' if np.isnan(cell) else f'{cell:.3f}':>8}" for cell in cells),
            flush=True,
        )


def floors(run: Run) -> dict[str, dict[str, float]]:
    """Return what counting noise alone leaves of each score."""
    return {
        group: {name.removesuffix("_floor"): value for name, value in of.items() if name.endswith("_floor")}
        for group, of in run.summary.items()
    }


def split(
    folds: Sequence[tuple[str, tuple[str, ...]]],
    entries: list[Entry],
    sections: dict[str, SpatialData],
    n_seeds: int,
    octaves: float,
) -> dict:
    """Measure all methods on the sections of a split, print tables, and return them."""
    runs: dict[str, list[list[Run]]] = {entry.label: [] for entry in entries}
    result: dict[str, Any] = {"sections": {}}
    for target, names in folds:
        train = [sections[name] for name in names]
        test = thinned(sections[target], octaves) if octaves else sections[target]
        hd.pp.select_genes(train)
        for entry in entries:
            runs[entry.label].append([measure(entry, train, test, seed) for seed in range(n_seeds)])
        last = {label: of[-1] for label, of in runs.items()}
        first = last[entries[0].label][0]
        table = {label: average(of) for label, of in last.items()}
        control = {"draw": first.summary["random_spots"], "draw_norm": first.summary["random_spots_norm"]}
        table |= {"random spots": control, "floor": floors(first)}
        n, n_genes = first.genes["PCC"][0].shape
        show(f"train {' '.join(names)}, predict {target}: {n} spots, {n_genes} genes", table)
        many = sum(target == other for other, _ in folds) > 1
        key = f"{target} of {' '.join(names)}" if many else target
        result["sections"][key] = {"n_spots": n, "n_genes": n_genes, "metrics": table}
    if len(folds) > 1:
        result["mean"] = {label: average([run for of in found for run in of]) for label, found in runs.items()}
        show(f"mean over {' '.join(result['sections'])}", result["mean"])
    result["against"] = {}
    for entry in entries[1:]:
        apart = result["against"][entry.label] = against(runs[entry.label], runs[entries[0].label])
        told = "; ".join(f"{name} {e:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (e, low, high) in apart.items())
        print(f"{entry.label} against {entries[0].label}: {told}", flush=True)
    return result


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) if root else None, help="folder with her2st and mob")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write all metrics")
    parser.add_argument("--methods", nargs="+", default=[BASELINE, "hisdiff"], help="NAME or LABEL=NAME:CONFIG")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(REPORTED))
    parser.add_argument(
        "--thin", type=float, default=0.0, help="octaves by which left-out sections are read less deeply"
    )
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data names the folder of her2st and mob; or set HISDIFF_TEST_DATA")
    hd.settings.verbosity = "warning"
    entries = [Entry.parse(text) for text in args.methods]
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine()}
    results = {"version": hd.__version__, "seeds": args.seeds, "thin": args.thin, "machine": machine, "splits": {}}
    sections: dict[str, SpatialData] = {}
    for name in args.splits:
        folds = SPLITS[name]
        for section in {name for target, train in folds for name in (target, *train)} - sections.keys():
            sections[section] = read(args.data, section)
        results["splits"][name] = split(folds, entries, sections, args.seeds, args.thin)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
