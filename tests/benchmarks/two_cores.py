"""How much faster two cores are than one: embedding, a grid and a fine prediction of one toy slide.

    python tests/benchmarks/two_cores.py [--side-um 2400] [--resolution-um 8] [--rounds 3] [--json FILE]

Each job runs on one core, on two cores of one process, and on two workers of a local Dask cluster, in processes of their own that
take turns, so that other work on the machine falls on all of them. Each process, also each worker, does the job on a small slide first: imports,
the start of the workers, loading of compiled code and the fit are not counted. The digests say whether the results are the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

JOBS = ("embed", "grid", "predict")
WAYS = {"one core": (1, 0), "two cores": (2, 0), "two workers": (2, 2)}
"""Cores, and workers of a cluster; none computes in the process itself."""


def prepare(folder: Path, side_um: float) -> None:
    """Write a slide with its spots embedded, a small one, and a model of another one."""
    import hisdiff as hd

    hd.tl.fit(hd.datasets.toy(seed=0, size_um=800), save=folder / "model")
    for name, side in (("small", 400.0), ("slide", side_um)):
        sdata = hd.datasets.toy(seed=1, size_um=side)
        hd.pp.embed(sdata)
        sdata.write(folder / f"{name}.zarr")


def do(job: str, store: Path, model: Any, resolution_um: float) -> np.ndarray:
    """Do a job on the slide of a store."""
    import spatialdata as sd

    import hisdiff as hd

    sdata = sd.read_zarr(store)
    table = sdata.tables["table"]
    if job == "embed":
        del table.obsm["hisdiff_embedding"], table.uns["hisdiff"]["embedding"]
        hd.pp.embed(sdata)
        return table.obsm["hisdiff_embedding"]
    if job == "grid":
        hd.pp.grid(sdata, resolution_um)
        return sdata.images[f"grid_{resolution_um:g}um_embedding"].to_numpy()
    return hd.tl.predict(sdata, model, resolution_um=resolution_um, inplace=False).X


def warm(path: list[str], job: str, store: Path, model: Path, resolution_um: float) -> None:
    """Do a job on a copy of a small slide; run on each worker."""
    sys.path[:] = path
    import hisdiff as hd

    hd.settings.verbosity = "error"
    with tempfile.TemporaryDirectory(dir=store.parent) as place:
        do(job, shutil.copytree(store, Path(place) / store.name), hd.models.load(model), resolution_um)


def one(job: str, folder: Path, workers: int, resolution_um: float) -> dict[str, float | str]:
    """Do a job in this process, on workers where there are some, and time it."""
    from distributed import Client, LocalCluster

    import hisdiff as hd

    hd.settings.verbosity = "error"
    with tempfile.TemporaryDirectory(dir=folder) as place, contextlib.ExitStack() as stack:
        small, slide = (shutil.copytree(folder / name, Path(place) / name) for name in ("small.zarr", "slide.zarr"))
        model = hd.models.load(folder / "model")
        if workers:
            cluster = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
            client = stack.enter_context(Client(cluster))
            client.run(warm, sys.path + [str(Path(__file__).parent)], job, small, folder / "model", resolution_um)
        do(job, small, model, resolution_um)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        values = do(job, slide, model, resolution_um)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]
        return {"wall_s": round(wall, 2), "cpu_s_of_the_client": round(cpu, 2), "digest": digest}


def measured(job: str, way: str, folder: Path, resolution_um: float) -> dict[str, float | str]:
    """Run a job in a process that may use so many cores."""
    cores, workers = WAYS[way]
    mine = sorted(os.sched_getaffinity(0))[:cores]
    line = [sys.executable, __file__, "--one", job, "--folder", str(folder), "--workers", str(workers)]
    done = subprocess.run(  # before any library starts its threads
        [*line, "--resolution-um", str(resolution_um)], check=True, capture_output=True, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, mine),
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> dict[str, dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-um", type=float, default=2400.0, help="side of the slide")
    parser.add_argument("--resolution-um", type=float, default=8.0, help="side of the bins")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(one(args.one, args.folder, args.workers, args.resolution_um)))
        return {}
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, args.side_um)
        for job in args.jobs:
            runs = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way in WAYS:
                    runs[way].append(measured(job, way, folder, args.resolution_um))
            best = {way: min(float(run["wall_s"]) for run in runs[way]) for way in WAYS}
            found[job] = {
                "wall_s": best,
                "factor": {way: round(best["one core"] / best[way], 2) for way in WAYS},
                "same_bytes": len({run["digest"] for of in runs.values() for run in of}) == 1,
                "runs": runs,
            }
            print(job, *(f"{way} {best[way]:.1f} s (x {best['one core'] / best[way]:.2f})" for way in WAYS), "same bytes:",
                  found[job]["same_bytes"], flush=True)  # fmt: skip
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
