import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.colors import to_hex

import hisdiff as hd
from hisdiff._sdata._layers import layer_names
from hisdiff.pl._rows import WARNING_SIGN
from hisdiff.pl._style import WARNING

N_SPOTS = 36
MPP = 2.0


@pytest.fixture
def sdata(make_section):
    """A section with a prediction of all genes but the last; the accuracy of B01 is low, that of A02 unknown."""
    sdata = make_section(mpp=MPP)
    add_prediction(sdata.tables["table"], "hisdiff")
    return sdata


def add_prediction(table, stem, units="log2"):
    rng = np.random.default_rng(1)
    mean = np.log2(1 + table.X.toarray()) * 0.7 + rng.normal(0, 0.1, table.shape)
    layers = {stem: mean, f"{stem}_std": 0.1 + rng.random(table.shape), f"{stem}_draw0": mean + 0.5}
    for name, values in layers.items():
        values[:, -1] = np.nan
        table.layers[name] = values.astype(np.float32)
    table.var[f"{stem}_modelled"] = np.arange(table.n_vars) < table.n_vars - 1
    table.var[f"{stem}_cv_pcc"] = [0.62, 0.05, np.nan, *[0.5] * (table.n_vars - 3)]
    record = {"units": units, "in_sample": False}
    table.uns.setdefault("hisdiff", {}).setdefault("predictions", {})[stem] = record


