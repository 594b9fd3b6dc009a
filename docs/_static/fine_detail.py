"""Draw fine maps without and with a window for what varies slowly: ``python docs/_static/fine_detail.py FOLDER_WITH_HER2ST``."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import spatialdata_plot  # noqa: F401 (adds sdata.pl)
from picture import save

import hisdiff as hd
from hisdiff.methods.hisdiff.factor import _local

GENES = ("ERBB2", "CD74", "COL1A1")
CROP = (2450, 2250, 3350, 2940)

*train, test = [hd.io.her2st(Path(sys.argv[1]), section) for section in ("C2", "C3", "C4", "C5")]
hd.pp.select_genes(train, also=GENES)
hd.pp.embed([*train, test])
for name, window in (("before", 0.0), ("after", _local._WINDOW)):  # without a window both regressions are the same
    _local._WINDOW = window
    with TemporaryDirectory() as folder:
        model = hd.tl.fit(train, save=Path(folder) / "model")
        hd.tl.predict(test, model, resolution_um=16, key_added=name)

figure, axes = plt.subplots(len(GENES), 3, figsize=(13, 10), layout="compressed")
for row, gene in zip(axes, GENES):
    test.pl.render_images("C5_image", scale="scale1").pl.show(coordinate_systems="um", ax=row[0], title="")
    row[0].set(xlim=CROP[::2], ylim=CROP[:0:-2])
    row[0].set_title("H&E, section C5", loc="left", fontsize="medium")
    row[0].axis("off")
    values = np.concatenate(
        [np.asarray(test.tables[f"{name}_16um"][:, gene].X).ravel() for name in ("before", "after")]
    )
    low, high = np.percentile(np.log2(1 + values), [1, 99])
    for ax, name in zip(row[1:], ("before", "after")):
        key = f"{name}_16um"
        hd.pl.gene_map(test, gene, table_key=key, crop=CROP, alpha=1, image_alpha=0, vmin=low, vmax=high, ax=ax)
        ax.set_title(f"{gene}, {name}", loc="left", fontsize="medium")
save(figure, "fine_detail", 80)
