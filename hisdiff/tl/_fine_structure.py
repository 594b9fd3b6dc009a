"""Clusters, marker scores and cell types in predictions finer than the spots, and enrichment of types in clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, one_of, positive, seed_of
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._expression import check_not_logged
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff._stats._regions import block_means, by_size, enrichment_range, log2_odds_ratios, merged, smoothed
from hisdiff.tl._fine_table import categories_of, grid_of, table_of, values_of, write_obs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._section import Names

_ALGORITHMS = ("kmeans", "minibatch", "gmm")
UNCLASSIFIED = "unclassified"


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
    components = smoothed(_components(counts, n_components, seed), ij, smooth_um / side_um)
    labels = by_size(merged(_clusters(components, n_clusters, algorithm, seed), ij, min_bins))
    names = [str(i) for i in range(labels.max() + 1)]
    column = pd.Series(pd.Categorical.from_codes(labels, pd.Index(names)), index=table.obs_names, name=key_added)
    if not inplace:
        return column
    write_obs(table, {key_added: column})
    return None


@documented
@checked
def marker_scores(
    data: SpatialData | AnnData,
    markers: Mapping[str, Sequence[str]],
    *,
    layer: str | None = None,
    pool_bins: int = 1,
    table_key: str | None = None,
    key_added: str = _keys.MARKER_SCORES,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score every bin for lists of marker genes.

    Each gene is scaled to 0..1 over the bins, and the genes of a list are averaged, so that all markers have the same
    weight.

    Parameters
    ----------
    %(fine_data)s
        Any other table works as well, without ``pool_bins``.
    markers
        Genes by the name of the list. Genes that the table lacks are left out and logged.
    %(expression_layer)s
    pool_bins
        Side, in bins, of the blocks that are averaged first.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s

    Returns
    -------
    None, and sets ``tables[table_key].obsm[key_added]`` (DataFrame, a column for each list, 0..1); or the scores.

    Raises
    ------
    KeyError
        If a list has no gene in the table.
    ValueError
        If there is a slot of that name that hisdiff did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.marker_scores(truth, {"tumour": ["TUM01", "TUM02"]})
    >>> list(truth.obsm["hisdiff_marker_scores"])
    ['tumour']
    """
    table = table_of(data, table_key)
    check_slots_free(table, "obsm", [checked_name(key_added, _keys.MARKER_SCORES)])
    positive(pool_bins, "pool_bins", integer=True)
    scores = _scores(table, markers, layer, pool_bins)
    if not inplace:
        return scores
    table.obsm[key_added] = scores
    mark_slots(table, "obsm", [key_added])
    logger.info("wrote obsm[%r]: %d bins x %d scores", key_added, *scores.shape)
    return None


