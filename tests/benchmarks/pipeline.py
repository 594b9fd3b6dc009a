"""Time of a run from nothing: read four sections, choose genes and embed, fit, predict, and the peak memory of the process.

python tests/benchmarks/pipeline.py --data her2st
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import hisdiff as hd

TRAIN, TEST = ("C2", "C3", "C4"), "C5"


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) / "her2st" if root else None, help="folder of her2st")
    parser.add_argument("--encoder", default="texture")
    parser.add_argument("--config", default="fast", help="preset of hisdiff")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data names the folder of her2st (ST-cnts, ST-imgs, ST-spotfiles); or set HISDIFF_TEST_DATA")
    hd.settings.verbosity = "warning"
    clock = [time.perf_counter()]
    train, test = [hd.io.her2st(args.data, name) for name in TRAIN], hd.io.her2st(args.data, TEST)
    clock.append(time.perf_counter())
    hd.pp.select_genes(train)
    hd.pp.embed([*train, test], encoder=args.encoder)
    clock.append(time.perf_counter())
    model = hd.tl.fit(train, config=args.config)
    clock.append(time.perf_counter())
    hd.tl.predict(test, model)
    clock.append(time.perf_counter())
    took = {name: b - a for name, a, b in zip(("read", "embed", "fit", "predict"), clock, clock[1:])}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    told = {**took, "total": clock[-1] - clock[0], "peak_gb": peak}
    print("four sections from nothing: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items()))


if __name__ == "__main__":
    main()
