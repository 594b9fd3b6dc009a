"""Draw the pictures of the gallery on the toy tissue: ``python docs/_static/gallery.py`` (two minutes)."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from picture import save

import hisdiff as hd

DPI = 70

*train, test = hd.datasets.toy(n_sections=3, size_um=1200)
hd.pp.select_genes(train)
hd.pp.embed([*train, test])
model = hd.tl.fit(train)
hd.tl.predict(test, model, keep_draws=2)
hd.tl.predict(test, model, resolution_um=20)
hd.tl.coexpression(test)
sets = {name: [f"{name}{i:02d}" for i in range(1, 12)] for name in ("TUM", "IMM", "STR")}
names = set(test.tables["table"].var_names)
sets = {{"TUM": "tumour", "IMM": "immune", "STR": "stroma"}[k]: [g for g in v if g in names] for k, v in sets.items()}
sets = {name: genes for name, genes in sets.items() if len(genes) > 4}
hd.tl.enrich(test, sets)
hd.tl.enrich(test, sets, method="zscore", key_added="scores")
hd.tl.cell_types(test, sets, table_key="hisdiff_20um")
compared = hd.tl.compare(train[:1], test, ["hisdiff", "ridge"], n_seeds=1)

PLOTS = {
    "gene_map": lambda: hd.pl.gene_map(test, "TUM05"),
    "fine_map": lambda: hd.pl.gene_map(test, "TUM05", table_key="hisdiff_20um"),
    "uncertainty_map": lambda: hd.pl.uncertainty_map(test),
    "region_map": lambda: hd.pl.region_map(test),
    "embedding_map": lambda: hd.pl.embedding_map(test),
    "evaluation": lambda: hd.pl.evaluation(test),
    "comparison": lambda: hd.pl.comparison(compared),
    "training": lambda: hd.pl.training(model),
    "coexpression": lambda: hd.pl.coexpression(test),
    "coexpression_network": lambda: hd.pl.coexpression_network(test),
    "gene_pair": lambda: hd.pl.gene_pair(test, "TUM05", "TUM06"),
    "enrichment": lambda: hd.pl.enrichment(test),
    "pathway_map": lambda: hd.pl.pathway_map(test, next(iter(sets)), keys="scores"),
}
for name, draw in PLOTS.items():
    figure = draw().get_figure(root=True)
    save(figure, f"gallery_{name}", DPI)
    plt.close(figure)
