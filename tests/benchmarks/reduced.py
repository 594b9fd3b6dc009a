"""What a reduced image costs: sections left out in turn, at full resolution and with their images reduced.

    python tests/benchmarks/reduced.py --data DATA --mpp 2 --methods ridge

``DATA`` holds ``her2st``. Images are reduced to ``--mpp`` and embedded with ``"texture"``, which takes the size that they
need. Prints the mean over genes of Pearson correlations at the spots of each section, raw and normalized.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import hisdiff as hd
from hisdiff._sdata._image import PyramidImage
from hisdiff._sdata._locate import locate
from hisdiff.io._build import levels_of, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spatialdata import SpatialData

NAMES = ("C2", "C3", "C4", "C5")


def reduced(sdata: SpatialData, mpp: float) -> SpatialData:
    """Return a section with its image at another pixel size."""
    (place,) = locate(sdata)
    image = PyramidImage(sdata.images[place.image_key], place.mpp, place.name)
    x, y = (side // mpp * mpp for side in image.bounds_um[2:])
    pixels = np.ascontiguousarray(np.moveaxis(image.read((0, 0, x, y), mpp), -1, 0))
    table = sdata.tables["table"].copy()
    xy_px = table.obsm["spatial"] * place.mpp / mpp
    radius_um = float(sdata.shapes[place.region]["radius"].iloc[0]) * place.mpp
    return section(place.name, levels_of(pixels), mpp, table, xy_px, radius_um=radius_um)


def accuracy(sections: Sequence[SpatialData], method: str) -> np.ndarray:
    """Return PCC and normalized PCC of each section, predicted by a model of the others."""
    hd.pp.embed(list(sections), "texture")
    found = []
    for test in sections:
        train = [one for one in sections if one is not test]
        hd.pp.select_genes(train)
        hd.tl.predict(test, hd.tl.fit(train, method=method), key_added="reduced")
        summary = hd.tl.evaluate(test, layer="reduced").attrs["summary"]
        found.append([summary[group]["pcc_all"] for group in ("mean", "mean_norm")])
    return np.array(found)


def main() -> None:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=root, help="folder with her2st")
    parser.add_argument("--mpp", type=float, nargs="+", default=[2.0])
    parser.add_argument("--methods", nargs="+", default=["ridge"])
    args = parser.parse_args()
    hd.settings.verbosity = "warning"
    for mpp in (None, *args.mpp):
        scans = [hd.io.her2st(Path(args.data) / "her2st", name) for name in NAMES]
        sections = scans if mpp is None else [reduced(one, mpp) for one in scans]
        for method in args.methods:
            found = accuracy(sections, method)
            told = "  ".join(f"{name} {raw:.3f} ({norm:.3f})" for name, (raw, norm) in zip(NAMES, found))
            raw, norm = found.mean(axis=0)
            print(
                f"{method}, {'scan' if mpp is None else f'{mpp:g} um'}: {told}  mean {raw:.4f} ({norm:.4f})", flush=True
            )


if __name__ == "__main__":
    main()
