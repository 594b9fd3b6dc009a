"""Time and memory of streaming over a slide that does not fit into memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/large_slide.py [--side 60000] [--resolution 16] [--folder DIR] [--model MODEL] [--json FILE]

The slide is a synthetic pyramid at 0.35 um per pixel in ``--folder``: a square of toy tissue, mirrored so that it has no border, over
and over, in a frame of glass. Pieces that look alike are links to one file, so that the slide is made in seconds and takes little
of the disk; each is read and decompressed like any other, but from the system's cache and not from the disk. ``--model`` predicts on it as
well; where there is none in that folder, one of two toy sections of 1,600 um is fitted first. What was written is removed at the end, unless
``--keep`` is given; results of the whole slide take some 3 GB meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import spatialdata
import zarr
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


def write_slide(path: Path, side: int) -> None:
    """Write the slide, unless it is there already."""
    if path.exists():
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    sizes = [side]
    while sizes[-1] > _build.SMALLEST_LEVEL:
        sizes.append(side >> len(sizes))
    chunks = (3, _build.CHUNK, _build.CHUNK)
    # Pieces that are nothing but zeros are not written, so that this is no more than the description of the pyramid.
    empty = [da.zeros((3, size, size), chunks=chunks, dtype=np.uint8) for size in sizes]
    SpatialData(images={KEY: _build.image_element(empty, _build.transformations(MPP))}).write(unfinished)
    group, square = zarr.open_group(unfinished / "images" / KEY, mode="r+"), base()
    for name, array in sorted(group.arrays(), key=lambda item: -item[1].shape[1]):
        fill(array, unfinished / "images" / KEY / name, square)
        square = _build.halve(square)
    unfinished.rename(path)


def fill(array: zarr.Array, folder: Path, square: np.ndarray) -> None:
    """Fill a level of the pyramid: each piece that differs from all before is written, all others are links to its file."""
    size, step = array.shape[1], array.chunks[1]
    frame, written = size // 100, {}
    for i, j in np.ndindex(-(-size // step), -(-size // step)):
        spans = [(k * step, min((k + 1) * step, size)) for k in (i, j)]
        looks = tuple(
            (start % square.shape[1], stop - start, max(frame - start, 0), max(stop - (size - frame), 0))
            for start, stop in spans
        )
        file = folder / "c" / "0" / str(i) / str(j)
        if looks in written:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.hardlink_to(written[looks])
            continue
        (y0, y1), (x0, x1) = spans
        ys, xs = np.arange(y0, y1), np.arange(x0, x1)
        pixels = square[:, ys % square.shape[1]][:, :, xs % square.shape[2]]
        off = [(at < frame) | (at >= size - frame) for at in (ys, xs)]
        pixels[:, off[0][:, None] | off[1][None]] = GLASS
        array[:, y0:y1, x0:x1] = pixels
        assert file.is_file(), f"{array.path} is not stored as one file a piece"
        written[looks] = file


def toy_model(path: Path) -> None:
    """Fit a model on two toy sections and save it, unless it is there already."""
    if not path.exists():
        hd.tl.fit(hd.datasets.toy(seed=1, n_sections=2, size_um=1600), save=path)


def stream(path: Path, resolution_um: float, model: Path | None = None) -> dict[str, float]:
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
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the slide and its results in --folder")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries, on reading
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / f"slide_{arguments.side}.zarr"
    if arguments.model is not None:  # in a process of its own, whose memory is not counted
        fitting = multiprocessing.get_context("spawn").Process(target=toy_model, args=[arguments.model])
        fitting.start()
        fitting.join()
    start = time.perf_counter()
    write_slide(path, arguments.side)
    result = {"side_px": arguments.side, "write_s": time.perf_counter() - start, "start_gb": peak_gb()}
    try:
        result |= stream(path, arguments.resolution, arguments.model)
    finally:
        if not arguments.keep:
            shutil.rmtree(path)
    for key, value in result.items():
        print(f"{key:16} {value:,.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