def panels(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def bars(figure):
    return [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"]


def spots_of(ax):
    return ax.collections[0]


def title_of(ax):
    return ax.get_title(loc="left")


def test_one_row_per_gene_with_measured_beside_predicted(sdata):
    figure = hd.pl.gene_map(sdata, ["A00", "A04"])
    assert [title_of(ax) for ax in panels(figure)] == [
        "A00, measured", "A00, predicted (expected r = 0.62)", "A04, measured", "A04, predicted (expected r = 0.50)",
    ]  # fmt: skip
    assert bars(figure) == ["log2(1 + count)"] * 2


def test_panels_of_a_gene_share_one_norm_and_genes_have_their_own(sdata):
    norms = [(n.vmin, n.vmax) for n in (spots_of(ax).norm for ax in panels(hd.pl.gene_map(sdata, ["A00", "A10"])))]
    assert norms[0] == norms[1]
    assert norms[2] == norms[3]
    assert norms[0] != norms[2]


def test_norm_spans_the_values_of_both_panels(sdata):
    panel = panels(hd.pl.gene_map(sdata, "A00", percentiles=(0, 100)))[0]
    table = sdata.tables["table"]
    both = np.append(np.log2(1 + table.X[:, 0].toarray()), table.layers["hisdiff"][:, 0])
    assert (spots_of(panel).norm.vmin, spots_of(panel).norm.vmax) == pytest.approx((both.min(), both.max()))


def test_counts_are_shown_as_log2_and_predictions_as_they_are(sdata):
    table = sdata.tables["table"]
    measured, predicted = (spots_of(ax).get_array() for ax in panels(hd.pl.gene_map(sdata, "A00")))
    np.testing.assert_allclose(measured, np.log2(1 + table.X[:, 0].toarray().ravel()))
    np.testing.assert_allclose(predicted, table.layers["hisdiff"][:, 0])


def test_prediction_in_counts_is_shown_on_the_scale_of_the_measurement(sdata):
    table = sdata.tables["table"]
    table.uns["hisdiff"]["predictions"]["hisdiff"]["units"] = "counts"
    predicted = spots_of(hd.pl.gene_map(sdata, "A00", layers="hisdiff")).get_array()
    np.testing.assert_allclose(predicted, np.log2(1 + table.layers["hisdiff"][:, 0]), rtol=1e-5)


def test_spots_lie_at_their_place_in_um_with_their_radius(sdata):
    ax = hd.pl.gene_map(sdata, "A00", layers="X")
    spots = spots_of(ax)
    assert isinstance(spots, EllipseCollection)
    np.testing.assert_allclose(spots.get_offsets(), sdata.tables["table"].obsm["spatial"] * MPP)
    np.testing.assert_allclose(spots.get_widths(), 50)  # a radius of 25 um
    np.testing.assert_allclose(spots.get_heights(), 50)
    assert spots.get_offset_transform() == ax.transData


def test_view_is_the_spots_with_a_margin_the_origin_top_left(sdata):
    ax = hd.pl.gene_map(sdata, "A00", layers="X")
    x0, x1 = ax.get_xlim()
    y1, y0 = ax.get_ylim()
    assert 0 < x0 < 125 < 675 < x1 < 800
    assert 0 < y0 < 125 < 675 < y1 < 800
    assert ax.get_aspect() == 1
    assert ax.get_images()[0].get_extent() == [x0, x1, y1, y0]


def test_a_narrow_section_is_not_drawn_endlessly_tall(make_section):
    sdata = make_section(mpp=MPP)
    sdata.tables["table"] = sdata.tables["table"][sdata.tables["table"].obs["array_col"] == 2].copy()
    width, height = hd.pl.gene_map(sdata, "A00", layers="X").figure.get_size_inches()
    assert height < 7


def test_scale_may_be_stated_where_the_object_has_none(make_section):
    import spatialdata as sd

    sdata = make_section(mpp=MPP)
    for element in (sdata.images["s1_image"], sdata.shapes["s1"]):
        sd.transformations.remove_transformation(element, "um")
    with pytest.raises(ValueError, match="mpp"):
        hd.pl.gene_map(sdata, "A00")
    np.testing.assert_allclose(spots_of(hd.pl.gene_map(sdata, "A00", mpp=4.0)).get_widths(), 100)


def test_tissue_is_underneath(sdata):
    ax = hd.pl.gene_map(sdata, "A00", layers="X", image_alpha=0.4)
    image = ax.get_images()[0]
    assert image.get_alpha() == 0.4
    assert image.get_zorder() < spots_of(ax).get_zorder()
    assert image.get_array().std() > 5  # not an empty sheet


def test_weak_gene_is_marked_only_where_it_is_predicted(sdata):
    measured, predicted = panels(hd.pl.gene_map(sdata, "B01"))
    assert title_of(measured) == "B01, measured"
    assert title_of(predicted) == f"{WARNING_SIGN} B01, predicted (weak: expected r = 0.05)"
    assert to_hex(predicted._left_title.get_color()) == WARNING
    assert to_hex(measured._left_title.get_color()) != WARNING


def test_unknown_accuracy_is_not_made_up(sdata):
    assert title_of(panels(hd.pl.gene_map(sdata, "A02"))[1]) == "A02, predicted"


def test_single_panel_is_an_axes_and_can_be_drawn_into_given_ones(sdata):
    ax = plt.subplots()[1]
    assert hd.pl.gene_map(sdata, "A00", layers="hisdiff", ax=ax) is ax
    assert bars(ax.figure) == ["log2(1 + count)"]
    assert isinstance(hd.pl.gene_map(sdata, "A00", layers="X"), plt.Axes)


def test_only_what_exists_is_shown_by_default(make_section):
    sdata = make_section(mpp=MPP)
    assert title_of(hd.pl.gene_map(sdata, "A00")) == "A00, measured"
    add_prediction(sdata.tables["table"], "ridge")
    assert title_of(panels(hd.pl.gene_map(sdata, "A00"))[1]) == "A00, predicted by ridge (expected r = 0.62)"


def test_draws_spread_and_layers_of_the_user_have_names_and_units(sdata):
    table = sdata.tables["table"]
    table.layers["scaled"] = np.random.default_rng(0).normal(size=table.shape)
    table.layers["raw"] = table.X.copy()
    figure = hd.pl.gene_map(sdata, "A00", layers=["raw", "hisdiff_draw0", "scaled", "hisdiff_std"])
    assert [title_of(ax).removeprefix("A00, ") for ax in panels(figure)] == [
        "raw", "draw0 (expected r = 0.62)", "scaled", "uncertainty",
    ]  # fmt: skip
    assert sorted(bars(figure)) == ["log2(1 + count)", "scaled", "sd, log2(1 + count)"]


def test_uncertainty_map_shows_the_mean_beside_the_sd_on_scales_of_their_own(sdata):
    figure = hd.pl.uncertainty_map(sdata, ["A00", "A02"])
    mean, std, *_ = panels(figure)
    assert title_of(std) == "A00, uncertainty"
    assert spots_of(mean).get_cmap().name != spots_of(std).get_cmap().name
    assert spots_of(std).norm.vmax < 1.2 < spots_of(mean).norm.vmax
    np.testing.assert_allclose(spots_of(std).get_array(), sdata.tables["table"].layers["hisdiff_std"][:, 0])
    assert len(panels(figure)) == 4


def test_spots_unlike_training_tissue_are_ringed_on_the_uncertainty(sdata):
    sdata.tables["table"].obs["hisdiff_ood"] = np.arange(N_SPOTS) < 3
    mean, std = panels(hd.pl.uncertainty_map(sdata, "A00"))
    assert len(mean.collections) == 1
    np.testing.assert_allclose(std.collections[1].get_offsets(), sdata.tables["table"].obsm["spatial"][:3] * MPP)
    assert "ringed" in title_of(std)


def test_uncertainty_of_several_sections_and_predictions_is_on_one_scale(sdata, make_section):
    other = make_section("s2", seed=1, mpp=MPP)
    for section, level in ((sdata, 1.0), (other, 3.0)):
        for stem in ("hisdiff", "before"):
            add_prediction(section.tables["table"], stem)
            section.tables["table"].obs[f"{stem}_uncertainty"] = level * np.linspace(0.9, 1.1, N_SPOTS)
    places = panels(hd.pl.uncertainty_map([sdata, other], layer=["hisdiff", "before"]))
    assert [title_of(ax).replace("what the model does not know", "-").split("\n")[0] for ax in places] == [
        "s1: - (hisdiff)", "s1: - (before)", "s2: - (hisdiff)", "s2: - (before)",
    ]  # fmt: skip
    norms = [spots_of(ax).norm for ax in places]
    assert len({(norm.vmin, norm.vmax) for norm in norms}) == 1
    assert norms[0].vmin < 1.1 < 2.7 < norms[0].vmax
    genes = panels(hd.pl.uncertainty_map([sdata, other], "A00"))
    assert [title_of(ax).split(" (")[0] for ax in genes] == [
        f"{name}: A00, {what}" for name in ("s1", "s2") for what in ("predicted", "uncertainty")
    ]
    assert spots_of(genes[1]).norm.vmax == spots_of(genes[3]).norm.vmax


def test_uncertainty_of_another_method_is_found_by_name(sdata):
    add_prediction(sdata.tables["table"], "ridge")
    assert title_of(panels(hd.pl.uncertainty_map(sdata, "A00", "ridge"))[1]) == "A00, uncertainty of ridge"


def test_several_sections_are_told_apart_by_their_shapes(make_section):
    import anndata as ad
    import spatialdata as sd

    first, second = make_section("s1", mpp=MPP), make_section("s2", seed=1, mpp=MPP)
    table = ad.concat([first.tables["table"], second.tables["table"]])
    table = sd.models.TableModel.parse(
        table, region=["s1", "s2"], region_key="region", instance_key="instance_id", overwrite_metadata=True
    )
    both = sd.SpatialData(
        images={**first.images, **second.images}, shapes={**first.shapes, **second.shapes}, tables={"table": table}
    )
    figure = hd.pl.gene_map(both, "A00", image_key={"s1": "s1_image", "s2": "s2_image"})
    assert [title_of(ax) for ax in panels(figure)] == ["s1: A00, measured", "s2: A00, measured"]
    pair = hd.pl.gene_pair(both, "A00", "B01", layers="X", image_key={"s1": "s1_image", "s2": "s2_image"})
    assert [title_of(ax).split(":")[0] for ax in panels(pair)] == ["s1"] * 3 + ["s2"] * 3
    drawn = spots_of(hd.pl.gene_map(both, "A00", shapes_key="s2", image_key="s2_image")).get_array()
    np.testing.assert_allclose(drawn, np.log2(1 + second.tables["table"].X[:, 0].toarray().ravel()))


def test_polygons_are_drawn_as_they_are(sdata):
    import spatialdata as sd

    circles = sdata.shapes["s1"]
    squares = circles.set_geometry(circles.geometry.buffer(circles["radius"], cap_style="square")).drop(
        columns="radius"
    )
    sdata.shapes["s1"] = sd.models.ShapesModel.parse(squares)
    spots = spots_of(hd.pl.gene_map(sdata, "A00", layers="X"))
    assert isinstance(spots, PolyCollection)
    np.testing.assert_allclose(spots.get_paths()[0].get_extents().bounds, [125, 125, 50, 50])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"genes": "A0"}, KeyError, "no gene or column of obs 'A0' in table 'table'.*Did you mean 'A..'"),
        ({"genes": []}, ValueError, "genes is empty"),
        ({"genes": "A00", "layers": []}, ValueError, "layers is empty"),
        ({"genes": "A00", "layers": "istar"}, KeyError, "no layer 'istar'.*hd.tl.predict"),
        ({"genes": "A00", "percentiles": 99}, TypeError, "percentiles is a sequence"),
        ({"genes": "A00", "percentiles": (99, 1)}, ValueError, "two ends of the colour scale"),
        ({"genes": "B11"}, ValueError, "'B11' has no values in 'hisdiff'.*hisdiff_modelled"),
        ({"genes": "A00", "image_key": "photo"}, KeyError, "'photo'.*s1_image"),
        ({"genes": "A00", "table_key": "other"}, KeyError, "'other'.*'table'"),
    ],
)
def test_mistakes_are_said_before_anything_is_drawn(sdata, arguments, error, message):
    with pytest.raises(error, match=message):
        hd.pl.gene_map(sdata, **arguments)
    assert not plt.get_fignums()


