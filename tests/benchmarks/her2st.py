"""Figures of merit on real Her2ST sections: prints a table for each split and writes JSON.

    python tests/benchmarks/her2st.py --data her2st --seeds 3 --json her2st.json
    python tests/benchmarks/her2st.py --data her2st --methods ridge hisdiff dit=hisdiff:dit

A method is a name that ``hd.tl.fit`` knows, or ``label=name:config`` with a preset or a JSON mapping. Genes, embedding and
split are the same for all. ``random spots`` are measured training spots drawn at random, the image ignored. Intervals are
95 % bootstrap intervals over spots of the difference between a method and ridge, both on the same resampled spots.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hisdiff as hd
from hisdiff._stats._accuracy import mse, pearson
from hisdiff._stats._proper import energy_score
from hisdiff._stats._resample import paired_bootstrap, random_spots
from hisdiff._stats._structure import normalize_library_size

SPLITS = {"C5": ("C2", "C3", "C4"), "B4": ("C2", "C3", "C4", "C5")}
N_DRAWS = 16
BASELINE = "ridge"
COLUMNS = (
    ("PCC", "mean", "pcc_all"),
    ("norm", "mean_norm", "pcc_all"),
    ("PCC-50", "mean", "pcc_50"),
    ("MSE", "mean", "mse"),
    ("ES", "mean", "energy_score"),
    ("cover", "mean", "coverage_90"),
    ("draw PCC", "draw", "pcc_all"),
    ("norm", "draw_norm", "pcc_all"),
    ("coex MAE", "draw", "coexpression_mae"),
    ("norm", "draw_norm", "coexpression_mae"),
    ("coex r", "draw", "coexpression_r"),
    ("RVD", "draw", "rvd"),
    ("fit s", "time", "fit"),
    ("predict s", "time", "predict"),
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
    """Figures of one seed, and what the bootstrap needs."""

    summary: dict[str, dict[str, float]]
    genes: list[str]
    measured: np.ndarray
    mean: np.ndarray
    draw: np.ndarray
    energy: np.ndarray


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - start


def log2_counts(sdata, genes: list[str]) -> np.ndarray:
    return np.log2(1 + sdata.tables["table"][:, genes].X.toarray().astype(np.float64))


def measure(entry: Entry, train, test, seed: int) -> Run:
    """Fit, predict, evaluate."""
    key = "bench"
    model, fit_s = timed(hd.tl.fit, train, method=entry.method, config=entry.config, rng=seed)
    _, predict_s = timed(hd.tl.predict, test, model, n_draws=N_DRAWS, keep_draws=N_DRAWS, key_added=key, rng=seed)
    frame = hd.tl.evaluate(test, layer=key, control=train)
    genes = list(frame.index)
    table = test.tables["table"][:, genes]
    measured = log2_counts(test, genes)
    draws = np.stack([table.layers[f"{key}_draw{i}"] for i in range(N_DRAWS)])
    summary = {**frame.attrs["summary"], "time": {"fit": fit_s, "predict": predict_s}}
    return Run(summary, genes, measured, np.asarray(table.layers[key]), draws[0], energy_score(draws, measured))


def average(runs: list[Run]) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation over seeds of every figure."""
    names = {group: list(values) for group, values in runs[0].summary.items()}
    figures = {g: {n: [run.summary[g][n] for run in runs] for n in ns} for g, ns in names.items()}
    return {g: {n: [float(np.mean(v)), float(np.std(v))] for n, v in values.items()} for g, values in figures.items()}


def compare(runs: list[Run], baseline: list[Run]) -> dict[str, list[float]]:
    """Return bootstrap intervals over spots of method minus ridge (of energy scores, the ratio), averaged over seeds."""
    measured = runs[0].measured
    flat = normalize_library_size(measured)
    correlation = lambda y, x: np.nanmean(pearson(y, x))  # noqa: E731
    figures = {
        "PCC": (correlation, measured, lambda run: run.mean),
        "PCC norm": (correlation, flat, lambda run: normalize_library_size(run.mean)),
        "MSE": (lambda y, x: mse(y, x).mean(), measured, lambda run: run.mean),
        "draw PCC": (correlation, measured, lambda run: run.draw),
    }
    result = {}
    for name, (score, y, values) in figures.items():
        ours, theirs = [values(run) for run in runs], [values(run) for run in baseline]

        def difference(rows, score=score, y=y, ours=ours, theirs=theirs) -> float:
            return float(np.mean([score(y[rows], a[rows]) - score(y[rows], b[rows]) for a, b in zip(ours, theirs)]))

        result[name] = list(paired_bootstrap(difference, len(measured), n_resamples=500))
    ours, theirs = (np.mean([run.energy for run in of], axis=0) for of in (runs, baseline))
    ratio = lambda rows: float(ours[rows].mean() / theirs[rows].mean())  # noqa: E731
    result["ES ratio"] = list(paired_bootstrap(ratio, len(measured), n_resamples=500))
    return result


