"""Sums and means over larger locations, against what can be worked out by hand."""

import anndata as ad
import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from scipy import sparse
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale, Sequence, Translation

import hisdiff as hd

MPP, BIN_UM, SIDE = 0.5, 10.0, 12  # 12 x 12 bins: 120 um a side
GENES = ["A", "B", "C"]


def transformations(scale_px: float = 1.0, shift_px: float = 0.0) -> dict:
    to_px = Sequence([Scale([scale_px] * 2, ("x", "y")), Translation([shift_px] * 2, ("x", "y"))])
    return {"global": to_px, "um": Sequence([to_px, Scale([MPP, MPP], ("x", "y"))])}


def values_of(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """One everywhere, the row, and something of no pattern."""
    return np.stack([np.ones_like(rows), rows, (7 * rows + 3 * columns) % 5], axis=1).astype(np.float32)


@pytest.fixture
def fine():
    """A prediction of 12 x 12 bins of 10 um that lie 20 um off the corner of the image, the last one missing."""
    row, column = np.divmod(np.arange(SIDE**2 - 1), SIDE)
    labels = np.zeros((SIDE, SIDE), dtype=np.int32)
    labels[row, column] = np.arange(1, len(row) + 1)
    obs = pd.DataFrame({"region": pd.Categorical(["grid"] * len(row)), "instance_id": np.arange(1, len(row) + 1)})
    obs.index = obs.index.astype(str)
    values = values_of(row, column)
    table = ad.AnnData(values, obs, pd.DataFrame({"panel": True}, index=GENES))
    table.layers["std"] = np.ones_like(values)
    table.layers["draw0"], table.layers["draw1"] = values + 1, values - 1
    made = {"hisdiff": {"units": "counts", "resolution_um": BIN_UM, "method": "hisdiff"}}
    table.uns["hisdiff"] = {"made_by": "hisdiff", "predictions": made}
    table = TableModel.parse(table, region="grid", region_key="region", instance_key="instance_id")
    to = transformations(BIN_UM / MPP, 20 / MPP)
    pixels = np.full((3, 400, 400), 200, dtype=np.uint8)
    return sd.SpatialData(
        images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=transformations())},
        labels={"grid": Labels2DModel.parse(labels, dims=("y", "x"), transformations=to)},
        tables={"hisdiff_10um": table},
    )


def add_shapes(sdata: sd.SpatialData, name: str, **frame) -> None:
    """Add shapes that are told in um."""
    frame["geometry"] = shapely.transform(np.array(frame["geometry"], dtype=object), lambda p: p / MPP)
    if "radius" in frame:
        frame["radius"] = np.asarray(frame["radius"]) / MPP
    index = frame.pop("index", None)
    sdata.shapes[name] = ShapesModel.parse(gpd.GeoDataFrame(frame, index=index), transformations=transformations())


@pytest.fixture
def halves(fine):
    """Two regions that share the bins of row 6 three to one, and one that lies elsewhere."""
    boxes = [shapely.box(20, 20, 140, 87.5), shapely.box(20, 87.5, 140, 140), shapely.box(160, 160, 170, 170)]
    add_shapes(fine, "halves", geometry=boxes, index=["upper", "lower", "elsewhere"])
    return fine


