"""Does XFuse find the maps that were planted? In an image simulated with two metagenes, and in the toy tissue.

python tests/benchmarks/xfuse_recovery.py --jobs simulated toy --config '{"max_steps": 600}'
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable

import numpy as np

import hisdiff as hd


def simulated(options: dict) -> dict[str, float]:
    """An image of 256 px simulated with two metagenes: are their maps found?"""
    from hisdiff.methods.xfuse import XFuse, XFuseConfig

    section, share = two_metagenes()
    config = XFuseConfig.from_dict({"n_metagenes": 2, "max_steps": 200, **options})
    start = time.perf_counter()
    fitted = XFuse().fit([section], config, progress=False)
    seconds = time.perf_counter() - start
    maps = fitted.field(section, n_draws=4)._canvas.window((0, 0), share.shape).mean(axis=0)
    activity = maps / maps.sum(axis=0)
    found = [abs(np.corrcoef(one.ravel(), share.ravel())[0, 1]) for one in activity]
    return {"fit_s": seconds, "metagenes": len(activity), "map_correlation": float(min(found))}


def toy(options: dict) -> dict[str, float]:
    """The toy tissue at the default settings: the maps of its programmes against the planted truth at 20 um."""
    sdata = hd.datasets.toy()
    hd.pp.select_genes(sdata)
    figures = {"fit_s": timed(lambda: hd.tl.fit(sdata, method="xfuse", config=options))}
    figures["bins_20um_s"] = timed(lambda: hd.tl.predict(sdata, resolution_um=20, calibrate="none"))
    bins, truth = sdata.tables["xfuse_20um"], sdata.tables["truth"]
    names = [gene for gene in truth.var_names if gene in set(bins.var_names)]
    known = {}
    expected = truth[:, names].X
    for (row, col), value in zip(truth.obs[["array_row", "array_col"]].to_numpy() // 2, np.asarray(expected)):
        known[row, col] = known.get((row, col), 0) + value
    places = [tuple(at) for at in bins.obs[["array_row", "array_col"]].to_numpy()]
    there = np.array([at in known for at in places])
    want = np.stack([known[at] for at, here in zip(places, there) if here])
    told = np.asarray(bins[there, names].X)
    for kind in ("TUM", "STR", "IMM"):
        of = np.array([name.startswith(kind) for name in names])
        figures[f"{kind}_map_correlation"] = float(np.corrcoef(want[:, of].sum(1), told[:, of].sum(1))[0, 1])
    return figures | {"gene_pcc": correlation(want, told)}


def two_metagenes(side_px: int = 256, mpp: float = 4.0):
    """Return a section simulated with two metagenes, told apart by colour, and the activity of the first."""
    import shapely
    from scipy.ndimage import gaussian_filter
    from scipy.sparse import csr_matrix

    from hisdiff._section import Locations, Section
    from hisdiff.methods.xfuse._slides import paint

    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=(side_px, side_px)), side_px / 16, mode="wrap")
    share = 1 / (1 + np.exp(-4 * field / field.std()))
    color = share[..., None] * [200, 110, 150] + (1 - share[..., None]) * [110, 80, 170]
    pixels = np.clip(color + rng.normal(0, 12, (side_px, side_px, 3)), 0, 255).astype(np.uint8)
    side_um, radius = side_px * mpp, 27.5
    centers = np.stack(np.meshgrid(*[np.arange(50, side_um, 100)] * 2), axis=-1).reshape(-1, 2)
    labels = paint(centers[:, ::-1] / mpp, np.full(len(centers), radius / mpp), share.shape)
    profile = rng.gamma(1, 0.05, (2, 40))
    density = np.stack([share, 1 - share], axis=-1) @ profile
    rate = np.stack([density[labels == k + 1].sum(axis=0) for k in range(len(centers))])
    counts = csr_matrix(rng.negative_binomial(rate + 1e-6, 0.5).astype(np.float32))

    class Image:
        bounds_um = (0.0, 0.0, side_um, side_um)

        def __init__(self) -> None:
            self.mpp = mpp

        def read(self, box_um, mpp):
            x0, y0, x1, y1 = (round(side / mpp) for side in box_um)
            return pixels[y0:y1, x0:x1]

    genes = np.array([f"G{i}" for i in range(40)])
    made = Section(
        "simulated", genes, counts, Locations(centers, radius), Image(), tissue=shapely.box(*Image.bounds_um)
    )
    return made.with_panel(genes), share


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean over columns of their correlation, of those that vary."""
    from hisdiff._stats._accuracy import pearson

    return float(np.nanmean(pearson(a, b)))


JOBS = {"simulated": simulated, "toy": toy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--config", type=json.loads, default={}, help="options of xfuse that differ from the default")
    args = parser.parse_args()
    for job in args.jobs:
        with tempfile.TemporaryDirectory() as cache, hd.settings.override(cache_dir=cache, progress=False):
            figures = JOBS[job](args.config)
        print(f"{job:<10}", "  ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
