"""Results go on without conversion: squidpy, scanpy, spatialdata, spatialdata-plot, anndata and files."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata as sd
import squidpy as sq

import hisdiff as hd
from hisdiff._sdata._layers import layer_names

FINE = "ridge_25um"
GENES = ["TUM01", "STR01", "IMM01", "ADI01"]


@pytest.fixture(scope="session")
def chained():
    """A toy section with a prediction at its spots and one of bins of 25 um; tests work on copies of its tables."""
    sdata = hd.datasets.toy(size_um=600, n_genes=60)
    model = hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata, model)
    hd.tl.predict(sdata, model, resolution_um=25, n_draws=2, keep_draws=1)
    return sdata


@pytest.fixture(params=["table", FINE])
def table(chained, request):
    """A table as a user takes it: the modelled genes, X or layer ``ridge`` the prediction; and the name of that layer."""
    adata = chained.tables[request.param]
    if request.param == "table":
        adata = adata[:, adata.var["ridge_modelled"]]
    return adata.copy()


@pytest.fixture
def layer(table):
    return "ridge" if "ridge" in table.layers else None


@pytest.mark.parametrize("kind", ["knn", "radius", "grid"])
def test_neighbours_of_squidpy_are_those_in_um(table, kind):
    make = {
        "knn": lambda: sq.gr.spatial_neighbors_knn(table, n_neighs=4),
        # obsm["spatial"] is in pixels of 0.5 um: the pitch and a hair.
        "radius": lambda: sq.gr.spatial_neighbors_radius(table, radius=202.0 if "ridge" in table.layers else 51.0),
        "grid": lambda: sq.gr.spatial_neighbors_grid(table, n_neighs=4),
    }
    make[kind]()
    degree = np.asarray((table.obsp["spatial_connectivities"] > 0).sum(axis=1)).ravel()
    assert degree.max() >= 4
    side = 100 if "ridge" in table.layers else 25
    distances = table.obsp["spatial_distances"].data
    assert distances.min() >= (1 if kind == "grid" else 2 * side - 1e-6)


def test_moran_of_a_prediction_is_that_of_its_values(table, layer):
    sq.gr.spatial_neighbors_grid(table, n_neighs=4)
    sq.gr.spatial_autocorr(table, mode="moran", layer=layer, genes=GENES)
    moran = table.uns["moranI"].loc[GENES, "I"]
    assert np.isfinite(moran).all()
    values = np.asarray(table[:, GENES[0]].X if layer is None else table[:, GENES[0]].layers[layer]).ravel()
    weights = table.obsp["spatial_connectivities"].toarray()
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)
    centered = values - values.mean()
    expected = len(values) / weights.sum() * centered @ weights @ centered / (centered @ centered)
    assert moran[GENES[0]] == pytest.approx(expected, rel=1e-3)


def test_clusters_are_found_ranked_scored_and_counted_as_neighbours(table, layer):
    if layer is not None:
        table.X = table.layers[layer].copy()
    sc.pp.pca(table, n_comps=5)
    sc.pp.neighbors(table, n_neighbors=6, method="gauss")  # quicker to start than umap
    sc.tl.leiden(table, flavor="igraph", n_iterations=2, resolution=1.0)
    assert table.obs["leiden"].nunique() > 1
    sc.tl.rank_genes_groups(table, "leiden", method="t-test", layer=layer)
    assert set(table.uns["rank_genes_groups"]["names"]["0"]) == set(table.var_names)
    sc.tl.score_genes(table, [g for g in table.var_names if g.startswith("TUM")], ctrl_size=5, score_name="tumour")
    assert np.corrcoef(table.obs["tumour"], np.asarray(table[:, "TUM01"].X).ravel())[0, 1] > 0
    sq.gr.spatial_neighbors_knn(table, n_neighs=4)
    sq.gr.nhood_enrichment(table, cluster_key="leiden", n_perms=10, show_progress_bar=False, seed=0)
    n = table.obs["leiden"].nunique()
    assert table.uns["leiden_nhood_enrichment"]["count"].shape == (n, n)
    sq.gr.co_occurrence(table, cluster_key="leiden", interval=5)
    assert table.uns["leiden_co_occurrence"]["occ"].shape[:2] == (n, n)


def test_ligands_and_receptors_take_the_names_of_genes(table, layer):
    if layer is not None:
        table.X = table.layers[layer].copy()
    table.obs["side"] = pd.Categorical(np.where(table.obsm["spatial"][:, 0] > 600, "left", "right"))
    pairs = pd.DataFrame({"source": ["TUM01", "IMM01"], "target": ["STR01", "TUM02"]})
    found = sq.gr.ligrec(
        table, "side", interactions=pairs, n_perms=10, use_raw=False, copy=True, threshold=0,
        corr_method=None, show_progress_bar=False, seed=0,
    )  # fmt: skip
    assert found["means"].shape == (2, 4)
    assert np.isfinite(found["means"].to_numpy(dtype=float)).all()


def test_decoupler_scores_a_prediction(table, layer):
    decoupler = pytest.importorskip("decoupler")
    if layer is not None:
        table.X = table.layers[layer].copy()
    net = pd.DataFrame(
        {"source": "tumour", "target": [g for g in table.var_names if g.startswith("TUM")], "weight": 1.0}
    )
    decoupler.mt.ulm(table, net=net, tmin=3)
    assert table.obsm["score_ulm"].shape == (table.n_obs, 1)


@pytest.fixture(scope="session")
def store(chained, tmp_path_factory):
    path = tmp_path_factory.mktemp("chained") / "section.zarr"
    sd.SpatialData.init_from_elements({name: element for _, name, element in chained.gen_elements()}).write(path)
    return path


def test_zarr_gives_back_what_was_written(chained, store):
    again = sd.read_zarr(store)
    for key in ("table", FINE):
        old, new = chained.tables[key], again.tables[key]
        assert set(layer_names(new)) == set(layer_names(old))
        assert (
            new.uns["hisdiff"]["predictions"]["ridge"]["n_draws"]
            == old.uns["hisdiff"]["predictions"]["ridge"]["n_draws"]
        )
        for name in layer_names(old):
            np.testing.assert_array_equal(new.layers[name], old.layers[name])
        pd.testing.assert_frame_equal(new.obs, old.obs, check_dtype=False, check_categorical=False)
    ax = hd.pl.gene_map(again, "TUM01", table_key=FINE)
    assert "TUM01, predicted by ridge" in ax.get_title(loc="left")  # whatever is said of its accuracy
    hd.tl.aggregate(again, FINE, "toy", inplace=False)


def test_h5ad_gives_back_what_was_written(table, tmp_path):
    table.write_h5ad(tmp_path / "t.h5ad")
    again = ad.read_h5ad(tmp_path / "t.h5ad")
    np.testing.assert_array_equal(again.X if not hasattr(again.X, "toarray") else again.X.toarray(),
                                  table.X if not hasattr(table.X, "toarray") else table.X.toarray())  # fmt: skip
    assert again.uns["hisdiff"]["predictions"]["ridge"]["method"] == "ridge"
    layer = {"layer": "ridge_draw0"} if "ridge_draw0" in again.layers else {"layer": "draw0"}
    hd.tl.coexpression(again, **layer)


def test_sections_are_concatenated(table):
    table.uns.pop("spatialdata_attrs")
    both = ad.concat({"a": table, "b": table}, label="section", index_unique="-", merge="same", uns_merge="same")
    assert both.n_obs == 2 * table.n_obs
    assert layer_names(both) == layer_names(table)
    assert both.uns["hisdiff"]["predictions"]["ridge"]["units"] == table.uns["hisdiff"]["predictions"]["ridge"]["units"]
    layer = "ridge_draw0" if "ridge_draw0" in both.layers else "draw0"
    one, two = (hd.tl.coexpression(t, layer=layer, modules=None, inplace=False) for t in (table, both))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_a_box_of_the_section_keeps_spots_and_bins(chained):
    box = sd.bounding_box_query(
        chained, axes=("x", "y"), min_coordinate=[100, 100], max_coordinate=[400, 400], target_coordinate_system="um",
    )  # fmt: skip
    inside = chained.tables[FINE].obsm["spatial"] * 0.5
    inside = ((inside > 100) & (inside < 400)).all(axis=1)
    assert box.tables[FINE].n_obs == inside.sum()
    fine = hd.pl.gene_map(box, "TUM01", table_key=FINE)
    spots = hd.pl.gene_map(box, "TUM01", layers="ridge")
    for ax in (fine, spots):
        assert ax.get_xlim()[1] - ax.get_xlim()[0] <= 401
    assert fine.get_images()[1].get_array().count() == inside.sum()
    sums = hd.tl.aggregate(box, FINE, "toy", inplace=False)
    assert sums.n_obs == box.shapes["toy"].shape[0]


def test_parts_of_a_table_find_their_shapes_again(chained):
    part = sd.SpatialData.init_from_elements(
        {"toy": chained.shapes["toy"], "table": chained.tables["table"][:7].copy()}
    )
    matched = sd.match_sdata_to_table(part, table_name="table")
    assert len(matched.shapes["toy"]) == 7
    assert matched.tables["table"].layers["ridge"].shape[0] == 7


def test_parts_of_a_fine_table_keep_their_labels(chained):
    elements = {"toy_image": chained.images["toy_image"], f"{FINE}_bins": chained.labels[f"{FINE}_bins"]}
    part = sd.SpatialData.init_from_elements({**elements, FINE: chained.tables[FINE][::2].copy()})
    matched = sd.match_sdata_to_table(part, table_name=FINE, how="left")
    assert matched.tables[FINE].n_obs == part.tables[FINE].n_obs
    assert hd.pl.gene_map(part, "TUM01", table_key=FINE).get_images()[1].get_array().count() == part.tables[FINE].n_obs


def test_spatialdata_plot_draws_spots_and_bins_over_the_image(chained):
    import spatialdata_plot  # noqa: F401  registers sdata.pl

    ax = plt.subplots()[1]
    spots = chained.pl.render_images("toy_image").pl.render_shapes("toy", color="TUM01", table_name="table", table_layer="ridge")  # fmt: skip
    spots.pl.show(coordinate_systems="um", ax=ax)
    assert ax.collections
    ax = plt.subplots()[1]
    bins = chained.pl.render_images("toy_image").pl.render_labels(f"{FINE}_bins", color="TUM01", table_name=FINE)
    bins.pl.show(coordinate_systems="um", ax=ax)
    assert len(ax.get_images()) == 2


def test_bins_go_through_coexpression_and_pathways(chained):
    sdata = sd.SpatialData.init_from_elements(
        {name: chained[name] for name in ("toy_image", f"{FINE}_bins")} | {FINE: chained.tables[FINE].copy()}
    )
    bins = sdata.tables[FINE]
    sq.gr.spatial_neighbors_grid(bins, n_neighs=4)
    for method in ("spearman", "lee"):
        hd.tl.coexpression(sdata, layer="draw0", method=method, table_key=FINE, key_added=method)
    one, other = (bins.varp[f"{method}_coexpression"] for method in ("spearman", "lee"))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.5
    programmes = {kind: [g for g in bins.var_names if g.startswith(kind)] for kind in ("TUM", "IMM")}
    hd.tl.enrich(sdata, programmes, layer="X", method="zscore", table_key=FINE, min_size=3)
    ax = hd.pl.pathway_map(sdata, "TUM", table_key=FINE)
    np.testing.assert_allclose(
        np.sort(ax.get_images()[1].get_array().compressed()), np.sort(bins.obsm["hisdiff_pathways"]["TUM"]), rtol=1e-5
    )
    panels = hd.pl.gene_pair(sdata, "TUM01", "IMM01", layers="X", table_key=FINE).axes[:3]
    assert [len(ax.get_images()) for ax in panels] == [0, 2, 2]
