"""Draw the pictures of the page on stain: ``HISDIFF_TEST_DATA=DATA python docs/_static/stain.py`` (some minutes)."""

import os
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import squidpy.experimental as sqe
from picture import save

import hisdiff as hd

DATA = Path(os.environ["HISDIFF_TEST_DATA"])
SCALE = "scale3"

names = ("C2", "C3", "C4", "C5")
sections = {name: hd.io.her2st(DATA / "her2st", name) for name in names}
for name, sdata in sections.items():
    sqe.im.detect_tissue(sdata, f"{name}_image")
fitted = {
    method: sqe.im.fit_stain_reference(sections["C2"], "C2_image", method=method) for method in ("macenko", "reinhard")
}

figure, axes = plt.subplots(3, 4, figsize=(9, 6.4), layout="constrained")
for column, (name, sdata) in zip(axes.T, sections.items()):
    image = sdata.images[f"{name}_image"][SCALE]["image"]
    shown = {"as it is": image}
    for method, reference in fitted.items():
        shown[method] = sqe.im.normalize_stains(sdata, f"{name}_image", reference, scale=SCALE, inplace=False)
    for ax, (title, pixels) in zip(column, shown.items()):
        ax.imshow(np.moveaxis(np.asarray(pixels), 0, -1))
        ax.set_title(f"{name}, {title}", loc="left", fontsize="medium")
        ax.set_axis_off()
save(figure, "stain", 80)

sdata, key = sections["C5"], "qc_img_C5_image"
sqe.im.qc_image(sdata, "C5_image", preview=False, progress=False)
tiles = sdata.tables[key]
sdata.tables[key] = tiles[tiles.obs["is_tissue"].astype(str) == "True"].copy()
quality = hd.pl.gene_map(
    sdata,
    ["qc_tenengrad", "qc_outlier"],
    table_key=key,
    alpha=0.55,
    image_alpha=1,
    palette={"False": "0.7", "True": "#d55e00"},
)
first, second, bar = quality.axes
first.set_title("C5: sharpness of tiles (qc_tenengrad)", loc="left")
second.set_title("the least sharp tenth (qc_outlier)", loc="left")
bar.set_ylabel("sharpness")
save(quality, "quality", 80)
