"""Plane geometry in micrometres: lattices, neighbours, scale. Numbers in, numbers out."""

from hisdiff._geometry._lattice import lattice_points, nearest, pitch_of
from hisdiff._geometry._scale import array_mpp, similarity_scale
from hisdiff._geometry._tissue import find_tissue

__all__ = ["array_mpp", "find_tissue", "lattice_points", "nearest", "pitch_of", "similarity_scale"]
