import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hisdiff as hd


@pytest.fixture
def table() -> ad.AnnData:
    """Two halves of a square of 30 x 30 bins of 16 um, with genes of their own."""
    row, col = (a.ravel() for a in np.mgrid[:30, :30] + 4)
    left = (col < 19)[:, None]
    rng = np.random.default_rng(0)
    rate = np.where(left, [5, 4, 1, 1, 2], [1, 1, 4, 5, 2])
    made = ad.AnnData(
        (rate * rng.gamma(4, 0.25, rate.shape)).astype(np.float32),
        obs=pd.DataFrame({"array_row": row, "array_col": col}, index=[f"c{i}" for i in range(900)]),
        var=pd.DataFrame(index=["A1", "A2", "B1", "B2", "C"]),
    )
    made.uns["hisdiff"] = {"made_by": "hisdiff", "predictions": {"ridge": {"resolution_um": 16.0}}}
    return made


MARKERS = {"a": ["A1", "A2"], "b": ["B1", "B2"]}


@pytest.mark.parametrize("algorithm", ["kmeans", "minibatch", "gmm"])
def test_clusters_are_the_two_halves(table, algorithm) -> None:
    hd.tl.cluster_cells(table, 2, algorithm=algorithm)
    left = table.obs["array_col"] < 19
    shares = pd.crosstab(left, table.obs["hisdiff_cluster"], normalize="index").to_numpy()
    assert shares.max(axis=1).min() > 0.93
    assert table.obs["hisdiff_cluster"].cat.categories.to_list() == ["0", "1"]


def test_clustering_twice_replaces_and_the_seed_decides(table) -> None:
    first = hd.tl.cluster_cells(table, 4, inplace=False)
    assert "hisdiff_cluster" not in table.obs
    hd.tl.cluster_cells(table, 2)
    hd.tl.cluster_cells(table, 4)
    pd.testing.assert_series_equal(table.obs["hisdiff_cluster"], first)
    table.obs["mine"] = 1
    with pytest.raises(ValueError, match="'mine' that hisdiff did not write"):
        hd.tl.cluster_cells(table, key_added="mine")


def test_scores_average_genes_scaled_over_the_bins(table) -> None:
    hd.tl.marker_scores(table, MARKERS)
    scores = table.obsm["hisdiff_marker_scores"]
    scaled = (table.X - table.X.min(0)) / np.ptp(table.X, axis=0)
    np.testing.assert_allclose(scores["a"], scaled[:, :2].mean(axis=1), rtol=1e-4)
    pooled = hd.tl.marker_scores(table, MARKERS, pool_bins=5, inplace=False)
    assert pooled["a"].nunique() <= 7 * 7
    assert pooled["a"].between(0, 1).all()


def test_missing_markers_are_said_and_a_list_without_any_is_an_error(table, caplog) -> None:
    hd.tl.marker_scores(table, {"a": ["A1", "X"]})
    assert "1 of 2 markers are not in the table: ['X']" in caplog.text
    with pytest.raises(KeyError, match="None of the markers of 'x'"):
        hd.tl.marker_scores(table, {"x": ["X"]})
    with pytest.raises(TypeError, match=r"'a'.* a sequence"):
        hd.tl.marker_scores(table, {"a": "A1"})
    with pytest.raises(ValueError, match="markers is empty"):
        hd.tl.marker_scores(table, {})


def test_types_follow_the_highest_score_and_faint_bins_have_none(table) -> None:
    hd.tl.cell_types(table, MARKERS, threshold=0.15)
    types, confidence = table.obs["hisdiff_cell_type"], table.obs["hisdiff_cell_type_confidence"]
    assert types.cat.categories.to_list() == ["a", "b", "unclassified"]
    np.testing.assert_array_equal(types == "unclassified", confidence < 0.15)
    left = table.obs["array_col"] < 19
    assert (types[left & (types != "unclassified")] == "a").mean() > 0.9
    with pytest.raises(ValueError, match="threshold"):
        hd.tl.cell_types(table, MARKERS, threshold=2)
    with pytest.raises(ValueError, match="cannot be called"):
        hd.tl.cell_types(table, {"unclassified": ["A1"]})


