"""Plots: expression on the tissue, its uncertainty, training curves, accuracy.

In: what :mod:`hisdiff.tl` wrote. Out: the Axes of a single panel, or a Figure. Nothing is computed that is not already in
the object, and nothing is saved: call ``figure.savefig``.
"""

from hisdiff.pl._evaluation import evaluation
from hisdiff.pl._gene_map import gene_map, uncertainty_map
from hisdiff.pl._training import training

__all__ = ["evaluation", "gene_map", "training", "uncertainty_map"]