def test_sums_over_regions_are_by_area(halves, caplog):
    hd.tl.aggregate(halves, "hisdiff_10um", "halves")
    table = halves.tables["hisdiff_10um_in_halves"]
    assert table.obs["instance_id"].tolist() == ["upper", "lower"]
    assert "1 of 3 locations of 'halves' share no area" in caplog.text
    np.testing.assert_allclose(table.X[:, 0], [12 * 6.75, 12 * 5.25 - 1])
    fine = halves.tables["hisdiff_10um"]
    np.testing.assert_allclose(table.X.sum(axis=0), fine.X.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(table.obs["covered"], [1, 1 - 1 / 63], rtol=1e-6)
    np.testing.assert_allclose(table.obsm["spatial"][0], [80 / MPP, 53.75 / MPP])
    assert table.var["panel"].all()
    assert table.uns["hisdiff"]["aggregated"]["statistic"] == "sum"
    assert table.uns["hisdiff"]["predictions"]["hisdiff"] == {"units": "counts", "method": "hisdiff"}


def test_means_are_over_the_area_that_is_covered(halves):
    table = hd.tl.aggregate(halves, "hisdiff_10um", "halves", statistic="mean", inplace=False)
    rows = np.arange(SIDE)
    upper = (rows[:6].sum() + 0.75 * 6) / 6.75
    np.testing.assert_allclose(table.X[:, 0], 1, rtol=1e-6)
    assert table.X[0, 1] == pytest.approx(upper)
    assert "hisdiff_10um_in_halves" not in halves.tables


def test_the_spread_of_a_sum_follows_from_its_draws(halves):
    table = hd.tl.aggregate(halves, "hisdiff_10um", "halves", inplace=False)
    n_bins = table.X[:, 0]
    np.testing.assert_allclose(table.layers["draw0"] - table.layers["draw1"], np.repeat(2 * n_bins[:, None], 3, 1), rtol=1e-5)  # fmt: skip
    np.testing.assert_allclose(table.layers["std"][:, 1], np.sqrt(2) * n_bins, rtol=1e-5)
    del halves.tables["hisdiff_10um"].layers["draw1"]
    assert "std" not in hd.tl.aggregate(halves, "hisdiff_10um", "halves", inplace=False).layers


def test_discs_take_their_part_of_every_bin(fine):
    add_shapes(fine, "spots", geometry=[shapely.Point(80, 80), shapely.Point(20, 80)], radius=[25.0, 25.0])
    table = hd.tl.aggregate(fine, "hisdiff_10um", "spots", inplace=False)
    area = np.pi * 25**2 / BIN_UM**2
    np.testing.assert_allclose(table.X[:, 0], [area, area / 2], rtol=1e-3)
    np.testing.assert_allclose(table.X[:, 1], [5.5 * area, 5.5 * area / 2], rtol=1e-3)
    np.testing.assert_allclose(table.obs["covered"], [1, 0.5], rtol=1e-3)


@pytest.mark.parametrize("side", [20, 30, 25, 17.3])
def test_coarser_bins_keep_the_whole(fine, side):
    hd.tl.aggregate(fine, "hisdiff_10um", side)
    table = fine.tables[f"hisdiff_10um_in_{side:g}um"]
    np.testing.assert_allclose(table.X.sum(axis=0), fine.tables["hisdiff_10um"].X.sum(axis=0), rtol=1e-6)
    assert table.obs["covered"].sum() * side**2 == pytest.approx(143 * BIN_UM**2, rel=1e-5)
    assert table.uns["hisdiff"]["predictions"]["hisdiff"]["resolution_um"] == side
    raster = fine.labels[f"hisdiff_10um_in_{side:g}um_bins"].to_numpy()
    assert sorted(raster[raster > 0]) == table.obs["instance_id"].tolist()
    row, column = np.argwhere(raster == 1)[0]
    center = sd.transform(sd.get_centroids(fine[f"hisdiff_10um_in_{side:g}um_bins"]), to_coordinate_system="global")
    found = center.compute().loc[1, ["x", "y"]].to_numpy(dtype=float)
    np.testing.assert_allclose(found, table.obsm["spatial"][0], rtol=1e-6)
    assert hd.pl.gene_map(fine, "B", table_key=f"hisdiff_10um_in_{side:g}um").get_title(loc="left") == "B, predicted"


def test_bins_of_twice_the_side_are_sums_of_four(fine):
    table = hd.tl.aggregate(fine, "hisdiff_10um", 20, inplace=False)
    first = table[(table.obs["array_row"] == 1) & (table.obs["array_col"] == 1)]
    np.testing.assert_allclose(first.X, values_of(*np.divmod([0, 1, 12, 13], 12)).sum(axis=0, keepdims=True))
    assert table.n_obs == 36


def test_labels_of_any_form_share_bins_along_their_pixels(fine):
    pixels = np.zeros((24, 24), dtype=np.int16)  # of 5 um: half a bin
    pixels[:, :3] = 40
    pixels[:, 3:] = 7
    to = transformations(5 / MPP, 20 / MPP)
    fine.labels["strips"] = Labels2DModel.parse(pixels, dims=("y", "x"), transformations=to)
    table = hd.tl.aggregate(fine, "hisdiff_10um", "strips", inplace=False)
    assert table.obs["instance_id"].tolist() == [7, 40]
    np.testing.assert_allclose(table.X[:, 0], [12 * 10.5 - 1, 12 * 1.5])


def test_bins_that_are_shapes_are_added_up_and_stay_sparse(fine):
    row, column = np.divmod(np.arange(16), 4)
    corners = np.stack([column, row], axis=1) * 15.0
    boxes = [shapely.box(x, y, x + 15, y + 15) for x, y in corners]
    add_shapes(fine, "bins", geometry=boxes, index=[f"b{i}" for i in range(16)])
    obs = pd.DataFrame({"region": pd.Categorical(["bins"] * 16), "instance_id": [f"b{i}" for i in range(16)]})
    obs.index = obs["instance_id"].rename(None)
    counts = np.arange(48).reshape(16, 3).astype(np.float32)
    table = ad.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=GENES))
    fine.tables["table"] = TableModel.parse(table[::-1].copy(), region="bins", region_key="region", instance_key="instance_id")  # fmt: skip
    hd.tl.aggregate(fine, "table", 30, key_added="coarse")
    coarse = fine.tables["coarse"]
    assert sparse.issparse(coarse.X)
    np.testing.assert_allclose(coarse.X.toarray()[0], counts[[0, 1, 4, 5]].sum(axis=0))
    assert hd.pl.gene_map(fine, "B", table_key="coarse").get_title(loc="left") == "B, measured"
    assert (
        hd.pl.gene_map(fine, "B", table_key="table").get_title(loc="left") == "B, measured"
    )  # the default is as it was


