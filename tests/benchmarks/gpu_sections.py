"""Sections as plain arrays, for ``gpu.py --sections`` on a machine that has neither data nor SpatialData.

    python tests/benchmarks/gpu_sections.py tissue.npz --data DATA
    python tests/benchmarks/gpu_sections.py states.npz --states CACHE

``--data``: C2 to C5 of the folder ``her2st`` in DATA, genes chosen on the first three, embeddings of ``texture``; C5 is the test.
``--states``: the tissue of ``states.py``, kept in CACHE/cells, with ``--spots`` training spots; its twelve test sections are the test.

Arrays: ``counts`` (n, G), ``embedding`` (n, D), ``xy_um`` (n, 2), ``section`` (n,) integers, ``genes`` (G,); ``mean`` and ``std``
(sections, D) of the embedding over each section; ``test``, the sections that are left out; for states, ``shares`` (n, 4) of cell types.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hisdiff as hd

if TYPE_CHECKING:
    from hisdiff._section import Section

TISSUE = ("C2", "C3", "C4", "C5")


def write(path: Path, sections: list[Section], test: list[int], **more: np.ndarray) -> None:
    """Write sections that share a panel."""
    counts = np.concatenate([s.counts.toarray() for s in sections])
    kind = np.uint16 if counts.max() < 2**16 else np.uint32
    xy = [s.spots.xy_um for s in sections]
    np.savez_compressed(
        path, counts=counts.astype(kind), xy_um=np.concatenate(xy), genes=np.asarray(sections[0].genes, dtype=str),
        embedding=np.concatenate([s.features.at(s.spots) for s in sections]).astype(np.float32),
        section=np.repeat(np.arange(len(sections)), [len(one) for one in xy]).astype(np.int16), test=np.array(test),
        mean=np.stack([s.features.mean for s in sections]), std=np.stack([s.features.std for s in sections]), **more,
    )  # fmt: skip
    print(f"{path}: {len(counts)} spots x {counts.shape[1]} genes, {path.stat().st_size / 1e6:.1f} MB")


def tissue(data: Path) -> dict[str, Any]:
    """Return real sections as they are fitted on, and which one is the test."""
    from hisdiff._sdata._read import open_sections

    made = [hd.io.her2st(data / "her2st", name) for name in TISSUE]
    for sdata in made:
        hd.pp.embed(sdata, "texture")
    hd.pp.select_genes(made[:-1])
    table = made[0].tables["table"]
    panel = table.var_names[table.var["hisdiff_selected"]]
    opened = [bound.section.with_panel(panel) for bound in open_sections(made, needs=("counts", "features"))]
    return {"sections": opened, "test": [len(opened) - 1]}


def states(cache: Path, n_spots: int) -> dict[str, Any]:
    """Return sections of planted states, and which ones are the test."""
    from states import FIRST_TEST_SEED, N_TEST, sections

    options = {"size_um": 1600.0, "mpp": 4.0, "n_genes": 120}
    train: list[Any] = []
    while sum(len(m.shares) for m in train) < n_spots:
        train += sections(cache / "cells", [len(train)], options, 1)
    test = sections(cache / "cells", range(FIRST_TEST_SEED, FIRST_TEST_SEED + N_TEST), options, 16)
    made = [*train, *test]
    shares = np.concatenate([m.shares for m in made]).astype(np.float32)
    return {
        "sections": [m.section for m in made],
        "test": [len(train) + i for i in range(N_TEST)],
        "shares": shares,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder with her2st")
    source.add_argument("--states", type=Path, help="cache of states.py")
    parser.add_argument("--spots", type=int, default=8000, help="of states to train on")
    args = parser.parse_args()
    found = tissue(args.data) if args.data else states(args.states, args.spots)
    write(args.file, found.pop("sections"), found.pop("test"), **found)


if __name__ == "__main__":
    main()
