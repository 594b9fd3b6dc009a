"""Maps of tables on a labels element: predictions finer than the spots, the truth, cells that were segmented."""

import dask.array as da
import numpy as np
import pytest
from matplotlib.image import AxesImage

import hisdiff as hd

MPP, BIN_UM = 2.0, 50.0


@pytest.fixture(scope="module")
def fine(make_section):
    """A section with a fine prediction of two draws; the model's name is hisdiff, to be found without being told."""
    sdata = make_section("s1", mpp=MPP, side=4)
    model = hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata, model, resolution_um=BIN_UM, n_draws=2, keep_draws=1, key_added="hisdiff")
    return sdata


def panels(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def raster_of(ax) -> AxesImage:
    under, raster = ax.get_images()
    assert under.get_zorder() < raster.get_zorder()
    assert not ax.collections
    return raster


def bin_at(ax, x_um: float, y_um: float) -> float:
    """Return the value that a panel shows at a place."""
    raster = raster_of(ax)
    column, row = (raster.get_transform() - ax.transData).inverted().transform((x_um, y_um))
    return float(raster.get_array()[int(row), int(column)])


def test_a_fine_table_is_one_raster_of_its_mean_at_its_place(fine):
    table = fine.tables["hisdiff_50um"]
    ax = hd.pl.gene_map(fine, "A00", table_key="hisdiff_50um")
    assert "A00, predicted" in ax.get_title(loc="left")
    raster = raster_of(ax)
    assert raster.get_alpha() == 0.6
    assert raster.get_array().count() == table.n_obs
    for row in (0, 17, table.n_obs - 1):
        x, y = table.obsm["spatial"][row] * MPP
        assert bin_at(ax, x, y) == pytest.approx(np.log2(1 + table[row, "A00"].X), rel=1e-6)
        assert bin_at(ax, x + 0.4 * BIN_UM, y - 0.4 * BIN_UM) == bin_at(ax, x, y)


def part_of(fine, rows):
    """Return the section with some rows of its fine table."""
    some = fine.subset(["s1_image", "hisdiff_50um_bins"], include_orphan_tables=False)
    some.tables["hisdiff_50um"] = fine.tables["hisdiff_50um"][rows].copy()
    return some


def test_a_part_of_the_bins_is_drawn_alone_with_a_margin(fine):
    bins = fine.tables["hisdiff_50um"].obs
    some = part_of(fine, (bins["array_row"].isin(range(3, 6)) & bins["array_col"].isin(range(4, 8))).to_numpy())
    ax = hd.pl.gene_map(some, "A00", table_key="hisdiff_50um")
    assert raster_of(ax).get_array().count() == 12
    np.testing.assert_allclose(ax.get_xlim(), [4 * BIN_UM - 8, 8 * BIN_UM + 8])
    np.testing.assert_allclose(ax.get_ylim(), [6 * BIN_UM + 8, 3 * BIN_UM - 8])


def test_the_spread_of_a_fine_table_needs_no_name(fine):
    mean, std = panels(hd.pl.uncertainty_map(fine, "A00", table_key="hisdiff_50um"))
    assert std.get_title(loc="left") == "A00, uncertainty"
    shown = raster_of(std).get_array().compressed()
    np.testing.assert_allclose(np.sort(shown), np.sort(fine.tables["hisdiff_50um"].layers["std"][:, 0]), rtol=1e-6)
    assert raster_of(mean).get_cmap().name != raster_of(std).get_cmap().name


def test_draws_of_a_fine_table_stand_beside_its_mean(fine):
    titles = [ax.get_title(loc="left") for ax in panels(hd.pl.gene_map(fine, "A00", table_key="hisdiff_50um", layers=["X", "draw0"]))]  # fmt: skip
    assert "A00, predicted" in titles[0]
    assert "A00, draw0" in titles[1]


class Wanted:
    """Stands for an array in a file; remembers which columns were read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.columns = values, []

    def read(self, block: np.ndarray, block_info=None) -> np.ndarray:
        (_, _), (start, stop) = block_info[0]["array-location"]
        self.columns += range(start, stop)
        return block


def test_a_lazy_table_is_read_in_the_wanted_columns_only(fine):
    table = fine.tables["hisdiff_50um"]
    file = Wanted(table.X)
    lazy = da.from_array(table.X, chunks=(table.n_obs, 1)).map_blocks(file.read, dtype=table.X.dtype, meta=table.X[:0])
    column = table.var_names.get_loc("B03")
    backed = part_of(fine, slice(None))
    backed.tables["hisdiff_50um"].X = lazy
    ax = hd.pl.gene_map(backed, "B03", table_key="hisdiff_50um")
    assert set(file.columns) == {column}
    expected = np.log2(1 + table.X[:, column])
    np.testing.assert_allclose(np.sort(raster_of(ax).get_array().compressed()), np.sort(expected), rtol=1e-6)


def test_labels_larger_than_the_screen_are_thinned_out(fine, monkeypatch):
    monkeypatch.setattr("hisdiff.pl._view.RASTER_PX", 5)
    ax = hd.pl.gene_map(fine, "A00", table_key="hisdiff_50um")
    assert max(raster_of(ax).get_array().shape) <= 5
    table = fine.tables["hisdiff_50um"]
    whole = np.flatnonzero((table.obs["array_row"] % 3 == 0) & (table.obs["array_col"] % 3 == 0))
    x, y = table.obsm["spatial"][whole[0]] * MPP
    assert ax.get_xlim()[0] < x < ax.get_xlim()[1]
    assert ax.get_ylim()[1] < y < ax.get_ylim()[0]


def test_the_truth_of_the_toy_is_shown_as_such():
    sdata = hd.datasets.toy(size_um=300, n_genes=60)
    ax = hd.pl.gene_map(sdata, "TUM01", table_key="truth")
    assert ax.get_title(loc="left") == "TUM01, truth"
    truth = sdata.tables["truth"]
    x, y = truth.obsm["spatial"][100] * 0.5
    assert bin_at(ax, x, y) == pytest.approx(np.log2(1 + truth.X[100, truth.var_names.get_loc("TUM01")]), rel=1e-5)


def segmented(make_section):
    """A section whose table annotates labels in pixels of the image, turned and shifted, with names that have gaps."""
    import spatialdata as sd
    from spatialdata.transformations import Affine, get_transformation

    sdata = make_section(mpp=MPP)
    table = sdata.tables["table"].copy()
    pixels = np.zeros((150, 180), dtype=np.int64)
    for i in range(table.n_obs):
        row, column = 5 + 20 * (i // 6), 8 + 20 * (i % 6)
        pixels[row : row + 10, column : column + 6] = 7 * (i + 1)
    # A quarter turn: (x, y) of the labels become (100 - y, x) of the image, twice as large.
    turned = np.array([[0, -2, 380], [2, 0, 10], [0, 0, 1.0]])
    to = {
        name: sd.transformations.Sequence([Affine(turned, ("x", "y"), ("x", "y")), onward])
        for name, onward in get_transformation(sdata.shapes["s1"], get_all=True).items()
    }
    labels = sd.models.Labels2DModel.parse(pixels, dims=("y", "x"), transformations=to)
    table.obs["region"], table.obs["instance_id"] = "nuclei", 7 * (np.arange(table.n_obs) + 1)
    table.obs["region"] = table.obs["region"].astype("category")
    table = sd.models.TableModel.parse(
        table, region="nuclei", region_key="region", instance_key="instance_id", overwrite_metadata=True
    )
    return sd.SpatialData(images=dict(sdata.images), labels={"nuclei": labels}, tables={"table": table})


def test_any_labels_are_drawn_where_they_are(make_section):
    sdata = segmented(make_section)
    ax = hd.pl.gene_map(sdata, "A00", layers="X")
    assert raster_of(ax).get_alpha() == 0.6
    counts = sdata.tables["table"].X[:, 0].toarray().ravel()
    for i in (0, 13, 35):
        x, y = 8 + 20 * (i % 6) + 3, 5 + 20 * (i // 6) + 5
        assert bin_at(ax, (380 - 2 * y) * MPP, (2 * x + 10) * MPP) == pytest.approx(np.log2(1 + counts[i]), rel=1e-6)


def test_labels_are_read_as_discs_of_their_area(make_section):
    from hisdiff._sdata._read import open_sections

    spots = open_sections(segmented(make_section))[0].section.spots
    np.testing.assert_allclose(spots.xy_um[13], [(380 - 2 * (45 + 5)) * MPP, (2 * (28 + 3) + 10) * MPP])
    np.testing.assert_allclose(np.pi * spots.radius_um**2, 60 * (2 * MPP) ** 2)


def test_a_table_on_labels_can_be_fitted_and_predicted(make_section, color_encoder):
    sdata = segmented(make_section)
    hd.pp.embed(sdata, color_encoder)
    hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    sdata.tables["table"].obs["ridge_ood"] = np.arange(36) < 2
    std = panels(hd.pl.uncertainty_map(sdata, "A00", "ridge"))[1]
    (outline,) = std.collections
    x, y = outline.get_transform().transform(outline.get_paths()[0].vertices).T
    assert "ringed" in std.get_title(loc="left")
    left, top = std.transData.transform(((380 - 2 * 15) * MPP, (2 * 8 + 10) * MPP))
    assert x.min() == pytest.approx(left, abs=3)
    assert y.max() == pytest.approx(top, abs=3)


def test_rows_without_a_pixel_are_named(make_section):
    sdata = segmented(make_section)
    sdata.tables["table"].obs["instance_id"] = np.arange(1000, 1036)
    with pytest.raises(ValueError, match=r"36 of 36 rows of table 'table' have no pixel in 'nuclei'.*1000"):
        hd.pp.embed(sdata)


def test_a_prediction_at_shapes_is_drawn_with_their_outlines(fine):
    import spatialdata as sd

    circles = fine.shapes["s1"]
    squares = circles.set_geometry(circles.geometry.buffer(circles["radius"], cap_style="square"))
    fine.shapes["squares"] = sd.models.ShapesModel.parse(squares.drop(columns="radius"))
    hd.tl.predict(fine, at="squares", n_draws=1)
    ax = hd.pl.gene_map(fine, "A00", table_key="ridge_squares")
    np.testing.assert_allclose(ax.collections[0].get_paths()[0].get_extents().bounds, [125, 125, 50, 50])
    assert "A00, predicted by ridge" in ax.get_title(loc="left")


def test_a_logarithm_that_scanpy_took_is_not_taken_again(fine):
    table = fine.tables["hisdiff_50um"]
    table.uns["log1p"] = {"base": None}
    try:
        ax = hd.pl.gene_map(fine, "A00", table_key="hisdiff_50um")
        assert raster_of(ax).get_array().max() == pytest.approx(table[:, "A00"].X.max(), rel=1e-6)
        assert [bar.get_ylabel() for bar in ax.figure.axes if bar.get_label() == "<colorbar>"] == ["X after log1p"]
    finally:
        del table.uns["log1p"]
