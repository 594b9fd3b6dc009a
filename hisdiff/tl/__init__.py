"""Tools: fit a model, predict expression, evaluate it, find coexpression and pathways in it.

In: a :class:`~spatialdata.SpatialData` (or several) and a :class:`hisdiff.models.Model`. Out: layers and records of its
table, under names that start with the name of the method.
"""

from hisdiff.tl._adapt import adapt, suggest_spots
from hisdiff.tl._aggregate import aggregate
from hisdiff.tl._cluster_cells import cluster_cells
from hisdiff.tl._coexpression import coexpression
from hisdiff.tl._coexpression_agreement import coexpression_agreement
from hisdiff.tl._compare import compare
from hisdiff.tl._cross_validate import cross_validate
from hisdiff.tl._edge_core import edge_core
from hisdiff.tl._enrich import enrich
from hisdiff.tl._evaluate import evaluate
from hisdiff.tl._fit import fit
from hisdiff.tl._marker_scores import cell_types, marker_scores
from hisdiff.tl._metagenes import metagenes
from hisdiff.tl._pathway_agreement import pathway_agreement
from hisdiff.tl._predict import predict
from hisdiff.tl._region_contrast import region_contrast
from hisdiff.tl._regions import marker_regions
from hisdiff.tl._tls import tls_score
from hisdiff.tl._type_enrichment import type_enrichment

__all__ = [
    "adapt",
    "aggregate",
    "cell_types",
    "cluster_cells",
    "coexpression",
    "coexpression_agreement",
    "compare",
    "cross_validate",
    "edge_core",
    "enrich",
    "evaluate",
    "fit",
    "marker_regions",
    "marker_scores",
    "metagenes",
    "pathway_agreement",
    "predict",
    "region_contrast",
    "suggest_spots",
    "tls_score",
    "type_enrichment",
]
