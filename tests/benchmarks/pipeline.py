"""Time of a run from nothing: read four sections, choose genes and embed, fit, predict, fit again; peak memory of the process.

Seconds, and in brackets those of processor.

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
    clock, busy = [time.perf_counter()], [time.process_time()]

    def tick() -> None:
        clock.append(time.perf_counter())
        busy.append(time.process_time())

    train, test = [hd.io.her2st(args.data, name) for name in TRAIN], hd.io.her2st(args.data, TEST)
    tick()
    hd.pp.select_genes(train)
    hd.pp.embed([*train, test], encoder=args.encoder)
    tick()
    model = hd.tl.fit(train, config=args.config)
    tick()
    hd.tl.predict(test, model)
    tick()
    hd.tl.fit(train, config=args.config)
    tick()
    names = "read", "embed", "fit", "predict", "fit again"
    took = {n: (clock[i + 1] - clock[i], busy[i + 1] - busy[i]) for i, n in enumerate(names)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    told = [f"{name} {wall:.1f} ({cpu:.1f})" for name, (wall, cpu) in took.items()]
    print(
        "four sections from nothing: "
        + ", ".join([*told, f"to the prediction {clock[4] - clock[0]:.1f}, peak {peak:.2f} GB"])
    )


if __name__ == "__main__":
    main()
