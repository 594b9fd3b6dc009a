"""Draw the picture of the page on a new patient: ``python docs/_static/new_patient.py FOLDER_WITH_HER2ST [FOLDER_OF_A_MODEL]``."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from picture import save

import hisdiff as hd

data, *folder = map(Path, sys.argv[1:])
new = hd.io.her2st(data, "B4")
if folder:
    model = hd.models.load(folder[0])
else:
    cohort = [hd.io.her2st(data, section) for section in ("C2", "C3", "C4", "C5")]
    hd.pp.select_genes(cohort)
    hd.pp.embed(cohort)
    model = hd.tl.fit(cohort)
table = new.tables["table"]
measured = np.zeros(table.n_obs, dtype=bool)
measured[np.random.default_rng(1).choice(table.n_obs, 14, replace=False)] = True
hd.tl.predict(new, model, key_added="before")
adapted = hd.tl.adapt(model, new, spots=measured)
hd.tl.predict(new, adapted, key_added="after")

figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="compressed", dpi=100)
for row, gene in zip(axes, ("ERBB2", "CD74")):
    for ax, layer, title in zip(
        row, ("X", "before", "after"), ("measured", "predicted", f"given {adapted.n_adapted} spots")
    ):
        hd.pl.gene_map(new, gene, layers=layer, ax=ax)
        ax.set_title(f"{gene}, {title}", loc="left", fontsize="medium", color="black")
    limits = [ax.collections[0].get_clim() for ax in row]
    for ax in row:
        ax.collections[0].set_clim(min(low for low, _ in limits), max(high for _, high in limits))
save(figure, "new_patient", 100)
