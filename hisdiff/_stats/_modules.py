"""Modules of genes that vary together, from a matrix of coexpression."""

from __future__ import annotations

import numpy as np

# Partners of each gene that enter the graph, strongest positive and strongest negative; all of them in a small panel.
# It bounds the graph: 5,000 genes give at most 150,000 edges instead of 12.5 million.
_PARTNERS = 15
# Cuts of the tree that are tried.
_MAX_CLUSTERS = 20


def leiden_modules(matrix: np.ndarray, *, resolution: float, min_genes: int, seed: int) -> np.ndarray:
    """Return modules by the Leiden algorithm on the signed graph of coexpression.

    Positive and negative entries are two graphs on the same genes. The modularity of the first minus that of the second
    is maximised: positive partners are drawn together, negative ones apart.

    Parameters
    ----------
    matrix
        ``(G, G)`` symmetric; genes whose diagonal is 0 are constant and belong to no module.
    resolution
        Above 1 for more and smaller modules.
    min_genes
        Genes of smaller modules belong to none.
    seed
        Of the order in which genes are moved.

    Returns
    -------
    int64 ``(G,)``: 0 for the largest module, and so on; -1 for none.
    """
    import igraph
    import leidenalg

    varies = np.flatnonzero(np.diag(matrix) > 0)
    signed = matrix[np.ix_(varies, varies)].astype(np.float64)
    np.fill_diagonal(signed, 0)
    parts, signs = [], []
    for sign in (1, -1):
        source, target, weight = _strongest(np.maximum(sign * signed, 0))
        if len(weight):
            graph = igraph.Graph(n=len(varies), edges=np.column_stack([source, target]).tolist())
            partition = leidenalg.RBConfigurationVertexPartition(
                graph, weights=weight.tolist(), resolution_parameter=resolution
            )
            parts.append(partition)
            signs.append(sign)
    labels = np.full(len(matrix), -1)
    if parts and signs[0] == 1:
        optimiser = leidenalg.Optimiser()
        optimiser.set_rng_seed(seed % 2**31)
        optimiser.optimise_partition_multiplex(parts, layer_weights=signs, n_iterations=-1)
        labels[varies] = parts[0].membership
    return _by_size(labels, min_genes)


def hierarchical_modules(matrix: np.ndarray, *, min_genes: int) -> np.ndarray:
    """Return modules by average linkage on 1 - coexpression; the tree is cut where the mean silhouette is highest.

    Parameters and result as in :func:`leiden_modules`.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform
    from sklearn.metrics import silhouette_score

    varies = np.flatnonzero(np.diag(matrix) > 0)
    labels = np.full(len(matrix), -1)
    if len(varies) > 2:
        distance = np.maximum(1 - matrix[np.ix_(varies, varies)].astype(np.float64), 0)
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform(distance, checks=False), method="average")
        cuts = [fcluster(tree, k, "maxclust") for k in range(2, min(_MAX_CLUSTERS, len(varies) - 1) + 1)]
        cuts = [cut for cut in cuts if 1 < len(np.unique(cut)) < len(varies)]
        if cuts:
            labels[varies] = max(cuts, key=lambda cut: silhouette_score(distance, cut, metric="precomputed"))
    return _by_size(labels, min_genes)


def heatmap_order(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an order of the genes: module by module, within each along a tree of average linkage; no module last."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    order: list[int] = []
    for label in [*range(labels.max(initial=-1) + 1), -1]:
        genes = np.flatnonzero(labels == label)
        if len(genes) > 2:
            distance = np.maximum(1 - matrix[np.ix_(genes, genes)].astype(np.float64), 0)
            np.fill_diagonal(distance, 0)
            genes = genes[leaves_list(linkage(squareform(distance, checks=False), method="average"))]
        order.extend(genes.tolist())
    return np.array(order, dtype=np.int64)


def module_scores(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean standard score of the genes of each module, float32 ``(n, modules)``.

    Parameters
    ----------
    units
        ``(n, G)``: genes centred and scaled to length 1, constant ones zero.
    labels
        Of :func:`leiden_modules`.
    """
    n_modules = labels.max(initial=-1) + 1
    member = (labels[:, None] == np.arange(n_modules)).astype(np.float32)
    return units @ (member / member.sum(axis=0)) * np.float32(np.sqrt(len(units)))


def _strongest(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges ``(source, target, weight)`` with source < target, each among the strongest of one of its genes."""
    n = len(weights)
    if n > _PARTNERS + 1:
        limit = np.partition(weights, n - _PARTNERS, axis=1)[:, n - _PARTNERS]
        weights = np.where(weights >= np.minimum(limit[:, None], limit[None, :]), weights, 0)
    source, target = np.nonzero(np.triu(weights, k=1))
    return source, target, weights[source, target]


def _by_size(labels: np.ndarray, min_genes: int) -> np.ndarray:
    """Number modules by size, the largest first (then by their first gene); those below the least size become -1."""
    names, first, times = np.unique(labels, return_index=True, return_counts=True)
    ranked = sorted((-size, start, name) for name, start, size in zip(names, first, times) if name >= 0)
    result = np.full(len(labels), -1)
    for new, (size, _, name) in enumerate(ranked):
        if -size >= min_genes:
            result[labels == name] = new
    return result
