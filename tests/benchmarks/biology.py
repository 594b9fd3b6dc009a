"""What survives of gene-gene structure and pathways in a prediction of a left-out section: prints a table, writes JSON.

    python tests/benchmarks/biology.py --data her2st --seeds 3 --json biology.json

Train on C2 to C4, predict C5. The panel is the selected genes and the genes of the gene sets that are seen in at least a
tenth of the training spots. `draw` is the mean of the figures of single draws, `random spots` are measured training
spots drawn at random, the image ignored, and `resampled` the measured spots of C5 drawn again with replacement: how far a
figure moves by chance. Gene sets are tables of g:Profiler (columns ``initial_alias``, ``name``) in ``go-sets/``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

import hisdiff as hd

TRAIN, TEST = ("C2", "C3", "C4"), "C5"
METHODS = {"ridge": "baseline", "hisdiff": "fast"}
N_DRAWS = 16
MIN_SHARE = 0.1
STRUCTURE = ("r", "mae", "module_ari", "r_norm", "mae_norm", "module_ari_norm")
HEADINGS = {
    "r": "coex r", "mae": "MAE", "module_ari": "ARI", "r_norm": "r norm", "mae_norm": "MAE norm", "module_ari_norm": "ARI norm",
    "zscore": "z raw", "zscore_norm": "z norm", "ssgsea": "ssGSEA",
}  # fmt: skip
SCORES = {"zscore": ("zscore", None), "zscore_norm": ("zscore", "library_size"), "ssgsea": ("ssgsea", "library_size")}
ORDER = ("mean", "draw", "draws", "random spots", "resampled")


def read_sets(folder: Path) -> dict[str, list[str]]:
    """Return the gene sets of g:Profiler's tables, by accession."""
    sets: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.csv")):
        for term, rows in pd.read_csv(path).groupby("initial_alias"):
            sets[str(term)] = sorted(set(rows["name"].dropna()))
    return sets


def panel_of(train, sets: dict[str, list[str]]) -> tuple[list[str], int]:
    """Return the genes to model, and how many of them only the gene sets brought in."""
    hd.pp.select_genes(train)
    tables = [sdata.tables["table"] for sdata in train]
    chosen = set(tables[0].var_names[tables[0].var["hisdiff_selected"]])
    shared = set.intersection(*(set(table.var_names) for table in tables))
    wanted = sorted(shared.intersection(*[{gene for genes in sets.values() for gene in genes}]) - chosen)
    seen = np.mean(np.concatenate([(table[:, wanted].X > 0).toarray() for table in tables]), axis=0)
    added = [gene for gene, share in zip(wanted, seen) if share >= MIN_SHARE]
    return sorted(chosen) + added, len(added)


def measure(method: str, train, test, sets: dict[str, list[str]], correlation: str, seed: int) -> pd.DataFrame:
    """Fit, predict and compare; one row per view."""
    model = hd.tl.fit(train, method=method, config=METHODS[method], rng=seed)
    hd.tl.predict(test, model, n_draws=N_DRAWS, keep_draws=N_DRAWS, key_added="bench", rng=seed)
    frame = hd.tl.coexpression_agreement(test, layers="bench", method=correlation, control=train, rng=seed)
    frame = frame.set_index("view")[list(STRUCTURE)]
    for name, (score, normalize) in SCORES.items():
        pathways = hd.tl.pathway_agreement(test, sets, layers="bench", method=score, normalize=normalize, control=train, rng=seed)  # fmt: skip
        frame[name] = pathways.groupby("view")["pearson"].mean()
        for term, of_term in pathways.groupby("term"):
            frame[f"{name} {term}"] = of_term.set_index("view")["pearson"]
    sizes = pathways[pathways["view"] == "mean"].set_index("term")[["size", "total"]]
    frame.attrs["sizes"] = {term: [int(row["size"]), int(row["total"])] for term, row in sizes.iterrows()}
    return frame


