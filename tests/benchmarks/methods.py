"""All methods in one table, on the two jobs of `hd.tl.compare`.

    python tests/benchmarks/methods.py --data her2st --seeds 3 --json methods.json
    python tests/benchmarks/methods.py --data her2st --jobs coarse --methods tesla istar

`coarse`: in C2 to C5, 2 x 2 spots are merged; methods are fitted on the pseudo-spots of the four sections (`tesla` and
`stage` on each section alone) and predict the original spots. `unseen`: methods are fitted on C2, C3, C4 and predict C5.
`xfuse` runs in a small setting, since it learns its features from nothing, and `stage` on all spots. With --json the
rows are added to those that the file holds of other methods and sections, so that they can be run one at a time:
`ridge` passes a patch for every bin of `coarse` through the encoder, which takes minutes for a section.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

import hisdiff as hd

SECTIONS = ("C2", "C3", "C4", "C5")
SETTINGS: dict[str, tuple[str, object]] = {
    "hisdiff": ("hisdiff", "fast"),
    "ridge": ("ridge", "baseline"),
    "istar": ("istar", "fast"),
    "xfuse": ("xfuse", {"image_mpp": 8, "levels": 3, "channels": 8, "patch_px": 64, "max_steps": 400}),
    "tesla": ("tesla", "fast"),
    "stage": ("stage", {"train_fraction": 1.0}),
}
JOBS = {"coarse": tuple(SETTINGS), "unseen": ("hisdiff", "ridge", "istar", "xfuse")}
COARSE_DRAWS = 8  # the energy score does not depend on how many there are, only its noise does
COLUMNS = {
    "pcc_all": "PCC",
    "pcc_all_norm": "norm",
    "pcc_within": "inside",
    "pcc_within_norm": "norm",
    "mse": "MSE",
    "energy_score": "ES",
    "coexpression_mae": "coex MAE",
    "coexpression_mae_norm": "norm",
    "moran_mae": "Moran MAE",
    "moran_mae_norm": "norm",
    "rvd": "RVD",
    "fit_s": "fit s",
    "predict_s": "predict s",
    "peak_gb": "GB",
}


def run(job: str, methods: list[str], sections: dict, judged: list[str], seeds: int) -> pd.DataFrame:
    """Compare methods on a job; `methods` are names of SETTINGS, `judged` sections whose spots are predicted."""
    entries = {name: SETTINGS[name] for name in methods}
    if job == "coarse":
        hd.pp.select_genes(list(sections.values()))
        train = [sdata for name, sdata in sections.items() if name not in judged]
        test = [sections[name] for name in judged]
        return hd.tl.compare(train, test, entries, coarsen=2, n_seeds=seeds, n_draws=COARSE_DRAWS)
    train = [sections[name] for name in SECTIONS[:-1]]
    hd.pp.select_genes(train)
    return hd.tl.compare(train, sections[SECTIONS[-1]], entries, n_seeds=seeds)


def show(job: str, rows: pd.DataFrame) -> None:
    """Print means over sections and seeds, and the correlation of each section with its spread over seeds."""
    columns = [name for name in COLUMNS if name in rows and rows[name].notna().any()]
    means = rows.groupby("method", sort=False)[columns].mean().round(3)
    print(f"\n{job}: means over sections and seeds\n\n| | {' | '.join(COLUMNS[name] for name in columns)} |")
    print("|" + "---|" * (len(columns) + 1))
    for method, row in means.iterrows():
        print(f"| {method} | " + " | ".join("" if pd.isna(v) else f"{v:.3f}" for v in row) + " |")
    for name in [name for name in ("pcc_all", "pcc_within") if name in columns]:
        by = rows.pivot_table(name, "method", "section", ["mean", "std"], sort=False).round(3)
        print(f"\n{name} by section, and its sd over seeds\n{by.to_string(na_rep='')}")


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) / "her2st" if root else None, help="folder of her2st")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--methods", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--judged", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections of `coarse`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="rows of all methods that were run so far")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data names the folder of her2st (ST-cnts, ST-imgs, ST-spotfiles); or set HISDIFF_TEST_DATA")
    hd.settings.verbosity = "warning"
    sections = {name: hd.io.her2st(args.data, name) for name in SECTIONS}
    known = pd.read_json(args.json) if args.json and args.json.exists() else pd.DataFrame()
    for job in args.jobs:
        methods = [name for name in args.methods if name in JOBS[job]]
        if not methods:
            continue
        rows = run(job, methods, sections, args.judged, args.seeds).assign(job=job)
        if len(known):
            keys = ["job", "method", "section"]
            replaced = pd.MultiIndex.from_frame(known[keys]).isin(pd.MultiIndex.from_frame(rows[keys]))
            rows = pd.concat([known[(known["job"] == job) & ~replaced], rows], ignore_index=True)
            known = known[known["job"] != job]
        known = pd.concat([known, rows], ignore_index=True)
        show(job, rows)
        if args.json:
            args.json.write_text(known.to_json(orient="records", indent=1) + "\n")


if __name__ == "__main__":
    main()
