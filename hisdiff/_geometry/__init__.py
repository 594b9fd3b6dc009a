"""Plane geometry in micrometres: lattices, neighbours, scale. Numbers in, numbers out."""

from hisdiff._geometry._lattice import Nearest, lattice_points, nearest, pitch_of
from hisdiff._geometry._scale import array_mpp, fit_array, similarity_scale
from hisdiff._geometry._tissue import find_tissue

__all__ = [
    "Nearest",
    "array_mpp",
    "find_tissue",
    "fit_array",
    "lattice_points",
    "nearest",
    "pitch_of",
    "similarity_scale",
]
