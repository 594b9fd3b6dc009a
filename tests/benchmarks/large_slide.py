"""Time and memory of streaming over a slide that does not fit into memory.

    python tests/benchmarks/large_slide.py [--side 60000] [--resolution 16] [--folder DIR] [--model MODEL] [--json FILE]

The slide is a synthetic pyramid at 0.35 um per pixel, written once to ``--folder``: a square of toy tissue, mirrored so
that it has no border, over and over, in a frame of glass. ``--model`` (a saved model) predicts on it as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import spatialdata
from spatialdata import SpatialData

import hisdiff as hd
from hisdiff.io import _build

MPP = 0.35
GLASS = 243
PERIOD_PX = 2048
KEY = "slide_image"


def base() -> np.ndarray:
    """A square of tissue, uint8 ``(3, PERIOD_PX, PERIOD_PX)``, that continues itself on all sides."""
    half = PERIOD_PX // 2
    toy = hd.datasets.toy(size_um=400, mpp=MPP)
    square = next(iter(toy.images.values()))["scale0"]["image"].values[:, 40 : half + 40, 40 : half + 40]
    wide = np.concatenate([square, square[:, :, ::-1]], axis=2)
    return np.ascontiguousarray(np.concatenate([wide, wide[:, ::-1]], axis=1))


def levels(side: int) -> list[da.Array]:
    """The pyramid of a slide of ``side`` pixels, made piece by piece when it is written."""
    square, found = base(), []
    while not found or max(found[-1].shape[1:]) > _build.SMALLEST_LEVEL:
        size = side >> len(found)
        frame = size // 100

        def paint(block: np.ndarray, block_info: Any, square=square, size=size, frame=frame) -> np.ndarray:
            (_, (y0, y1), (x0, x1)) = block_info[None]["array-location"]
            ys, xs = np.arange(y0, y1), np.arange(x0, x1)
            pixels = square[:, ys % square.shape[1]][:, :, xs % square.shape[2]]
            off = [(at < frame) | (at >= size - frame) for at in (ys, xs)]
            pixels[:, off[0][:, None] | off[1][None]] = GLASS
            return pixels

        chunks = (3, _build.CHUNK, _build.CHUNK)
        found.append(da.map_blocks(paint, da.zeros((3, size, size), chunks=chunks, dtype=np.uint8), dtype=np.uint8))
        square = _build.halve(square)
    return found


def write_slide(path: Path, side: int) -> None:
    """Write the slide, unless it is there already."""
    if path.exists():
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    image = _build.image_element(levels(side), _build.transformations(MPP))
    with dask.config.set(scheduler="threads", num_workers=2):
        SpatialData(images={KEY: image}).write(unfinished)
    unfinished.rename(path)


def stream(path: Path, resolution_um: float, model: str | None = None) -> dict[str, float]:
    """Embed, and predict where there is a model; return bins, seconds (also of processor) and peak resident memory in GB of each step."""
    result: dict[str, float] = {}
    steps = {"grid": lambda sdata: hd.pp.grid(sdata, resolution_um)}
    if model is not None:
        steps["predict"] = lambda sdata: hd.tl.predict(sdata, model, resolution_um=resolution_um)
    for name, step in steps.items():
        sdata = spatialdata.read_zarr(path)
        start, busy = time.perf_counter(), time.process_time()
        step(sdata)
        result[f"{name}_s"], result[f"{name}_cpu_s"] = time.perf_counter() - start, time.process_time() - busy
        result[f"{name}_peak_gb"] = peak_gb()
    sdata = spatialdata.read_zarr(path)
    result["bins"] = int(sdata.labels[f"grid_{resolution_um:g}um"].data.max().compute())
    return result


def peak_gb() -> float:
    """Peak resident memory of this process in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--resolution", type=float, default=16.0)
    parser.add_argument("--folder", type=Path, default=Path("large_slide"))
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries, on reading
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / f"slide_{arguments.side}.zarr"
    start = time.perf_counter()
    write_slide(path, arguments.side)
    result = {"side_px": arguments.side, "write_s": time.perf_counter() - start, "start_gb": peak_gb()}
    result |= stream(path, arguments.resolution, arguments.model)
    for key, value in result.items():
        print(f"{key:16} {value:,.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
