"""What predictions are interpolated from: values at the nodes of a lattice, computed for nodes that lie together.

A product of matrices of another shape rounds differently. Which nodes are computed together therefore depends on the lattice and on all
nodes that a prediction needs, and not on tiles, threads or workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable

# Side of a group, in nodes: with a light encoder a second's work.
_SIDE = 12
_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


class NodeValues(NamedTuple):
    """Values at some nodes.

    Attributes
    ----------
    center, local
        float32 ``(n, G)``, mean log2(1 + count) of a footprint, and log2 of the mean local rate in it.
    features
        float32 ``(n, p)``, of what is open of the relation to the image.
    """

    center: np.ndarray
    local: np.ndarray
    features: np.ndarray


class Nodes:
    """What is known at nodes, (row, column)."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def at(self, nodes: np.ndarray) -> NodeValues:
        """Return the values at nodes ``(n, 2)``."""
        found = [self._known[key] for key in _keys(nodes)]
        return NodeValues(*(np.stack([of[i] for of in found]) for i in range(len(NodeValues._fields))))

    def lacking(self, nodes: np.ndarray) -> np.ndarray:
        """Return those of nodes ``(n, 2)`` at which nothing is known."""
        return nodes[[key not in self._known for key in _keys(nodes)]]

    def learn(self, nodes: np.ndarray, values: NodeValues) -> None:
        """Take over the values at nodes ``(n, 2)``."""
        self._known.update(zip(_keys(nodes), zip(*values)))

    def keep(self, parts: Iterable[np.ndarray]) -> None:
        """Forget what is known at all nodes but those in any of some arrays."""
        kept = set(_keys(all_nodes(parts)))
        self._known = {key: of for key, of in self._known.items() if key in kept}

    def groups(self, parts: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Return the nodes in any of some arrays at which nothing is known, in the groups that are computed together."""
        nodes = self.lacking(all_nodes(parts))
        _, index = _unique(nodes // _SIDE)
        order = np.argsort(index, kind="stable")
        return np.split(nodes[order], np.flatnonzero(np.diff(index[order])) + 1) if len(nodes) else []

    def lacking_groups(self, groups: Iterable[np.ndarray], parts: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Return the groups that have a node in any of some arrays at which nothing is known."""
        wanted = set(_keys(self.lacking(all_nodes(parts))))
        return [group for group in groups if not wanted.isdisjoint(_keys(group))]


def all_nodes(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return the nodes that are in any of some arrays ``(n, 2)``, each once."""
    return _unique(np.concatenate([np.empty((0, 2), dtype=np.int64), *parts]))[0]


def nodes_around(xy_um: np.ndarray, spacing_um: float) -> np.ndarray:
    """Return the nodes of a lattice around places ``(n, 2)``."""
    first, _ = _unique(np.floor(xy_um[:, ::-1] / spacing_um).astype(np.int64))
    return _unique((first[:, None] + _CORNERS).reshape(-1, 2))[0]


def around(xy_um: np.ndarray, spacing_um: float) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Return the nodes of a lattice around places, and the bilinear weights of each, csr ``(n, nodes)``."""
    place = xy_um[:, ::-1] / spacing_um
    first = np.floor(place).astype(np.int64)
    part = place - first
    weights = np.where(_CORNERS, part[:, None], 1 - part[:, None]).prod(axis=2)
    nodes, index = _unique((first[:, None] + _CORNERS).reshape(-1, 2))
    rows = np.repeat(np.arange(len(xy_um)), len(_CORNERS))
    return nodes, sparse.csr_matrix((weights.ravel(), (rows, index)), shape=(len(xy_um), len(nodes)))


def _unique(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each node once, in order, and which of them every row of ``nodes`` is; as one number each, which sort faster than pairs."""
    if not len(nodes):
        return nodes, np.empty(0, dtype=np.int64)
    corner = nodes.min(axis=0)
    width = int(nodes[:, 1].max() - corner[1]) + 1
    flat, index = np.unique((nodes - corner) @ [width, 1], return_inverse=True)
    return np.stack(np.divmod(flat, width), axis=1) + corner, index.ravel()


def _keys(nodes: np.ndarray) -> list[tuple[int, int]]:
    return list(map(tuple, nodes.tolist()))
