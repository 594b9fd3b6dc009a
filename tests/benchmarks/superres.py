"""Expression finer than the spots, where it is known: prints a table for each test and writes JSON.

    python tests/benchmarks/superres.py --data DATA --seeds 3 --json superres.json
    python tests/benchmarks/superres.py --data DATA --tests 2x2 3x3 split unknown --sections MOB1 MOB2 MOB3
    python tests/benchmarks/superres.py --tests toy --seeds 1

``DATA`` holds ``her2st`` and ``mob``.

`toy`: the toy tissue; models see the spots of three sections, and predict bins of 10 um of the first, whose expected
counts are known. `2x2`, `3x3`: neighbouring spots of the real sections are merged; models see the pseudo-spots of all
sections, and predict the spots. `unknown`: the same without the pseudo-spots of the section (models see the other sections,
and nothing is rescaled). `split`: half of every spot's molecules are known, merged 2 x 2, and the other half is predicted,
so that what is judged shares no noise with what is known. `thinned`: every molecule of the 2 x 2 pseudo-spots is kept with
probability .065, for fitting and for agreement; what is predicted is brought to the full library size and compared with all counts.

Real metrics are on log2(1 + count), of spots of whole pseudo-spots; `norm`: every spot scaled to the same total first.
Toy metrics are on expected counts. PCC: mean over genes; inside: of what differs from the mean of the (pseudo-)spot; ES: energy
score of 16 draws on log2(1 + count); against measured counts, draws have the noise of counting. detail: toy, correlation of what differs from
the mean of the 50 um around a bin, and share: the slope of the truth's on the predicted one, 1 where the map shows as much fine
detail as it knows, less where part of it is made up. coverage: real, part of counts in
the 90 % interval (randomised PIT of the mixture of Poisson laws around the draws); toy, part of the truth between the lowest
and the highest of 16 draws (nominal 15/17 = .88).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from scipy.stats import poisson
from superres_baselines import INTERPOLATIONS, DenseRidge, interpolated, rescaled
from superres_tasks import MERGED_UM, N_DRAWS, TOY_UM, Job, merged_jobs, toy_jobs

import hisdiff as hd
from hisdiff._prediction._agreement import Agreement
from hisdiff._section import Locations
from hisdiff._stats._accuracy import pearson
from hisdiff._stats._metrics import within_groups
from hisdiff._stats._proper import LEVEL, energy_score
from hisdiff._stats._resample import paired_bootstrap, with_counting_noise
from hisdiff._stats._spatial import knn_weights, moran
from hisdiff._stats._structure import coexpression_agreement, normalize_library_size
from hisdiff._training._calibration import Dispersion
from hisdiff.methods.hisdiff.factor import _local

TESTS = ("toy", "2x2", "3x3", "unknown", "split", "thinned")
SECTIONS = ("C2", "C3", "C4", "C5")
KEPT = 0.065
DETAIL_UM = 50.0
RIDGE, RAW_RIDGE, ORACLE = "ridge, rescaled", "ridge", "oracle of cell types"
COLUMNS = {
    "pcc": "PCC",
    "pcc_norm": "norm",
    "inside": "inside",
    "inside_norm": "norm",
    "detail": "detail",
    "detail_share": "share",
    "energy": "ES",
    "coverage": "coverage",
    "coexpression_mae": "coex MAE",
    "moran": "Moran's I of a draw",
    "moran_mae": "Moran MAE",
}
Predictions = dict[str, tuple[np.ndarray, np.ndarray | None]]
"""By method: expected counts ``(n, G)``, and draws ``(k, n, G)``."""


def fitted(jobs: list[Job], seed: int):
    with tempfile.TemporaryDirectory() as folder:
        return hd.tl.fit([job.sdata for job in jobs], rng=seed, save=f"{folder}/model")


def baselines(job: Job, ridge: DenseRidge, seed: int, *, own: bool) -> Predictions:
    """Return interpolations (where the section's ``own`` spots are known), and ridge with resampled residuals as draws."""
    spots, targets = job.section.spots, job.targets
    log2 = ridge.predict(job.section, targets)
    rng = np.random.default_rng(seed)
    draws = [log2 + ridge.residuals[rng.integers(len(ridge.residuals), size=len(log2))] for _ in range(N_DRAWS)]

    def finished(values: np.ndarray) -> np.ndarray:
        counts = ridge.counts(values, targets)
        return rescaled(counts, spots, job.known, targets, job.share).astype(np.float32) if own else counts

    known = {name: (counts, None) for name, counts in interpolated(spots, job.known, targets).items()} if own else {}
    return {**known, RIDGE if own else RAW_RIDGE: (finished(log2), np.stack([finished(draw) for draw in draws]))}


def oracle(job: Job, dispersion: Dispersion) -> Predictions:
    """Return the truth as far as the cell types of every bin tell it, alone and in agreement with the spots."""
    types = np.column_stack([job.cell_types, np.ones(len(job.truth))])
    expected = np.maximum(types @ np.linalg.lstsq(types, job.truth, rcond=None)[0], 1e-6)
    agreement = Agreement(job.section.spots, job.known, dispersion, exact=False)
    agreed = agreement.blend(job.targets)(expected, agreement.factors(job.share @ expected))
    return {ORACLE: (expected, None), f"{ORACLE}, with spots": (agreed, None)}


def of_genes(model: hd.models.Model, genes: list[str]) -> Dispersion:
    """Return what a model knows of the dispersion of counts, in an order of genes."""
    dispersion, known = model.calibration.dispersion, list(model.genes)
    return dispersion._replace(gene=dispersion.gene[[known.index(gene) for gene in genes]])


def correlations(truth: np.ndarray, predicted: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return mean correlation over genes, of all locations and inside spots."""
    inside = group >= 0
    parts = (within_groups(values[inside], group[inside]) for values in (truth, predicted))
    return float(np.nanmean(pearson(truth, predicted))), float(np.nanmean(pearson(*parts)))


def fine_detail(targets: Locations, values: np.ndarray) -> np.ndarray:
    """Return what differs from the mean over the square of ``DETAIL_UM`` around each bin, ``(n, G)``."""
    reach = DETAIL_UM / targets.bin_um / 2
    near = cKDTree(targets.array_ij).sparse_distance_matrix(
        cKDTree(targets.array_ij), reach, p=np.inf, output_type="coo_matrix"
    )
    around = csr_matrix((np.ones(near.nnz), (near.row, near.col)), shape=(len(values), len(values)))
    return values - around @ values / np.asarray(around.sum(axis=1))


def metrics(job: Job, mean: np.ndarray, draws: np.ndarray | None, seed: int) -> dict[str, float]:
    """Judge a prediction; see the top of this file."""
    toy = job.cell_types is not None
    log2 = np.log2(1 + job.truth)
    if toy:
        found = dict(zip(("pcc", "inside"), correlations(job.truth, mean, job.group)))
        one = mean if draws is None else draws[0]
        true, shown = (fine_detail(job.targets, values) for values in (job.truth, mean))
        found["detail"] = float(np.nanmean(pearson(true, shown)))
        power = np.square(shown).sum(axis=0)
        found["detail_share"] = float(np.median((true * shown).sum(axis=0)[power > 0] / power[power > 0]))
        found["coexpression_mae"] = coexpression_agreement(job.truth, one)[1]
        weights = knn_weights(job.targets.xy_um)
        structure = [moran(values, weights) for values in (job.truth, one)]
        found |= {"moran": float(np.nanmean(structure[1])), "moran_truth": float(np.nanmean(structure[0]))}
        found["moran_mae"] = float(np.nanmean(np.abs(structure[0] - structure[1])))
    else:
        view = np.log2(1 + mean)
        found = dict(zip(("pcc", "inside"), correlations(log2, view, job.group)))
        normed = correlations(normalize_library_size(log2), normalize_library_size(view), job.group)
        found |= dict(zip(("pcc_norm", "inside_norm"), normed))
    if draws is None:
        return found
    noisy = np.log2(1 + draws)
    found["energy"] = float(energy_score(noisy if toy else with_counting_noise(noisy, seed), log2).mean())
    if toy:
        found["coverage"] = float(((job.truth >= draws.min(axis=0)) & (job.truth <= draws.max(axis=0))).mean())
    else:
        found["coverage"] = covered(job.truth, draws)
    return found


def covered(counts: np.ndarray, rates: np.ndarray) -> float:
    """Return how often the randomised PIT of counts is in the central 90 % under Poisson laws around all draws."""
    below, above = (np.mean([poisson.cdf(counts - shift, rate) for rate in rates], axis=0) for shift in (1, 0))
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    width = np.maximum(above - below, 1e-12)
    return float(((np.clip(above, low, high) - np.clip(below, low, high)) / width).mean())


def differences(job: Job, predicted: Predictions, against: str, labels: list[str]) -> dict[str, dict[str, list[float]]]:
    """Return 95 % bootstrap intervals over spots of the difference of methods in each correlation."""
    result: dict[str, dict[str, list[float]]] = {}
    for end, view in (("", np.asarray), ("_norm", normalize_library_size)):
        truth, base = (view(np.log2(1 + values)) for values in (job.truth, predicted[against][0]))
        for label in labels:
            other = view(np.log2(1 + predicted[label][0]))
            for name in ("pcc", "inside"):
                of = [v if name == "pcc" else within_groups(v, job.group) for v in (truth, base, other)]
                told = paired_bootstrap(
                    lambda r, t=of[0], b=of[1], o=of[2]: float(
                        np.nanmean(pearson(t[r], o[r])) - np.nanmean(pearson(t[r], b[r]))
                    ),
                    len(truth),
                    n_resamples=300,
                )
                result.setdefault(label, {})[name + end] = [round(float(value), 4) for value in told]
    return result


def run_toy(seed: int, size_um: float) -> tuple[list[dict], list[dict]]:
    jobs = toy_jobs(seed, size_um=size_um)
    model = fitted(jobs, seed)
    job = jobs[0]
    predicted = baselines(job, DenseRidge.fit([j.section for j in jobs], TOY_UM), seed, own=True)
    predicted["hisdiff"] = job.predicted(model, "shrink", seed)
    predicted["hisdiff, exact"] = job.predicted(model, "exact", seed)
    predicted |= oracle(job, of_genes(model, job.genes))
    return [{"test": "toy", "section": f"seed {seed}", "seed": seed, "method": label, **metrics(job, *both, seed)}
            for label, both in predicted.items()], []  # fmt: skip


def run_merged(test: str, jobs: list[Job], seed: int) -> tuple[list[dict], list[dict]]:
    """Fit and judge one test of the real sections; intervals are those of the first seed."""
    rows, apart = [], []
    full = 1.0
    if test == "thinned":
        jobs, full = [job.thinned(KEPT, 1000 * seed + i) for i, job in enumerate(jobs)], 1 / KEPT
    if test == "split":
        jobs = [job.split(1000 * seed + i) for i, job in enumerate(jobs)]
    own = test != "unknown"
    model, ridge = (fitted(jobs, seed), DenseRidge.fit([j.section for j in jobs], MERGED_UM)) if own else (None, None)
    for job in jobs:
        if not own:
            others = [other for other in jobs if other is not job]
            model, ridge = fitted(others, seed), DenseRidge.fit([other.section for other in others], MERGED_UM)
        predicted = baselines(job, ridge, seed, own=own)
        for mode in ("shrink", "exact") if own else ("none",):
            label = "hisdiff" if mode != "exact" else "hisdiff, exact"
            predicted[label] = job.predicted(model, mode, seed, None if own else model.cohort.library_size)
        predicted = {name: (mean * full, None if d is None else d * full) for name, (mean, d) in predicted.items()}
        of = {label: metrics(job, *both, seed) for label, both in predicted.items()}
        rows += [{"test": test, "section": job.name, "seed": seed, "method": m, **found} for m, found in of.items()]
        if seed == 0:
            labels = [label for label in predicted if label.startswith("hisdiff")]
            rivals = [RIDGE if own else RAW_RIDGE]
            if own:
                rivals.append(max(INTERPOLATIONS, key=lambda name: of[name]["pcc"]))
            for rival in rivals:
                for label, told in differences(job, predicted, rival, labels).items():
                    apart.append({"test": test, "section": job.name, "method": label, "against": rival, **told})
    return rows, apart


def show(test: str, rows: pd.DataFrame, apart: list[dict]) -> None:
    columns = [name for name in COLUMNS if name in rows and rows[name].notna().any()]
    means = rows.groupby("method", sort=False)[columns].mean()
    print(f"\n{test}: means over sections and seeds\n\n| | {' | '.join(COLUMNS[name] for name in columns)} |")
    print("|" + "---|" * (len(columns) + 1))
    for method, row in means.iterrows():
        print(f"| {method} | " + " | ".join("" if pd.isna(v) else f"{v:.3f}" for v in row) + " |")
    if "moran_truth" in rows:
        print(f"\nMoran's I of the truth: {rows['moran_truth'].mean():.3f}")
    for name in ("pcc", "inside"):
        by = rows.pivot_table(name, "method", "section").loc[rows["method"].unique()]
        print(f"\n{COLUMNS[name]} by section\n{by.round(3).to_string()}")
    for one in apart:
        told = "; ".join(f"{k} {v[0]:+.3f} [{v[1]:+.3f}, {v[2]:+.3f}]" for k, v in one.items() if isinstance(v, list))
        print(f"{one['section']}, {one['method']} minus {one['against']}: {told}")


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) if root else None, help="folder of her2st and mob")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--window", type=float, help="sd of the window of rates that vary slowly, in bins; 0: of the bin alone"
    )
    parser.add_argument("--toy-um", type=float, default=1600.0, help="side of the toy sections")
    parser.add_argument("--json", type=Path, help="where to write all metrics; those of other tests are kept")
    args = parser.parse_args()
    hd.settings.verbosity = "error"
    if args.window is not None:
        _local._WINDOW = args.window
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"rows": [], "differences": []}
    real = [test for test in args.tests if test != "toy"]
    if real and args.data is None:
        parser.error("--data names a folder with her2st and mob; or set HISDIFF_TEST_DATA")
    sizes = sorted({3 if test == "3x3" else 2 for test in real})
    merged = merged_jobs(args.data, args.sections, sizes) if real else {}
    for test in args.tests:
        start = time.perf_counter()
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        for kind in results:
            replaced = lambda row: row["test"] == test and row.get("seed", 0) in seeds  # noqa: B023, E731
            results[kind] = [row for row in results[kind] if not replaced(row)]
        for seed in seeds:
            of = (
                run_toy(seed, args.toy_um)
                if test == "toy"
                else run_merged(test, merged[3 if test == "3x3" else 2], seed)
            )
            for kind, found in zip(results, of):
                results[kind] += found
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
        rows, apart = ([row for row in results[kind] if row["test"] == test] for kind in results)
        show(test, pd.DataFrame(rows), apart)
        print(f"\n{test}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
