"""What stain normalisation before embedding changes in the accuracy on left-out sections.

    python tests/benchmarks/stain.py --data DATA --split C --json stain.json

``DATA`` holds ``her2st`` and ``mob``. Each section of the split is left out in turn and predicted from the others, as in
``sections.py``: with the images as they are, and with all images normalised to the stain of the first training section by
``squidpy.experimental.im``, Macenko and Reinhard. Genes and everything else are the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sections import SPLITS, read
from squidpy.experimental.im import detect_tissue, fit_stain_reference, normalize_stains

import hisdiff as hd

if TYPE_CHECKING:
    from spatialdata import SpatialData

VARIANTS = ("as it is", "macenko", "reinhard")


def normalized(sections: dict[str, SpatialData], method: str, first: str) -> None:
    """Put images normalised to the stain of one section in place of the images."""
    keys = {name: next(iter(sdata.images)) for name, sdata in sections.items()}
    for name, sdata in sections.items():
        detect_tissue(sdata, keys[name])
    reference = fit_stain_reference(sections[first], keys[first], method=method)
    for name, sdata in sections.items():
        key = keys[name]
        normalize_stains(sdata, key, reference)
        del sdata.images[key], sdata.labels[f"{key}_tissue"]
        sdata.images[key] = sdata.images.pop(f"{key}_normalized")


def main() -> None:
    """Print a table of accuracies, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("C", "MOB"), default="C")
    parser.add_argument("--methods", nargs="+", default=["ridge", "hisdiff"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    folds = SPLITS[asked.split]
    found: dict[str, dict[str, list[float]]] = {}
    for variant in asked.variants:
        sections = {name: read(asked.data, name) for name, _ in folds}
        if variant != "as it is":
            normalized(sections, variant, folds[0][0])
        hd.pp.embed(list(sections.values()))
        for left_out, names in folds:
            train, test = [sections[name] for name in names], sections[left_out]
            hd.pp.select_genes(train)
            for method in asked.methods:
                hd.tl.predict(test, hd.tl.fit(train, method=method), key_added="bench")
                summary = hd.tl.evaluate(test, layer="bench").attrs["summary"]
                row = [summary[view]["pcc_all"] for view in ("mean", "mean_norm")]
                found.setdefault(f"{method}, {variant}", {})[left_out] = row
                print(f"{asked.split} {method}, {variant}, {left_out}: PCC {row[0]:.3f}, norm {row[1]:.3f}", flush=True)
                if asked.json is not None:
                    asked.json.write_text(json.dumps(found, indent=1))
    for label, rows in found.items():
        mean = np.mean(list(rows.values()), axis=0)
        print(f"| {asked.split} | {label} | {mean[0]:.3f} | {mean[1]:.3f} |")


if __name__ == "__main__":
    main()
