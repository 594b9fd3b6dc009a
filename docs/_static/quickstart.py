"""Draw the pictures of the quickstart on the toy tissue: ``python docs/_static/quickstart.py`` (a minute)."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from PIL import Image

import hisdiff as hd

HERE = Path(__file__).parent
DPI = 90

*train, test = hd.datasets.toy(n_sections=3, size_um=1200)
hd.pp.select_genes(train)
hd.pp.embed([*train, test])
model = hd.tl.fit(train)
hd.tl.predict(test, model)
hd.tl.predict(test, model, resolution_um=20)
for key, layer in (("measured", "X"), ("mean", "hisdiff"), ("draw", "hisdiff_draw0")):
    hd.tl.coexpression(test, layer=layer, key_added=key)

figures = {
    "overview": hd.pl.overview(test),
    "embedding": hd.pl.embedding_map([*train, test]),
    "genes": hd.pl.gene_map(test, ["TUM05", "IMM03"]),
    "coexpression": hd.pl.coexpression(test, ["measured", "draw", "mean"]),
}
for name, figure in figures.items():
    path = HERE / f"quickstart_{name}.png"
    figure.savefig(path, dpi=DPI)
    picture = Image.open(path).convert("RGB")
    # A palette keeps the colours of the maps and makes a fifth of the size.
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
