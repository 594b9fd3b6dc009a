"""Time and memory of the methods beside `hisdiff` and `ridge`, on a real section.

    python tests/benchmarks/methods_speed.py --data her2st --section C5

TESLA: a map of all genes with superpixels of 50 pixels, from reading the object to the finished array. STAGE: 2,000
epochs on one section, and the held-out correlation. iStar: five members on the genes with the highest totals, from the
embedding to a map of 16 um; XFuse: the default setting on the same genes. Prints a table and, with --json, writes it.
Each job runs in a process of its own, so that the peak of memory is its own. `cpu_s` is time of the processor, which
others that use the machine do not change (but for threads that spin while they wait: set OMP_WAIT_POLICY=PASSIVE).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

STEP_PX = 50
N_GENES = 270


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder in the her2st layout")
    parser.add_argument("--section", default="C5")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--one", choices=list(JOBS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.data, options.section)))
        return
    rows = []
    for job in options.jobs:
        command = [sys.executable, __file__, "--data", options.data, "--section", options.section, "--one", job]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(" | ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if options.json:
        with open(options.json, "w") as file:  # noqa: PTH123
            json.dump(rows, file, indent=2)


def run(job: str, data: str, section: str) -> dict[str, object]:
    import hisdiff as hd

    sdata = hd.io.her2st(data, section)
    with tempfile.TemporaryDirectory() as folder, hd.settings.override(cache_dir=folder, progress=False):
        start, busy = time.perf_counter(), time.process_time()
        row = JOBS[job](hd, sdata)
        times = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - busy}
        row = {"job": job, **row, **{name: round(value, 1) for name, value in times.items()}}
    return row | {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)}


def tesla(hd, sdata) -> dict[str, object]:
    from hisdiff._sdata._read import open_sections

    table = sdata.tables["table"]
    hd.pp.select_genes(sdata, genes=list(table.var_names))
    step = STEP_PX * open_sections(sdata, needs=("image",))[0].section.image.mpp
    model = hd.tl.fit(sdata, method="tesla", config={"step_um": step})
    fine = hd.tl.predict(sdata, model, resolution_um=step, inplace=False)
    return {
        "superpixels": fine.n_obs,
        "genes": fine.n_vars,
        "no_neighbour": round(float(np.isnan(fine.X[:, 0]).mean()), 3),
        "left_out_pcc": round(float(np.nanmean(model.calibration.cv_pcc)), 3),
    }


def stage(hd, sdata) -> dict[str, object]:
    model = hd.tl.fit(sdata, method="stage", config={"max_steps": 2000})
    return {
        "genes": len(model.genes),
        "trained_spots": int(model.fitted.frame.sections[0].trained.sum()),
        "position_error_um": round(model.fitted.position_error_um, 1),
        "held_out_pcc": round(float(np.nanmean(model.calibration.cv_pcc)), 3),
        "held_out_pcc_normalised": round(model.history[-1]["held_out_pcc"], 3),
    }


def istar(hd, sdata) -> dict[str, object]:
    select_highest(hd, sdata)
    embed = timed(lambda: hd.pp.embed(sdata, "texture"))
    return {"embed_s": embed, **mapped(hd, sdata, "istar")}


def xfuse(hd, sdata) -> dict[str, object]:
    select_highest(hd, sdata)
    return mapped(hd, sdata, "xfuse")


def select_highest(hd, sdata) -> None:
    table = sdata.tables["table"]
    order = np.argsort(-np.asarray(table.X.sum(axis=0)).ravel(), kind="stable")
    hd.pp.select_genes(sdata, genes=list(table.var_names[order[:N_GENES]]))


def mapped(hd, sdata, method: str) -> dict[str, object]:
    """Fit on a section; predict its spots and a map of 16 um. The correlation is with the spots that were fitted."""
    from hisdiff._stats._accuracy import pearson

    row: dict[str, object] = {"fit_s": timed(lambda: hd.tl.fit(sdata, method=method))}
    row["spots_s"] = timed(lambda: hd.tl.predict(sdata))
    row["bins_s"] = timed(lambda: hd.tl.predict(sdata, resolution_um=16))
    table, bins = sdata.tables["table"], sdata.tables[f"{method}_16um"]
    genes = table.var["hisdiff_selected"].to_numpy()
    told = pearson(np.log2(1 + table.X[:, genes].toarray()), table.layers[method][:, genes])
    return {"genes": int(genes.sum()), "bins": bins.n_obs, **row, "in_sample_pcc": round(float(np.nanmean(told)), 3)}


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 1)


JOBS = {"tesla": tesla, "stage": stage, "istar": istar, "xfuse": xfuse}


if __name__ == "__main__":
    main()
