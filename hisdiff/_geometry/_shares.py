"""How much of each location lies in each of some outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse

from hisdiff._geometry._grid import outlines

if TYPE_CHECKING:
    from hisdiff._section import Locations


def shares(targets: np.ndarray, sources: Locations) -> sparse.csr_matrix:
    """Return the part of each source's area that lies in each target, csr ``(len(targets), len(sources))`` in 0..1.

    Parameters
    ----------
    targets
        ``(m,)`` polygons in um, of any size; prepared ones are quicker.
    sources
        Bins or shapes.
    """
    shapes = outlines(sources)
    tree = shapely.STRtree(shapes)
    # Most sources lie inside a target or outside; only those at its edge are cut.
    inside = tree.query(targets, predicate="covers")
    near = tree.query(targets, predicate="intersects")
    n = len(shapes)
    edge = near[:, ~np.isin(near[0] * n + near[1], inside[0] * n + inside[1])]
    cut = shapely.area(shapely.intersection(targets[edge[0]], shapes[edge[1]])) / shapely.area(shapes[edge[1]])
    part = np.concatenate([np.ones(inside.shape[1]), cut])
    result = sparse.csr_matrix((part, np.concatenate([inside, edge], axis=1)), shape=(len(targets), n))
    result.eliminate_zeros()
    return result
