"""CPU time and memory of fitting and predicting at the sizes of cohorts, on synthetic sections.

    OMP_NUM_THREADS=1 python tests/benchmarks/size.py --jobs fit predict --spots 2000 8000 32000
    OMP_NUM_THREADS=1 python tests/benchmarks/size.py --jobs fit --spots 4000 --genes 10000

Jobs: ``fit`` and ``fit-ridge``, a cohort of sections of at most 4,000 spots each; ``predict``, one section of that many spots with
16 draws, one of them kept; ``fine``, a section of that many measured bins of 8 um, predicted in these bins, streamed to a
temporary store. Expression is Poisson around six fields that the
embedding shows among noise. Each size runs in a process of its own, so that the peak of memory is its own; it includes the
interpreter and its libraries. ``cpu_s`` is time of the processor, ``wall_s`` beside it; what was loaded and simulated before is not
counted. ``exponent`` is the growth of ``cpu_s`` since the size before. ``--profile`` prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from hisdiff._section import FeatureSpec, Locations, Section

PITCH_UM, RADIUS_UM = 100.0, 27.5
LARGEST_SECTION = 4000
N_FIELDS = 6
JOBS = ("fit", "fit-ridge", "predict", "predict-ridge", "fine")
BIN_UM = 8.0
N_FITTED = 1000
BLOCK = 4096


class Fields:
    """Features of places of one section: smooth fields among noise."""

    def __init__(self, xy_um: np.ndarray, seed: int, dim: int) -> None:
        rng = np.random.default_rng(seed)
        shared = np.random.default_rng(0)
        self._waves = rng.uniform(-1, 1, (N_FIELDS, 6, 2)) * 2 * np.pi / 1500
        self._phases = rng.uniform(0, 2 * np.pi, (N_FIELDS, 6))
        self.fields = self.field_of(xy_um)
        mixing = shared.normal(size=(N_FIELDS, dim))
        self.values = (self.fields @ mixing + rng.normal(size=(len(xy_um), dim))).astype(np.float32)
        self.spec = FeatureSpec("fields", "1", dim, 0.5, 100.0)
        self.mean, self.std = self.values.mean(axis=0), self.values.std(axis=0)
        self._tree = cKDTree(xy_um)

    def field_of(self, xy_um: np.ndarray) -> np.ndarray:
        """The fields at places, ``(n, 6)``."""
        return np.sin(np.einsum("nd,fwd->nfw", xy_um, self._waves) + self._phases).sum(axis=2) / np.sqrt(3)

    def at(self, locations: Locations) -> np.ndarray:
        return self.values[self._tree.query(locations.xy_um)[1]]


def section(name: str, seed: int, n: int, n_genes: int, dim: int) -> Section:
    """Spots on a square grid."""
    side = math.ceil(math.sqrt(n))
    xy = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[:n] + 1.0) * PITCH_UM
    features = Fields(xy, seed, dim)
    shared, rng = np.random.default_rng(1), np.random.default_rng(seed)
    loadings, level = 0.6 * shared.normal(size=(N_FIELDS, n_genes)), shared.uniform(0, 5, n_genes)
    rows = [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]
    counts = [
        csr_matrix(rng.poisson(np.exp2(features.fields[r] @ loadings + level - 1)).astype(np.float32)) for r in rows
    ]
    genes = np.array([f"G{i}" for i in range(n_genes)])
    made = Section(name, genes, vstack(counts, format="csr"), Locations(xy, RADIUS_UM), None, features)
    return made.with_panel(genes)


class Smooth:
    """Features of any place, and of any bins: six smooth fields, mixed."""

    reentrant = True

    def __init__(self, seed: int, dim: int, side_um: float) -> None:
        self._fields = Fields(np.zeros((2, 2)), seed, dim).field_of
        self._mixing = np.random.default_rng(0).normal(size=(N_FIELDS, dim))
        self.spec = FeatureSpec("smooth", "1", dim, 0.5, 100.0)
        sample = self._of(np.random.default_rng(seed).uniform(0, side_um, (500, 2)))
        self.mean, self.std = sample.mean(axis=0), sample.std(axis=0)

    def _of(self, xy_um: np.ndarray) -> np.ndarray:
        return (self._fields(xy_um) @ self._mixing).astype(np.float32)

    def at(self, locations: Locations) -> np.ndarray:
        rows = range(0, len(locations), BLOCK)
        return np.concatenate([self._of(locations.xy_um[start : start + BLOCK]) for start in rows])

    def raster(self, box_um: tuple[float, float, float, float], resolution_um: float) -> np.ndarray:
        x0, y0, x1, y1 = box_um
        n = round((y1 - y0) / resolution_um), round((x1 - x0) / resolution_um)
        y, x = ((np.arange(k) + 0.5) * resolution_um + start for k, start in zip(n, (y0, x0)))
        return self._of(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)).reshape(*n, -1)


def smooth(made: Section, seed: int, dim: int) -> Section:
    """The same section with features of any place and any bins."""
    low, high = made.spots.xy_um.min(axis=0) - PITCH_UM, made.spots.xy_um.max(axis=0) + PITCH_UM
    features = Smooth(seed, dim, float(high.max()))
    return replace(made, features=features, dense=features, tissue=shapely.box(*low, *high))


def measured_bins(n: int, n_genes: int, dim: int) -> Section:
    """A section measured in bins of 8 um, a tenth of a count for each gene."""
    side = math.ceil(math.sqrt(n))
    bins = Locations.bins(np.stack(np.divmod(np.arange(n), side), axis=1) + 20, BIN_UM)
    rng, parts = np.random.default_rng(9), []
    for start in range(0, n, BLOCK):
        parts.append(csr_matrix(rng.poisson(0.1, (min(BLOCK, n - start), n_genes)).astype(np.float32)))
    genes = np.array([f"G{i}" for i in range(n_genes)])
    made = Section("HD", genes, vstack(parts, format="csr"), bins, None, None).with_panel(genes)
    return smooth(made, 9, dim)


def fine(n: int, n_genes: int, dim: int, method, config, run: dict):
    """Predictions of bins of 8 um in agreement with their counts, with the model of a small cohort."""
    from hisdiff.tl._fine import fine_predictor, predict_bins

    sections = [smooth(made, 10 + i, dim) for i, made in enumerate(cohort(N_FITTED, n_genes, dim))]
    fitted, new = method.fit(sections, config, **run), measured_bins(n, n_genes, dim)

    def work():
        field = fitted.field(new, n_draws=4, **run)
        how = {"calibrate": "shrink", "units": "counts", "keep_draws": 0, "seed": 0, "of_shapes": False}
        with tempfile.TemporaryDirectory() as folder:
            predictor = fine_predictor(new, field, BIN_UM, **how)
            made = predict_bins(predictor, Locations.bins(new.spots.array_ij, BIN_UM), Path(folder), {}, show=False)
            assert np.isfinite(made.mean[:100]).all()

    return work


def cohort(n: int, n_genes: int, dim: int) -> list[Section]:
    """Sections of equal size, four at least."""
    parts = max(4, math.ceil(n / LARGEST_SECTION))
    return [section(f"S{i}", 10 + i, n // parts, n_genes, dim) for i in range(parts)]


def job_of(name: str, n: int, n_genes: int, dim: int):
    """Return what is measured, with its inputs ready."""
    from hisdiff.methods._registry import get

    method = get("ridge" if name.endswith("ridge") else "hisdiff")
    config = next(iter(np.atleast_1d(method.config_type)))()
    run = {"seed": 0, "device": "cpu", "progress": False}
    if name == "fine":
        return fine(n, n_genes, dim, method, config, run)
    if name.startswith("fit"):
        sections = cohort(n, n_genes, dim)
        return lambda: method.fit(sections, config, **run)
    fitted = method.fit(cohort(min(N_FITTED, n), n_genes, dim), config, **run)
    new = section("NEW", 9, n, n_genes, dim)
    return lambda: fitted.predict(new, new.spots, n_draws=16, keep_draws=1, **run)


def measured(name: str, n: int, n_genes: int, dim: int, profile: str | None) -> dict[str, float]:
    work = job_of(name, n, n_genes, dim)
    profiler = cProfile.Profile()
    start, busy = time.perf_counter(), time.process_time()
    if profile:
        profiler.runcall(work)
    else:
        work()
    row = {"cpu_s": round(time.process_time() - busy, 2), "wall_s": round(time.perf_counter() - start, 2)}
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats(profile).print_stats(45)
    return row | {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)}


def apart(job: str, n: int, sizes: tuple[int, int], profile: str | None) -> dict[str, float]:
    """Return what is measured in a process of its own."""
    line = ["--jobs", job, "--spots", str(n), "--genes", str(sizes[0]), "--dim", str(sizes[1]), "--one"]
    line += ["--profile", profile] if profile else []
    done = subprocess.run([sys.executable, __file__, *line], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(given: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=["fit", "predict"], choices=JOBS)
    parser.add_argument("--spots", nargs="+", type=int, default=[2000, 8000])
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--dim", type=int, default=128, help="of the embedding")
    parser.add_argument("--json", help="file to write, after every size")
    parser.add_argument("--profile", nargs="?", const="tottime", help="print where the time goes, by this column")
    parser.add_argument("--dry-run", action="store_true", help="in miniature, in this process")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    sizes = options.genes, options.dim
    if options.one:
        print(json.dumps(measured(options.jobs[0], options.spots[0], *sizes, options.profile)))
        return []
    if options.dry_run:
        options.spots, sizes = [60, 80], (12, 6)
    rows: list[dict] = []
    for job in options.jobs:
        before = None
        for n in options.spots:
            own = (
                measured(job, n, *sizes, options.profile) if options.dry_run else apart(job, n, sizes, options.profile)
            )
            row = {"job": job, "spots": n, "genes": sizes[0], "dim": sizes[1], **own}
            if before is not None and min(row["cpu_s"], before["cpu_s"]) > 0:
                row["exponent"] = round(math.log(row["cpu_s"] / before["cpu_s"]) / math.log(n / before["spots"]), 2)
            before = row
            rows.append(row)
            print(" | ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
