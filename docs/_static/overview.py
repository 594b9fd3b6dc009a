"""Draw the picture of the README: ``python docs/_static/overview.py FOLDER_WITH_HER2ST [FOLDER_OF_A_MODEL]``."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import spatialdata_plot  # noqa: F401 (adds sdata.pl)
from matplotlib.patches import Rectangle
from picture import save

import hisdiff as hd

data, *folder = map(Path, sys.argv[1:])
test = hd.io.her2st(data, "C5")
if folder:
    model = hd.models.load(folder[0])
else:
    train = [hd.io.her2st(data, section) for section in ("C2", "C3", "C4")]
    hd.pp.select_genes(train)
    hd.pp.embed(train)
    model = hd.tl.fit(train)
hd.tl.predict(test, model)

figure, axes = plt.subplots(2, 4, figsize=(14, 5.5), layout="compressed", dpi=110)
for row, gene in zip(axes, ("ERBB2", "CD74")):
    for ax, layer in zip(row[1:], ("X", "hisdiff", "hisdiff_std")):
        cmap = "magma" if layer.endswith("_std") else "viridis"
        hd.pl.gene_map(test, gene, layers=layer, cmap=cmap, image_alpha=0.6, ax=ax)
    limits = [ax.collections[0].get_clim() for ax in row[1:3]]  # measured and predicted on one scale
    for ax in row[1:3]:
        ax.collections[0].set_clim(min(low for low, _ in limits), max(high for _, high in limits))

x0, y0, width, height = 2450, 2250, 750, 575
whole, detail = axes[:, 0]
for ax, title, scale in ((whole, "H&E, section C5", "scale2"), (detail, "detail", "scale1")):
    test.pl.render_images("C5_image", scale=scale).pl.show(coordinate_systems="um", ax=ax, title="")
    ax.set_title(title, loc="left", fontsize="medium")
    ax.axis("off")
whole.set(xlim=axes[0, 1].get_xlim(), ylim=axes[0, 1].get_ylim())
whole.add_patch(Rectangle((x0, y0), width, height, fill=False, edgecolor="k", linewidth=1))
detail.set(xlim=(x0, x0 + width), ylim=(y0 + height, y0))
save(figure, "overview", 110)