def control(train, runs: list[Run]) -> dict[str, dict[str, list[float]]]:
    """Figures of random training spots: of one draw, and the energy score of as many draws as the methods make."""
    spots = np.concatenate([log2_counts(sdata, runs[0].genes) for sdata in train])
    scores = energy_score(random_spots(spots, len(runs[0].measured), N_DRAWS), runs[0].measured)
    summary = average(runs)
    return {
        "draw": summary["random_spots"],
        "draw_norm": summary["random_spots_norm"],
        "mean": {"energy_score": [float(scores.mean()), 0.0]},
    }


def show(title: str, table: dict[str, dict]) -> None:
    width = max(len(label) for label in table)
    print(f"\n{title}\n{'':{width}}  " + "  ".join(f"{heading:>9}" for heading, *_ in COLUMNS))
    for label, figures in table.items():
        cells = [figures.get(group, {}).get(figure, [np.nan])[0] for _, group, figure in COLUMNS]
        print(f"{label:{width}}  " + "  ".join(f"{'' if np.isnan(cell) else f'{cell:.3f}':>9}" for cell in cells))


def pipeline(data: Path, encoder: str, config: str) -> dict[str, float]:
    """Time read, embed, fit and predict of four sections from nothing, and the peak memory of the process."""
    names = (*SPLITS["C5"], "C5")
    sections, read_s = timed(lambda: [hd.io.her2st(data, name) for name in names])
    _, embed_s = timed(lambda: (hd.pp.select_genes(sections[:3]), hd.pp.embed(sections, encoder=encoder)))
    model, fit_s = timed(hd.tl.fit, sections[:3], config=config)
    _, predict_s = timed(hd.tl.predict, sections[3], model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    times = {"read": read_s, "embed": embed_s, "fit": fit_s, "predict": predict_s}
    return {**times, "total": sum(times.values()), "peak_gb": peak / 1e9}


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) / "her2st" if root else None, help="folder of her2st")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--methods", nargs="+", default=[BASELINE, "hisdiff"], help="NAME or LABEL=NAME:CONFIG")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS), help="section to predict")
    parser.add_argument("--encoder", default="texture")
    parser.add_argument("--n-hvg", type=int, default=2000, help="as in hd.pp.select_genes; large: no such filter")
    parser.add_argument("--config", default="fast", help="preset of hisdiff that the whole run is timed with")
    parser.add_argument("--skip-pipeline", action="store_true", help="do not time a run from nothing")
    parser.add_argument("--pipeline", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data names the folder of her2st (ST-cnts, ST-imgs, ST-spotfiles); or set HISDIFF_TEST_DATA")
    hd.settings.verbosity = "warning"
    if args.pipeline:
        print(json.dumps(pipeline(args.data, args.encoder, args.config)))
        return

    entries = [Entry.parse(text) for text in args.methods]
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine()}
    results = {
        "version": hd.__version__,
        "encoder": args.encoder,
        "seeds": args.seeds,
        "machine": machine,
        "splits": {},
    }
    needed = sorted({name for target in args.splits for name in (*SPLITS[target], target)})
    sections = {name: hd.io.her2st(args.data, name) for name in needed}
    _, results["embed_s"] = timed(hd.pp.embed, list(sections.values()), encoder=args.encoder)
    for target in args.splits:
        train, test = [sections[name] for name in SPLITS[target]], sections[target]
        hd.pp.select_genes(train, n_hvg=args.n_hvg)
        runs = {e.label: [measure(e, train, test, seed) for seed in range(args.seeds)] for e in entries}
        table = {label: average(of) for label, of in runs.items()}
        first = runs[entries[0].label]
        table["random spots"] = control(train, first)
        n, n_genes = first[0].measured.shape
        show(f"train {' '.join(SPLITS[target])}, predict {target}: {n} spots, {n_genes} genes", table)
        results["splits"][target] = {"n_spots": n, "n_genes": n_genes, "figures": table, "minus_ridge": {}}
        for label in runs.keys() - {BASELINE} if BASELINE in runs else ():
            apart = results["splits"][target]["minus_ridge"][label] = compare(runs[label], runs[BASELINE])
            told = "; ".join(f"{k} {e:+.3f} [{low:+.3f}, {high:+.3f}]" for k, (e, low, high) in apart.items())
            print(f"{label} against ridge: {told}")
    if not args.skip_pipeline:
        # A process of its own, so that the peak is that of one run and not of all the above.
        command = [sys.executable, __file__, "--pipeline", "--data", args.data, "--encoder", args.encoder]
        done = subprocess.run([*command, "--config", args.config], check=True, capture_output=True, text=True)
        results["pipeline"] = json.loads(done.stdout.strip().splitlines()[-1])
        print("\nfour sections from nothing: " + ", ".join(f"{k} {v:.2f}" for k, v in results["pipeline"].items()))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
