"""Preparation: genes, tissue, embedding.

In: a :class:`~spatialdata.SpatialData` of :mod:`hisdiff.io` (or several). Out: ``var`` and ``obsm`` of its table and a
shapes element, under names that start with ``hisdiff`` (and ``tissue``).
"""

from hisdiff.pp._embed import embed
from hisdiff.pp._genes import select_genes
from hisdiff.pp._tissue import tissue_mask

__all__ = ["embed", "select_genes", "tissue_mask"]
