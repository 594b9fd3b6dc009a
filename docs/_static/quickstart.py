"""Draw the pictures of the quickstart on the toy tissue: ``python docs/_static/quickstart.py`` (a minute)."""

import matplotlib as mpl

mpl.use("Agg")

from picture import save

import hisdiff as hd

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
    save(figure, f"quickstart_{name}", DPI)
