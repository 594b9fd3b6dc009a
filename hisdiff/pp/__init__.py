"""Preparation: genes, tissue, nuclei, embedding, grids.

In: a :class:`~spatialdata.SpatialData` of :mod:`hisdiff.io` (or several). Out: ``var`` and ``obsm`` of its table, a
shapes element, labels and an image, under names that start with ``hisdiff`` (and ``tissue``, ``nuclei``, ``grid``).
"""

from hisdiff.pp._densify import densify
from hisdiff.pp._embed import embed
from hisdiff.pp._genes import select_genes
from hisdiff.pp._grid import grid
from hisdiff.pp._nuclei import nuclei
from hisdiff.pp._tissue import tissue_mask

__all__ = ["densify", "embed", "grid", "nuclei", "select_genes", "tissue_mask"]
