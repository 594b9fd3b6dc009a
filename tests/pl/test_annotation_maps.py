"""Maps of columns of obs, of several sections and tables, of parts, and in other coordinate systems."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from spatialdata.transformations import Affine, set_transformation

import hisdiff as hd

MPP, BIN_UM = 2.0, 50.0


@pytest.fixture
def sdata(make_section):
    sdata = make_section("s1", mpp=MPP)
    obs = sdata.tables["table"].obs
    obs["type"] = pd.Categorical(
        np.where(np.arange(36) < 6, "tumour", "stroma"), categories=["tumour", "stroma", "fat"]
    )
    obs["score"] = np.linspace(-1, 1, 36)
    obs["inside"] = np.arange(36) < 10
    return sdata


@pytest.fixture(scope="module")
def fine(make_section):
    sdata = make_section("s1", mpp=MPP, side=4)
    hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata)
    hd.tl.predict(sdata, resolution_um=BIN_UM)
    return sdata


def panels(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def legend_of(ax):
    legend = ax.get_legend()
    return {
        text.get_text(): to_hex(patch.get_facecolor()) for text, patch in zip(legend.get_texts(), legend.get_patches())
    }


def colors_of(ax):
    ax.figure.canvas.draw()
    return [to_hex(color) for color in ax.collections[0].get_facecolors()]


def test_categories_have_the_colours_that_scanpy_keeps_and_a_complete_legend(sdata):
    sdata.tables["table"].uns["type_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    ax = hd.pl.gene_map(sdata, "type")
    assert legend_of(ax) == {"tumour": "#ff0000", "stroma": "#00ff00", "fat": "#0000ff"}
    assert colors_of(ax) == ["#ff0000"] * 6 + ["#00ff00"] * 30
    assert legend_of(hd.pl.gene_map(sdata, "type", palette={"stroma": "#111111"}))["stroma"] == "#111111"


def test_missing_categories_are_left_out_and_flags_are_grey_where_they_are_not_set(sdata):
    table = sdata.tables["table"]
    table.obs.loc[table.obs_names[:6], "type"] = np.nan
    assert len(hd.pl.gene_map(sdata, "type").collections[0].get_offsets()) == 30
    assert legend_of(hd.pl.region_map(sdata, "inside"))["no"] == "#bdbdbd"


def test_scores_have_the_scale_that_is_asked_for(sdata):
    ax = hd.pl.gene_map(sdata, "score", vmin=-2, vmax=0.5, figsize=(3, 2), title="A score", spot_scale=2)
    norm = ax.collections[0].norm
    assert (norm.vmin, norm.vmax) == (-2, 0.5)
    assert ax.get_title(loc="left") == "A score"
    assert ax.figure.get_size_inches().tolist() == [3, 2]
    np.testing.assert_allclose(ax.collections[0].get_widths(), 100)
    with pytest.raises(ValueError, match="vmin=3 is not below vmax=0.98"):
        hd.pl.gene_map(sdata, "score", vmin=3)


def test_columns_of_any_kind_are_shown_or_refused_in_words(sdata):
    obs = sdata.tables["table"].obs
    obs["whole"] = pd.array([1, None, *range(34)], dtype="Int64")
    obs["day"] = pd.Timestamp("2020-01-01")
    obs["nothing"], obs["id"] = np.nan, [f"spot {i}" for i in range(36)]
    assert np.isfinite(hd.pl.gene_map(sdata, "whole").collections[0].get_array()).sum() == 35
    assert list(legend_of(hd.pl.gene_map(sdata, "day"))) == ["2020-01-01 00:00:00"]
    for arguments, message in (
        ({"genes": "nothing"}, r"obs\['nothing'\] has no finite number"),
        ({"genes": "A00", "crop": (300, 0, 100, 50)}, "x0 below x1"),
        ({"genes": "A00", "crop": (9000, 0, 9100, 50)}, r"shows nothing: the image of 's1' spans \(0, 0, 800, 800\)"),
        ({"genes": "A00", "spot_scale": -1.0}, "spot_scale"),
        ({"genes": "A00", "figsize": (0.0, 3.0)}, "A side of figsize"),
    ):
        with pytest.raises(ValueError, match=message):
            hd.pl.gene_map(sdata, **arguments)
    assert len(plt.get_fignums()) == 2


def test_a_row_is_a_gene_or_a_column_and_an_unknown_name_is_an_error_with_both(sdata):
    figure = hd.pl.gene_map(sdata, ["A00", "score"])
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["A00, measured", "score"]
    with pytest.raises(KeyError, match="no gene or column of obs .scor.*Did you mean 'score'"):
        hd.pl.gene_map(sdata, "scor")
    sdata.tables["table"].obs["name"] = [f"spot {i}" for i in range(36)]
    assert len(legend_of(hd.pl.gene_map(sdata, "name"))) == 36


def test_spots_stand_beside_bins_of_the_same_part_with_a_scale_of_their_own(fine):
    figure = hd.pl.gene_map(fine, "A00", table_key=["table", "ridge_50um"])
    measured, predicted, bins = panels(figure)
    assert measured.get_xlim() == predicted.get_xlim() == bins.get_xlim()
    assert measured.collections[0].norm.vmax == predicted.collections[0].norm.vmax
    assert bins.get_images()[1].norm.vmax != measured.collections[0].norm.vmax
    assert bins.get_title(loc="left").startswith("50 µm bins: A00")


def test_sections_are_drawn_at_one_scale_under_their_names(make_section):
    sections = [make_section("small", side=3, mpp=MPP), make_section("large", side=6, mpp=MPP)]
    small, large = panels(hd.pl.gene_map(sections, "A00"))
    assert [np.ptp(ax.get_xlim()) for ax in (small, large)] == pytest.approx([np.ptp(large.get_xlim())] * 2)
    assert [ax.get_title(loc="left") for ax in (small, large)] == ["small: A00, measured", "large: A00, measured"]
    assert small.collections[0].norm.vmax == large.collections[0].norm.vmax


def test_a_crop_is_shown_alone(sdata):
    ax = hd.pl.gene_map(sdata, "A00", crop=(200, 300, 450, 500))
    assert ax.get_xlim() == (200, 450)
    assert ax.get_ylim() == (500, 300)
    assert ax.get_images()[0].get_array().shape[1] == 125  # 250 um of image, no more


def test_a_section_is_drawn_in_the_coordinate_system_that_is_asked_for(fine):
    quarter = Affine([[0, -1, 3000], [1, 0, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))  # of pixels
    for key in ("s1_image", "s1", "ridge_50um_bins"):
        set_transformation(fine[key], quarter, "aligned")
    spots = hd.pl.gene_map(fine, "A00", layers="X", coordinate_system="aligned").collections[0]
    xy = fine.tables["table"].obsm["spatial"]
    np.testing.assert_allclose(spots.get_offsets(), np.stack([3000 - xy[:, 1], xy[:, 0]], axis=1) * MPP)
    ax = hd.pl.gene_map(fine, "A00", table_key="ridge_50um", coordinate_system="aligned", crop=(2700, 100, 2900, 300))
    assert ax.get_xlim() == (5400, 5800)  # a crop is in units of the system
    under, raster = ax.get_images()
    ax.figure.canvas.draw()
    middle = ax.transData.transform((5590, 410))
    turned = (under.get_transform() - ax.transData).transform((400, 400))
    np.testing.assert_allclose(turned, (5600, 400))
    column, row = (raster.get_transform().inverted()).transform(middle)
    plain = hd.pl.gene_map(fine, "A00", table_key="ridge_50um").get_images()[1]
    there = (plain.get_transform() - plain.axes.transData).inverted().transform((410, 6000 - 5590))
    assert raster.get_array()[int(row), int(column)] == plain.get_array()[int(there[1]), int(there[0])]
    with pytest.raises(KeyError, match="coordinate system.*'nowhere'.*'aligned'"):
        hd.pl.gene_map(fine, "A00", coordinate_system="nowhere")


def test_symbols_name_genes_of_a_table_of_ensembl_ids(sdata):
    table = sdata.tables["table"]
    table.var["gene_symbols"] = table.var_names
    table.var_names = [f"ENSG{i:011d}.1" for i in range(table.n_vars)]
    values = [hd.pl.gene_map(sdata, name).collections[0].get_array() for name in ("A02", "ENSG00000000002")]
    np.testing.assert_array_equal(*values)
    assert hd.pl.gene_map(sdata, "ENSG00000000002").get_title(loc="left") == "A02 (ENSG00000000002), measured"


def test_plots_of_relations_name_genes_by_their_symbols(sdata):
    table = sdata.tables["table"]
    table.var["gene_symbols"] = table.var_names
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    hd.tl.coexpression(sdata)
    names = [text.get_text() for text in hd.pl.coexpression_network(sdata, n_edges=20).texts]
    assert set(names) <= set(table.var["gene_symbols"])
    assert names
    for genes in (["A00", "B01"], list(table.var_names[:2])):
        strip = hd.pl.coexpression(sdata, genes=genes).child_axes[0]
        assert sorted(label.get_text() for label in strip.get_yticklabels()) == ["A00", "B01"]


def test_regions_are_found_in_the_table_that_has_them(fine):
    hd.tl.marker_regions(fine, ["A00", "A02"], layer="X")
    hd.tl.cluster_cells(fine, table_key="ridge_50um")
    figure = hd.pl.region_map(fine)
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["marker region", "50 µm bins: cluster"]
    assert set(legend_of(panels(figure)[1])) == set(fine.tables["ridge_50um"].obs["hisdiff_cluster"].cat.categories)


def test_a_section_without_regions_is_told_how_to_make_them(sdata):
    with pytest.raises(KeyError, match="hd.tl.marker_regions.*hd.tl.cell_types"):
        hd.pl.region_map(sdata)
    assert not plt.get_fignums()
