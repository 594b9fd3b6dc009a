"""How long the map of a table with a million bins takes to draw, values read from a zarr store: prints seconds and memory.

python tests/benchmarks/fine_map.py --side 1000 --genes 100
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import zarr
from matplotlib import pyplot as plt
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, TableModel
from spatialdata.transformations import Scale

import hisdiff as hd

BIN_UM, MPP = 16.0, 4.0


def section_of(side: int, n_genes: int, folder: Path) -> SpatialData:
    """Return a square of bins with smooth values, X and spread in chunks of a zarr store."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(150, 250, (3, round(side * BIN_UM / MPP), round(side * BIN_UM / MPP)), dtype=np.uint8)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"um": Scale([MPP] * 2, axes=("x", "y"))})
    labels = np.arange(1, side**2 + 1, dtype=np.int32).reshape(side, side)
    bins = Labels2DModel.parse(labels, dims=("y", "x"), transformations={"um": Scale([BIN_UM] * 2, axes=("x", "y"))})
    row, column = np.divmod(np.arange(side**2), side)
    layers = {}
    for name in ("X", "std"):
        stored = zarr.open_array(folder / name, mode="w", shape=(side**2, n_genes), chunks=(64**2, n_genes), dtype="f4")
        for start in range(0, side**2, 64 * side):
            rows = slice(start, start + 64 * side)
            stored[rows] = 1 + np.sin(row[rows] / 40)[:, None] * np.cos(column[rows, None] / 40 + np.arange(n_genes))
        layers[name] = da.from_zarr(folder / name)
    obs = pd.DataFrame({"region": pd.Categorical(["bins"] * side**2), "instance_id": labels.ravel()})
    obs.index = obs.index.astype(str)
    table = ad.AnnData(
        layers["X"], obs, pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]), layers={"std": layers["std"]}
    )
    table.uns["hisdiff"] = {"made_by": "hisdiff", "predictions": {"hisdiff": {"units": "counts"}}}
    table = TableModel.parse(table, region="bins", region_key="region", instance_key="instance_id")
    return SpatialData(images={"he": image}, labels={"bins": bins}, tables={"hisdiff_16um": table})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1000, help="bins a side")
    parser.add_argument("--genes", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sdata = section_of(args.side, args.genes, Path(folder))
        for name, draw in (("gene_map", hd.pl.gene_map), ("uncertainty_map", hd.pl.uncertainty_map)):
            start, busy = time.perf_counter(), time.process_time()
            drawn = draw(sdata, "G7", table_key="hisdiff_16um")
            figure = drawn if hasattr(drawn, "savefig") else drawn.figure
            figure.savefig(Path(folder) / "map.png", dpi=150)
            took, work = time.perf_counter() - start, time.process_time() - busy
            print(f"{name}: {args.side**2:,} bins, {took:.1f} s ({work:.1f} s of processor)")
            plt.close("all")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"peak memory {peak:.2f} GB (the image and labels included)")


if __name__ == "__main__":
    main()
