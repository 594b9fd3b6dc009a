"""Clusters of the bins of a fine table."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import one_of, positive, seed_of
from hisdiff._docs import documented
from hisdiff._log import announce
from hisdiff._sdata._expression import check_not_logged
from hisdiff._stats._regions import by_size, merged, smoothed
from hisdiff.tl._fine_table import grid_of, values_of, write_obs

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._section import Names

_ALGORITHMS = ("kmeans", "minibatch", "gmm")
# Seconds on a core for each bin and gene.
_VALUE_S = 1e-7


@documented
@checked
def cluster_cells(
    data: SpatialData | AnnData,
    n_clusters: int = 10,
    *,
    genes: Names | None = None,
    layer: str | None = None,
    algorithm: Literal["kmeans", "minibatch", "gmm"] = "kmeans",
    n_components: int = 20,
    smooth_um: float = 16.0,
    min_bins: int = 20,
    table_key: str | None = None,
    key_added: str = _keys.CLUSTER,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
) -> pd.Series | None:
    """Cluster the bins of a fine prediction by their expression and that of their surroundings.

    Expected counts are scaled to one total, log-transformed, standardised per gene and reduced to principal components, which
    are smoothed in space and clustered. Parts of a cluster that are smaller than ``min_bins``
    are merged into the surrounding cluster. Clusters are numbered by size.

    Parameters
    ----------
    %(fine_data)s
    n_clusters
        Number of clusters.
    genes
        Genes to use; None for all.
    %(expression_layer)s
    algorithm
        ``"kmeans"``, ``"minibatch"`` (k-means in parts, for millions of bins) or ``"gmm"`` (Gaussian mixture with
        diagonal covariances).
    n_components
        Maximum number of principal components.
    smooth_um
        Standard deviation of the smoothing, in um; 0 for none.
    min_bins
        Smallest connected part of a cluster; 1 keeps all.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s
    %(rng)s

    Returns
    -------
    None, and sets ``tables[table_key].obs[key_added]`` (categories ``"0"``, ``"1"``, ... from the largest); or the column.

    Raises
    ------
    ValueError
        If the table has no grid, fewer bins than clusters, or a column of that name that hisdiff did not write.
    KeyError
        If there is no such table, layer or gene.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.cluster_cells(truth, 3)
    >>> truth.obs["hisdiff_cluster"].cat.categories.to_list()
    ['0', '1', '2']
    """
    table, ij, side_um = grid_of(data, table_key, key_added)
    positive(n_clusters, "n_clusters", integer=True)
    positive(n_components, "n_components", integer=True)
    positive(min_bins, "min_bins", integer=True)
    one_of(algorithm, _ALGORITHMS, "algorithm")
    if smooth_um < 0:
        raise ValueError(f"smooth_um is zero or above, not {smooth_um!r}.")
    seed = seed_of(rng)
    if layer is None:
        check_not_logged(table)
    counts = values_of(table, genes, layer)
    if len(counts) < n_clusters:
        raise ValueError(f"There are {len(counts)} bins, fewer than n_clusters={n_clusters}.")
    announce(f"clustering {len(counts):,} bins by {counts.shape[1]:,} genes", counts.size * _VALUE_S)
    components = smoothed(_components(counts, n_components, seed), ij, smooth_um / side_um)
    labels = by_size(merged(_clusters(components, n_clusters, algorithm, seed), ij, min_bins))
    names = [str(i) for i in range(labels.max() + 1)]
    column = pd.Series(pd.Categorical.from_codes(labels, pd.Index(names)), index=table.obs_names, name=key_added)
    if not inplace:
        return column
    write_obs(table, {key_added: column})
    return None


def _components(counts: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return principal components of standardised log counts at one total."""
    import scanpy as sc
    from anndata import AnnData

    table = AnnData(np.maximum(np.nan_to_num(counts), 0))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Some cells have zero counts", UserWarning
        )  # bins of glass, which stay at zero
        sc.pp.normalize_total(table)
    sc.pp.log1p(table)
    sc.pp.scale(table)
    table.X = np.nan_to_num(table.X)  # a gene that is the same everywhere
    n = min(n, *(size - 1 for size in table.shape))
    if n < 1:
        return np.asarray(table.X)
    sc.pp.pca(table, n_comps=n, random_state=seed % 2**32)
    return np.asarray(table.obsm["X_pca"])


def _clusters(components: np.ndarray, n: int, algorithm: str, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.mixture import GaussianMixture

    state = seed % 2**32
    fitter = {
        "kmeans": lambda: KMeans(n, n_init=4, random_state=state),
        "minibatch": lambda: MiniBatchKMeans(n, n_init=4, random_state=state, batch_size=4096),
        "gmm": lambda: GaussianMixture(n, covariance_type="diag", random_state=state),
    }[algorithm]()
    return np.asarray(fitter.fit_predict(components))
