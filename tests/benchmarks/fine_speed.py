"""Time of predictions finer than the spots, from image to table: prints a line per size of bins and writes JSON.

    python tests/benchmarks/fine_speed.py --data her2st [--resolutions 20 14 10] [--device cpu] [--json FILE]

Fits the fast model on C2 to C4 with the texture encoder and predicts the tissue of C5 at each resolution, with four draws,
in agreement with its spots. Seconds include the dense embedding. On a GPU the time of the bare matrix products of the
flow's network for as many locations is reported as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

import torch

import hisdiff as hd

TRAIN, TEST = ("C2", "C3", "C4"), "C5"


def peak_gb() -> float:
    """Peak resident memory of this process in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def products_s(model: hd.models.Model, n: int, device: str) -> float:
    """Time the matrix products of the flow's network for ``n`` locations, as often as four draws take them."""
    config = model.fitted.config
    weights = [w for w in model.fitted.generator.flow.network.parameters() if w.dim() == 3]
    inputs = [torch.randn(1, n, w.shape[1], device=device) for w in weights]
    matrices = [w[:1].to(device) for w in weights]
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(4 * 2 * config.n_steps):
            for x, w in zip(inputs, matrices):
                torch.bmm(x, w)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) / "her2st" if root else None, help="folder of her2st")
    parser.add_argument("--resolutions", type=float, nargs="+", default=[20.0, 14.0, 10.0], help="sides of bins, um")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a saved model instead of fitting one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data names the folder of her2st (ST-cnts, ST-imgs, ST-spotfiles); or set HISDIFF_TEST_DATA")
    hd.settings.verbosity = "warning"
    test = hd.io.her2st(args.data, TEST)
    if args.model is None:
        train = [hd.io.her2st(args.data, name) for name in TRAIN]
        hd.pp.select_genes(train)
        hd.pp.embed(train, "texture")
        model = hd.tl.fit(train)
        del train
    else:
        model = hd.models.load(args.model)
    hd.pp.embed(test, "texture")
    rows = []
    for resolution in args.resolutions:
        start, busy = time.perf_counter(), time.process_time()
        table = hd.tl.predict(test, model, resolution_um=resolution, device=args.device, inplace=False)
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        row = {"um": resolution, "bins": table.n_obs, "genes": table.n_vars, "seconds": seconds, "cpu_s": cpu}
        row["peak_gb"] = peak_gb()
        row["bins_per_s"] = row["bins"] / seconds
        if args.device != "cpu":
            row["products_share"] = products_s(model, table.n_obs, args.device) / seconds
        rows.append(row)
        print("  ".join(f"{key} {value:,.4g}" for key, value in row.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
