"""What a method sees of a location: its own embedding and those of the anchors around it, held as indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from scipy.sparse import csr_matrix

from hisdiff._geometry import lattice_points, nearest, pitch_of
from hisdiff._section import Locations

if TYPE_CHECKING:
    from hisdiff._section import FeatureSource, Section

N_NEIGHBORS = 9
N_GLOBAL = 49
# Spots whose pitch is within this factor of the trained one serve as anchors themselves.
_PITCH_TOLERANCE = 1.25

Scaling = Literal["raw", "standardized", "both"]


@dataclass(frozen=True)
class Context:
    """Inputs of ``n`` locations.

    Attributes
    ----------
    own
        float32 ``(n, D)``.
    anchors
        float32 ``(m, D)``.
    near, wide
        int64 ``(n, 9)`` and ``(n, 49)`` rows of ``anchors``, nearest first; -1 where the section has fewer.
    """

    own: np.ndarray
    anchors: np.ndarray
    near: np.ndarray
    wide: np.ndarray

    def mean_over(self, indices: np.ndarray) -> np.ndarray:
        """Return the mean embedding over the anchors that ``indices`` names, float32 ``(n, D)``."""
        there = indices >= 0
        counts = there.sum(axis=1)
        weights = np.repeat(1 / counts, counts)
        starts = np.concatenate([[0], np.cumsum(counts)])
        averages = csr_matrix((weights, indices[there], starts), shape=(len(indices), len(self.anchors)))
        return (averages @ self.anchors).astype(np.float32)


def context_of(section: Section, locations: Locations, *, scaling: Scaling, pitch_um: float | None = None) -> Context:
    """Gather the context of locations of a section.

    Parameters
    ----------
    section
        A section with features.
    locations
        Where; often ``section.spots``.
    scaling
        ``"raw"`` embeddings, ``"standardized"`` by the section's own mean and sd, or ``"both"`` side by side
        (``2 D`` columns): the first keeps the absolute look, the second removes stain and scanner.
    pitch_um
        Distance between anchors; None for that of the section's spots. Spots of about that pitch are the anchors,
        else a lattice inside the tissue is.
    """
    features = section.features
    if features is None:
        raise ValueError(f"Section {section.name!r} has no features.")
    anchors = anchors_of(section, pitch_um)
    anchor_values = features.at(anchors)
    own = anchor_values if anchors is locations else features.at(locations)
    scale = lambda values: scaled(values, features, scaling)  # noqa: E731
    wide = nearest(locations.xy_um, anchors.xy_um, N_GLOBAL)
    return Context(scale(own), scale(anchor_values), wide[:, :N_NEIGHBORS], wide)


def anchors_of(section: Section, pitch_um: float | None) -> Locations:
    """Return the spots of a section if they are about ``pitch_um`` apart, else a lattice of that pitch inside the tissue."""
    spots = section.spots
    if spots is not None and len(spots):
        if pitch_um is None or len(spots) == 1:
            return spots
        ratio = pitch_of(spots.xy_um) / pitch_um
        if 1 / _PITCH_TOLERANCE <= ratio <= _PITCH_TOLERANCE:
            return spots
    if section.tissue is None or pitch_um is None:
        raise ValueError(
            f"Section {section.name!r} has neither spots at {pitch_um} um nor a tissue outline to lay a lattice in."
        )
    xy = lattice_points(section.tissue, pitch_um)
    return Locations(xy, pitch_um / 4)


def share_missing(section: Section, pitch_um: float | None) -> float:
    """Return the share of a section's anchors that are missing where spots serve as anchors: gaps in the tissue between them."""
    spots = section.spots
    if (
        spots is None
        or len(spots) < N_NEIGHBORS
        or section.tissue is None
        or anchors_of(section, pitch_um) is not spots
    ):
        return 0.0
    apart = pitch_of(spots.xy_um)
    hull = shapely.convex_hull(shapely.MultiPoint(spots.xy_um)).buffer(apart / 2)
    room = shapely.intersection(section.tissue, hull).area / apart**2  # on a square array, which is the sparsest
    return float(max(0.0, 1 - len(spots) / room)) if room > 0 else 0.0


def scaled(values: np.ndarray, features: FeatureSource, scaling: Scaling) -> np.ndarray:
    """Return raw embeddings ``(n, D)`` of a section scaled in one way, float32."""
    if scaling == "raw":
        return values
    standard = (values - features.mean) / np.maximum(features.std, 1e-6)
    return (standard if scaling == "standardized" else np.concatenate([values, standard], axis=1)).astype(np.float32)