def rows_of(runs: dict[str, list[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Return mean and sd over seeds by row of the table; what needs no method comes once."""
    rows = {}
    for method, frames in runs.items():
        stacked = pd.concat(frames, keys=range(len(frames)))
        for view in ORDER:
            label = view if view in ("random spots", "resampled") else f"{method}, {view}"
            of_view = stacked.xs(view, level=1)
            rows.setdefault(label, pd.DataFrame({"mean": of_view.mean(), "sd": of_view.std(ddof=0)}))
    order = [label for label in rows if "," in label] + ["random spots", "resampled"]
    return {label: rows[label] for label in order}


def verdicts(rows: dict[str, pd.DataFrame]) -> list[tuple[str, float, float, bool]]:
    """Return what was to be reached: text, figure, the figure to beat, whether it is met."""
    value = lambda label, figure: float(rows[label].loc[figure, "mean"])  # noqa: E731
    ours, theirs = "hisdiff, draw", "ridge, draw"
    found = []
    for end, kind in (("", "raw"), ("_norm", "library-size normalised")):
        for figure, sign in (("mae", -1), ("r", 1)):
            a, b = value(ours, figure + end), value(theirs, figure + end)
            found.append(
                (f"draw: coexpression {figure}, {kind}, not worse than ridge's draws", a, b, sign * (a - b) >= 0)
            )
        a, b = value(ours, f"mae{end}"), value("ridge, mean", f"mae{end}") / 3
        found.append((f"draw: coexpression mae, {kind}, at most a third of that of ridge's mean", a, b, a <= b))
        a, b = value(ours, f"module_ari{end}"), value(theirs, f"module_ari{end}")
        found.append((f"draw: module ARI, {kind}, above ridge's draws", a, b, a > b))
    for score in SCORES:
        a, b = value(ours, score), value(theirs, score)
        found.append((f"draw: pathway scores ({score}) above ridge's draws", a, b, a > b))
        a, b = value("hisdiff, mean", score), value("ridge, mean", score)
        found.append((f"mean: pathway scores ({score}) not below ridge", a, b, a >= b))
    return found


def show(rows: dict[str, pd.DataFrame]) -> None:
    width = max(map(len, rows))
    print(f"{'':{width}}  " + "  ".join(f"{heading:>12}" for heading in HEADINGS.values()))
    for label, frame in rows.items():
        cells = [frame.loc[figure] for figure in HEADINGS]
        text = ["" if np.isnan(c["mean"]) else f"{c['mean']:.3f} ±{c['sd']:.3f}" for c in cells]
        print(f"{label:{width}}  " + "  ".join(f"{cell:>12}" for cell in text))


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) / "her2st" if root else None, help="folder of her2st")
    parser.add_argument("--sets", type=Path, help="folder of the gene sets; default: go-sets in that folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--correlation", choices=("pearson", "spearman"), default="pearson")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data names the folder of her2st (ST-cnts, ST-imgs, ST-spotfiles); or set HISDIFF_TEST_DATA")
    hd.settings.verbosity = "warning"
    sets = read_sets(args.sets or args.data / "go-sets")
    train, test = [hd.io.her2st(args.data, name) for name in TRAIN], hd.io.her2st(args.data, TEST)
    genes, n_added = panel_of(train, sets)
    hd.pp.select_genes(train, genes=genes)
    hd.pp.embed([*train, test], encoder="texture")
    runs = {m: [measure(m, train, test, sets, args.correlation, seed) for seed in range(args.seeds)] for m in METHODS}
    rows, sizes = rows_of(runs), runs[next(iter(METHODS))][0].attrs["sizes"]
    n_spots = test.tables["table"].n_obs
    print(
        f"train {' '.join(TRAIN)}, predict {TEST}: {n_spots} spots, {len(genes)} genes, {n_added} of them for the gene sets"
    )
    print(
        "genes of each set that entered: "
        + ", ".join(f"{term} {size} of {total}" for term, (size, total) in sizes.items())
    )
    show(rows)
    reached = verdicts(rows)
    print()
    for text, ours, theirs, met in reached:
        print(f"{'reached    ' if met else 'NOT reached'}  {text}: {ours:.3f} against {theirs:.3f}")
    if args.json:
        results = {
            "version": hd.__version__, "seeds": args.seeds, "correlation": args.correlation, "n_spots": n_spots,
            "n_genes": len(genes), "added": n_added, "sets": sizes,
            "figures": {label: frame.T.to_dict() for label, frame in rows.items()},
            "reached": [[text, ours, theirs, bool(met)] for text, ours, theirs, met in reached],
        }  # fmt: skip
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
