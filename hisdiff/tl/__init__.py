"""Tools: fit a model, predict expression, evaluate it, find coexpression and pathways in it.

In: a :class:`~spatialdata.SpatialData` (or several) and a :class:`hisdiff.models.Model`. Out: layers and records of its
table, under names that start with the name of the method.
"""

from hisdiff.tl._coexpression import coexpression
from hisdiff.tl._coexpression_agreement import coexpression_agreement
from hisdiff.tl._evaluate import evaluate
from hisdiff.tl._fit import fit
from hisdiff.tl._predict import predict

__all__ = ["coexpression", "coexpression_agreement", "evaluate", "fit", "predict"]
