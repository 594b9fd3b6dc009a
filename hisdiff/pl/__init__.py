"""Plots: contents of an object, expression on the tissue, uncertainty, training, accuracy, coexpression, pathways.

In: results of :mod:`hisdiff.tl`. Out: the Axes of a single panel, or a Figure. Plots show results of the object and save
nothing: call ``figure.savefig``. ``hd.pl.style`` is a dictionary of matplotlib's ``rcParams`` that all plots use over those of
the session: ``hd.pl.style["font.size"] = 14``.
"""

from hisdiff.pl._coexpression import coexpression
from hisdiff.pl._comparison import comparison
from hisdiff.pl._embedding_map import embedding_map
from hisdiff.pl._enrichment import enrichment, gsea
from hisdiff.pl._evaluation import evaluation
from hisdiff.pl._explore import view
from hisdiff.pl._gene_map import gene_map
from hisdiff.pl._gene_pair import gene_pair
from hisdiff.pl._network import coexpression_network
from hisdiff.pl._overview import overview
from hisdiff.pl._pathway_map import pathway_map
from hisdiff.pl._region_map import region_map
from hisdiff.pl._report import report
from hisdiff.pl._style import style as style
from hisdiff.pl._training import training
from hisdiff.pl._uncertainty_map import uncertainty_map

__all__ = [
    "coexpression",
    "coexpression_network",
    "comparison",
    "embedding_map",
    "enrichment",
    "evaluation",
    "gene_map",
    "gene_pair",
    "gsea",
    "overview",
    "pathway_map",
    "region_map",
    "report",
    "training",
    "uncertainty_map",
    "view",
]