def test_axes_for_several_panels_are_refused(sdata):
    ax = plt.subplots()[1]
    with pytest.raises(ValueError, match="one panel, not 1 gene.s. x 2 layer"):
        hd.pl.gene_map(sdata, "A00", ax=ax)
    assert not ax.collections


def test_missing_uncertainty_names_the_call_that_makes_it(make_section):
    with pytest.raises(KeyError, match=r"no layer 'hisdiff' in table 'table'.*hd\.tl\.predict"):
        hd.pl.uncertainty_map(make_section(mpp=MPP), "A00")


def test_something_else_than_a_spatialdata_is_refused(sdata):
    with pytest.raises(TypeError, match="from_anndata"):
        hd.pl.gene_map(sdata.tables["table"], "A00")


def test_object_is_left_as_it_was_and_so_are_the_styles(sdata):
    table = sdata.tables["table"]
    before, style = table.copy(), dict(plt.rcParams)
    hd.pl.gene_map(sdata, ["A00", "B01"])
    hd.pl.uncertainty_map(sdata, "A00")
    assert dict(plt.rcParams) == style
    assert layer_names(table) == layer_names(before)
    assert (table.X != before.X).nnz == 0


@pytest.mark.real
def test_scale_bar_of_a_real_section_agrees_with_the_pitch_of_its_spots(real_data):
    sdata = hd.io.her2st(real_data / "her2st", "C5")
    ax = hd.pl.gene_map(sdata, "ERBB2", layers="X")
    ax.figure.canvas.draw()
    bar = ax.artists[0]
    assert bar.txt_label.get_text() == "1 mm"
    bar_px = bar.size_bar.get_children()[0].get_window_extent().width
    table = sdata.tables["table"]
    spots_px = ax.transData.transform(spots_of(ax).get_offsets())
    same_row = table.obs["array_row"].to_numpy()[:, None] == table.obs["array_row"].to_numpy()
    columns = table.obs["array_col"].to_numpy()[:, None] - table.obs["array_col"].to_numpy()
    apart = spots_px[:, None, 0] - spots_px[:, 0]
    pitch_px = np.median(apart[same_row & (columns == 5)] / 5)
    assert bar_px / pitch_px == pytest.approx(1000 / 200, rel=0.02)
    tissue = ax.get_images()[0].get_array()
    assert tissue.shape[1] <= 1001