@documented
@checked
def cell_types(
    data: SpatialData | AnnData,
    markers: Mapping[str, Sequence[str]],
    *,
    threshold: float = 0.1,
    layer: str | None = None,
    pool_bins: int = 1,
    table_key: str | None = None,
    key_added: str = _keys.CELL_TYPE,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Assign every bin the cell type whose markers score highest.

    Parameters
    ----------
    %(fine_data)s
    markers
        Genes by cell type.
    threshold
        Lowest score of a bin that gets a type; the others are ``"unclassified"``.
    layer, pool_bins
        See :func:`marker_scores`.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s

    Returns
    -------
    None, and sets ``tables[table_key].obs[key_added]`` (categories: the types in the order of ``markers``, and
    ``"unclassified"``) and ``obs[f"{key_added}_confidence"]`` (the score, float32); or both as a DataFrame.

    Raises
    ------
    KeyError
        If a type has no gene in the table.
    ValueError
        If ``threshold`` is outside 0..1, a type is called ``"unclassified"``, or a column was not written by hisdiff.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.cell_types(truth, {"tumour": ["TUM01"], "stroma": ["STR01"]})
    >>> sorted(truth.obs["hisdiff_cell_type"].cat.categories)
    ['stroma', 'tumour', 'unclassified']
    """
    table = table_of(data, table_key)
    confidence = f"{checked_name(key_added, _keys.CELL_TYPE)}_confidence"
    check_slots_free(table, "obs", [key_added, confidence])
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a score from 0 to 1, not {threshold!r}.")
    if UNCLASSIFIED in markers:
        raise ValueError(f"A cell type cannot be called {UNCLASSIFIED!r}: that is what bins without one are called.")
    scores = _scores(table, markers, layer, positive(pool_bins, "pool_bins", integer=True))
    best = scores.to_numpy()
    codes: np.ndarray = np.where(best.max(axis=1) >= threshold, best.argmax(axis=1), best.shape[1]).astype(np.int64)
    found = pd.DataFrame(
        {
            key_added: pd.Categorical.from_codes(codes, pd.Index([*markers, UNCLASSIFIED])),
            confidence: best.max(axis=1).astype(np.float32),
        },
        index=table.obs_names,
    )
    if not inplace:
        return found
    write_obs(table, {name: found[name] for name in (key_added, confidence)})
    return None


@documented
@checked
def type_enrichment(
    data: SpatialData | AnnData,
    *,
    cluster_key: str = _keys.CLUSTER,
    type_key: str = _keys.CELL_TYPE,
    block_um: float = 100.0,
    n_resamples: int = 200,
    table_key: str | None = None,
    key_added: str = _keys.TYPE_ENRICHMENT,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame | None:
    """Test which cell types are enriched in which cluster.

    Parameters
    ----------
    %(fine_data)s
    cluster_key, type_key
        Categorical columns of ``obs``, such as :func:`cluster_cells` and :func:`cell_types` write.
    block_um
        Side of the blocks of tissue that are resampled, since neighbouring bins are not independent observations.
    n_resamples
        Number of resamples.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s
    %(rng)s

    Returns
    -------
    None, and sets ``tables[table_key].uns["hisdiff"][key_added]`` (DataFrame: cluster, type, ``share`` of the cluster's bins,
    ``log2_odds_ratio`` of being of the type inside the cluster against outside, its 90 % interval ``low`` to ``high``); or
    the DataFrame.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the table has no grid, a column has a single category, or there is an entry of that name that this function
        did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.cluster_cells(truth, 3)
    >>> hd.tl.cell_types(truth, {"tumour": ["TUM01"], "stroma": ["STR01"]})
    >>> hd.tl.type_enrichment(truth)
    >>> list(truth.uns["hisdiff"]["type_enrichment"])
    ['cluster', 'type', 'share', 'log2_odds_ratio', 'low', 'high']
    """
    table, ij, side_um = grid_of(data, table_key, None)
    if inplace:
        check_slots_free(table, _keys.STEM, [checked_name(key_added, _keys.TYPE_ENRICHMENT)])
    columns = [categories_of(table, key) for key in (cluster_key, type_key)]
    positive(block_um, "block_um")
    positive(n_resamples, "n_resamples", integer=True)
    (rows, clusters), (cols, types) = columns
    known = (rows >= 0) & (cols >= 0)
    rows, cols, shape = rows[known], cols[known], (len(clusters), len(types))
    counts = np.zeros(shape)
    np.add.at(counts, (rows, cols), 1)
    _, blocks = np.unique(ij[known] // max(1, round(block_um / side_um)), axis=0, return_inverse=True)
    low, high = enrichment_range(rows, cols, blocks.ravel(), shape, n=n_resamples, level=0.9, seed=seed_of(rng))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    result = pd.DataFrame(
        {
            "cluster": np.repeat(clusters, len(types)),
            "type": np.tile(types, len(clusters)),
            "share": share.ravel(),
            "log2_odds_ratio": log2_odds_ratios(counts).ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
        }
    )
    if not inplace:
        return result
    table.uns.setdefault(_keys.STEM, {})[key_added] = result
    mark_slots(table, _keys.STEM, [key_added])
    logger.info("wrote uns['hisdiff'][%r]: %d clusters x %d types", key_added, *shape)
    return None


def _components(counts: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return principal components of standardised log counts at one total."""
    import scanpy as sc
    from anndata import AnnData

    table = AnnData(np.maximum(np.nan_to_num(counts), 0))
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


def _scores(table: AnnData, markers: Mapping[str, Sequence[str]], layer: str | None, pool: int) -> pd.DataFrame:
    """Return the mean of scaled genes for each list."""
    if not markers:
        raise ValueError("markers is empty; give genes by the name of a list, such as {'tumour': ['ERBB2']}.")
    columns = {}
    for name, genes in markers.items():
        if isinstance(genes, str):
            raise TypeError(f"The markers of {name!r} are a sequence of genes, not the string {genes!r}.")
        there = [gene for gene in genes if gene in table.var_names]
        if not there:
            raise KeyError(f"None of the markers of {name!r} is in the table: {listing(genes, 6)}.")
        if len(there) < len(genes):
            missing = [gene for gene in genes if gene not in there]
            logger.warning(
                "%s: %d of %d markers are not in the table: %s", name, len(missing), len(genes), listing(missing, 6)
            )
        values = values_of(table, there, layer).astype(np.float64)
        if pool > 1:
            values = block_means(values, grid_of(table, None, None)[1], pool)
        low = np.nanmin(values, axis=0)
        span = np.nanmax(values, axis=0) - low
        columns[name] = ((values - low) / np.where(span > 0, span, 1)).mean(axis=1)
    return pd.DataFrame(columns, index=table.obs_names)