def test_enrichment_tells_which_type_lives_where(table) -> None:
    hd.tl.cluster_cells(table, 2)
    hd.tl.cell_types(table, MARKERS)
    hd.tl.type_enrichment(table, block_um=80)
    found = table.uns["hisdiff"]["type_enrichment"].set_index(["cluster", "type"])
    strongest = found["log2_odds_ratio"].unstack()[["a", "b"]]
    assert (strongest.max(axis=1) > 3).all()
    assert set(strongest.idxmax(axis=1)) == {"a", "b"}
    assert (found["low"] <= found["high"]).all()
    np.testing.assert_allclose(found["share"].groupby("cluster").sum(), 1)
    with pytest.raises(KeyError, match="no column of obs 'x'"):
        hd.tl.type_enrichment(table, cluster_key="x")


def test_type_enrichment_replaces_its_own_result_and_nothing_else(table) -> None:
    hd.tl.cluster_cells(table, 2)
    hd.tl.cell_types(table, MARKERS)
    for _ in range(2):
        hd.tl.type_enrichment(table, n_resamples=2)
    table.uns["hisdiff"]["mine"] = "kept"
    for key in ("mine", "written"):
        with pytest.raises(ValueError, match=f"There is a '{key}' that hisdiff did not write"):
            hd.tl.type_enrichment(table, key_added=key)
    assert table.uns["hisdiff"]["mine"] == "kept"


def test_the_fine_table_of_an_object_is_found(table, make_section) -> None:
    sdata = make_section()
    with pytest.raises(ValueError, match="no table of a prediction finer"):
        hd.tl.cluster_cells(sdata)
    sdata.tables["ridge_16um"] = table
    hd.tl.cluster_cells(sdata, 2)
    assert "hisdiff_cluster" in sdata.tables["ridge_16um"].obs
    with pytest.raises(ValueError, match="not one of bins on a grid"):
        hd.tl.cluster_cells(sdata, table_key="table")
    with pytest.raises(KeyError, match="no table 'x'"):
        hd.tl.cluster_cells(sdata, table_key="x")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"n_clusters": 0}, ValueError),
        ({"n_clusters": 1000}, ValueError),
        ({"algorithm": "ward"}, ValueError),
        ({"smooth_um": -1}, ValueError),
        ({"genes": ["X"]}, KeyError),
        ({"layer": "raw"}, KeyError),
        ({"key_added": "my cluster"}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(table, arguments, error) -> None:
    with pytest.raises(error):
        hd.tl.cluster_cells(table, **arguments)
    assert "hisdiff_cluster" not in table.obs


def test_bins_without_a_value_do_not_change_the_scores_of_the_others(table) -> None:
    table.X += 10
    whole = hd.tl.marker_scores(table, MARKERS, inplace=False)
    low, high = table.X.argmin(axis=0), table.X.argmax(axis=0)
    lost = next(i for i in range(900) if i not in {*low, *high})
    table.X[lost] = np.nan
    part = hd.tl.marker_scores(table, MARKERS, inplace=False)
    assert part.iloc[lost].isna().all()
    np.testing.assert_allclose(part.drop(index=f"c{lost}"), whole.drop(index=f"c{lost}"), rtol=1e-5)


def test_logarithms_are_not_clustered_as_counts(table) -> None:
    import scanpy as sc

    sc.pp.log1p(table)
    with pytest.raises(ValueError, match=r"no counts since sc\.pp\.log1p"):
        hd.tl.cluster_cells(table, 2)


def test_of_several_fine_tables_one_has_to_be_named(table, make_section) -> None:
    sdata = make_section()
    sdata.tables["a"], sdata.tables["b"] = table, table.copy()
    with pytest.raises(ValueError, match=r"There are several tables finer than the spots, \['a', 'b'\]"):
        hd.tl.cluster_cells(sdata)
