"""Pictures as a whole, against small ones that were looked at.

Only blocks of pixels are compared, so that another version of matplotlib or of its fonts does no harm, while a panel,
a map of colours or an underlay that is lost does. ``HISDIFF_NEW_BASELINE=1`` writes new pictures: look at them.
"""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

import hisdiff as hd

BASELINE = Path(__file__).parent / "baseline"
DPI = 36
BLOCK_PX = 8
TOLERANCE = 0.02
"""Mean difference over blocks, of colours in 0 to 1. Of a gene map, another font is off by 0.012, another colour map by 0.04,
a lost underlay by 0.09."""


@pytest.fixture(scope="module")
def sdata():
    """A prediction that is planted, so that a picture changes only where drawing does."""
    sdata = hd.datasets.toy(size_um=400)
    table = sdata.tables["table"]
    counts = table.X.toarray()
    table.layers["hisdiff"] = np.log2(1 + 0.8 * counts).astype(np.float32)
    record = {"method": "hisdiff", "units": "log2", "n_genes": 120, "n_draws": 16, "model": "m", "in_sample": False}
    table.uns["hisdiff"] = {"predictions": {"hisdiff": record}}
    table.var["hisdiff_modelled"] = True
    table.var["hisdiff_cv_pcc"] = np.linspace(0.7, 0.0, table.n_vars)
    return sdata


def gene_map(sdata):
    return hd.pl.gene_map(sdata, "TUM01")


def overview(sdata):
    return hd.pl.overview(sdata)


def coexpression(sdata):
    genes = [f"{kind}{i:02d}" for kind in ("TUM", "IMM") for i in range(1, 11)]
    for key, layer in (("measured", "X"), ("hisdiff", "hisdiff")):
        hd.tl.coexpression(sdata, genes, layer=layer, key_added=key)
    return hd.pl.coexpression(sdata, keys=["measured", "hisdiff"])


def enrichment(sdata):
    sets = {kind: [f"{kind}{i:02d}" for i in range(1, 11)] for kind in ("TUM", "IMM", "STR")}
    lists = {"first": sets["TUM"][:8] + sets["IMM"][:2], "second": sets["IMM"][2:] + sets["STR"][:4]}
    hd.tl.enrich(sdata, sets, layer="X", by=lists)
    return hd.pl.enrichment(sdata)


@pytest.mark.parametrize("draw", [gene_map, overview, coexpression, enrichment], ids=lambda draw: draw.__name__)
def test_picture_is_as_it_was(sdata, draw, tmp_path):
    with mpl.rc_context(mpl.rcParamsDefault):
        drawn = draw(sdata)
        figure = drawn.figure
        new = tmp_path / "new.png"
        figure.savefig(new, dpi=DPI)
    known = BASELINE / f"{draw.__name__}.png"
    if os.environ.get("HISDIFF_NEW_BASELINE"):
        known.write_bytes(new.read_bytes())
    difference = np.abs(blocks(new) - blocks(known)).mean()
    assert difference < TOLERANCE, f"{new} differs from {known} by {difference:.3f}; look at both"


def blocks(path) -> np.ndarray:
    pixels = imread(path)[..., :3]
    rows, columns = (side // BLOCK_PX for side in pixels.shape[:2])
    cut = pixels[: rows * BLOCK_PX, : columns * BLOCK_PX]
    return cut.reshape(rows, BLOCK_PX, columns, BLOCK_PX, 3).mean(axis=(1, 3))