def test_section_with_only_an_image_shows_its_prediction_on_the_lattice(make_section, color_encoder):
    import spatialdata as sd

    train = [make_section("s1", seed=0, mpp=MPP), make_section("s2", seed=1, mpp=MPP)]
    hd.pp.embed(train, color_encoder)
    model = hd.tl.fit(train, method="ridge")
    image_only = sd.SpatialData(images=make_section("s3", seed=2, mpp=MPP).images)
    with pytest.raises(ValueError, match=r"no table.*hd\.tl\.predict"):
        hd.pl.gene_map(image_only, "A00")
    hd.pp.embed(image_only, color_encoder)
    hd.tl.predict(image_only, model)
    ax = hd.pl.gene_map(image_only, "A00")
    assert title_of(ax).startswith("A00, predicted by ridge")
    np.testing.assert_allclose(spots_of(ax).get_array(), image_only.tables["lattice"].layers["ridge"][:, 0])
    with pytest.raises(ValueError, match="nothing measured in X"):
        hd.pl.gene_map(image_only, "A00", layers="X")


def places(figure):
    return {
        (round(ax.get_position().x0, 2), round(ax.get_position().y0, 2)) for ax in panels(figure) if ax.get_visible()
    }


def test_many_genes_of_one_layer_fill_rows_and_several_layers_keep_their_columns(sdata):
    genes = [name for name in sdata.tables["table"].var_names if name != "B11"][:8]
    for layers, n_columns, n_rows in (("X", 3, 3), (["X", "hisdiff"], 2, 8)):
        figure = hd.pl.gene_map(sdata, genes, layers=layers)
        figure.canvas.draw()
        x, y = (set(each) for each in zip(*places(figure)))
        assert (len(x), len(y)) == (n_columns, n_rows)
    shown = [title_of(ax) for ax in panels(hd.pl.gene_map(sdata, genes, layers="X")) if ax.get_visible()]
    assert [title.split(",")[0] for title in shown] == genes


def test_a_missing_spread_is_explained(sdata):
    table = sdata.tables["table"]
    table.layers["hisdiff_std"][:] = np.nan
    table.uns["hisdiff"]["predictions"]["hisdiff"]["n_draws"] = 1
    with pytest.raises(ValueError, match="one value per location.*has no spread"):
        hd.pl.uncertainty_map(sdata, "A00")
    with pytest.raises(ValueError, match="not in the model's panel"):
        hd.pl.uncertainty_map(sdata, "B11")