def test_a_table_in_a_file_is_read_block_by_block(halves, monkeypatch):
    monkeypatch.setattr("hisdiff._sdata._lazy._MIN_ROWS", 20)
    monkeypatch.setattr("hisdiff._sdata._lazy._BLOCK_VALUES", 60)
    monkeypatch.setattr("hisdiff.tl._aggregate._OUTLINE_VALUES", 3)
    expected = hd.tl.aggregate(halves, "hisdiff_10um", "halves", inplace=False)
    sizes = []

    def read(block: np.ndarray) -> np.ndarray:
        sizes.append(len(block))
        return block

    table = halves.tables["hisdiff_10um"]
    table.X = da.from_array(table.X, chunks=(10, 3)).map_blocks(read, dtype=np.float32, meta=np.empty((0, 0), "f4"))
    found = hd.tl.aggregate(halves, "hisdiff_10um", "halves", inplace=False)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-6)
    assert max(sizes) <= 20
    assert sum(sizes) <= 2 * table.n_obs


def test_results_go_to_the_store_and_are_replaced(halves, tmp_path):
    halves.write(tmp_path / "s.zarr")
    stored = sd.read_zarr(tmp_path / "s.zarr")
    for _ in range(2):
        hd.tl.aggregate(stored, "hisdiff_10um", 30)
    again = sd.read_zarr(tmp_path / "s.zarr")
    table = again.tables["hisdiff_10um_in_30um"]
    np.testing.assert_allclose(table.X.sum(axis=0), halves.tables["hisdiff_10um"].X.sum(axis=0), rtol=1e-6)
    assert table.uns["spatialdata_attrs"]["region"] == "hisdiff_10um_in_30um_bins"
    assert again.labels["hisdiff_10um_in_30um_bins"].max() == table.n_obs


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"values": "hisdiff_8um"}, KeyError, "no table 'hisdiff_8um'.*Did you mean 'hisdiff_10um'"),
        ({"by": "regions"}, KeyError, "no shapes or labels element 'regions'.*'halves'"),
        ({"by": 10}, ValueError, "by=10 um is not coarser than the bins of table 'hisdiff_10um', 10 um"),
        ({"by": -5}, ValueError, "by has to be above zero"),
        ({"by": "far"}, ValueError, "No location of 'far' shares area"),
        ({"statistic": "median"}, ValueError, r"statistic is one of \['sum', 'mean'\]"),
        ({"layers": "std"}, ValueError, "'std' is the spread over draws.*keep_draws"),
        ({"layers": ["draw7"]}, KeyError, "no layer of table 'hisdiff_10um' 'draw7'"),
        ({"key_added": "halves"}, ValueError, "'halves' that hisdiff did not write"),
        ({"mpp": 2.0}, ValueError, "contradicts"),
    ],
)
def test_mistakes_are_named_and_leave_the_object_alone(halves, arguments, error, message):
    add_shapes(halves, "far", geometry=[shapely.box(180, 180, 190, 190)])
    before = sorted(name for _, name, _ in halves.gen_elements())
    with pytest.raises(error, match=message):
        hd.tl.aggregate(halves, **{"values": "hisdiff_10um", "by": "halves", **arguments})
    assert sorted(name for _, name, _ in halves.gen_elements()) == before


def test_logarithms_and_nan_are_not_added_up(halves):
    table = halves.tables["hisdiff_10um"]
    table.uns["hisdiff"]["predictions"]["hisdiff"]["units"] = "log2"
    with pytest.raises(ValueError, match="logarithms do not add up.*units='counts'"):
        hd.tl.aggregate(halves, "hisdiff_10um", "halves")
    hd.tl.aggregate(halves, "hisdiff_10um", "halves", statistic="mean")
    table.X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 'X' of table 'hisdiff_10um'"):
        hd.tl.aggregate(halves, "hisdiff_10um", "halves", statistic="mean")


def test_rows_without_a_place_are_named(halves):
    halves.tables["hisdiff_10um"].obs["instance_id"] += 500
    with pytest.raises(ValueError, match="have no place in 'grid'"):
        hd.tl.aggregate(halves, "hisdiff_10um", "halves")


def test_logarithms_are_not_added_up(halves):
    import scanpy as sc

    sc.pp.log1p(halves.tables["hisdiff_10um"])
    for statistic in ("sum", "mean"):  # either would be recorded as counts
        with pytest.raises(ValueError, match=r"no counts since sc\.pp\.log1p"):
            hd.tl.aggregate(halves, "hisdiff_10um", "halves", statistic=statistic)
