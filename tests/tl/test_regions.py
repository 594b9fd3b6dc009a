"""Regions of markers, lymphoid structures, edge and core: through the public calls, on spots and on bins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hisdiff as hd


@pytest.fixture
def sdata(make_section):
    made = make_section(side=8)
    hd.pp.select_genes(made)
    return made


@pytest.fixture
def fine(sdata):
    hd.tl.fit(sdata, method="tesla", config={"step_um": 50, "n_neighbors": 64})
    hd.tl.predict(sdata, resolution_um=25)
    return sdata


def reddish(sdata, table) -> np.ndarray:
    """Mean of the A genes at each row, which reddish tissue expresses."""
    values = np.asarray(table[:, [n for n in table.var_names if n.startswith("A")]].X)
    return values.mean(axis=1)


A_GENES = ["A08", "A10"]


@pytest.mark.parametrize("table_key", [None, "tesla_25um"])
def test_the_region_of_markers_is_where_they_are_high_on_spots_and_on_bins(fine, table_key) -> None:
    hd.tl.marker_regions(fine, A_GENES, table_key=table_key, working_px=40)
    table = fine.tables[table_key or "table"]
    region = table.obs["hisdiff_region"].to_numpy()
    values = np.asarray(table[:, A_GENES].X.todense() if table_key is None else table[:, A_GENES].X).mean(axis=1)
    values = np.nan_to_num(values)
    assert 0.05 < region.mean() < 0.95
    assert values[region].mean() > 1.5 * values[~region].mean()
    density = table.obs["hisdiff_region_density"].to_numpy()
    assert (density[region] > 0).all()
    assert not density[~region].any()
    record = table.uns["hisdiff"]["regions"]["hisdiff_region"]
    assert record["markers"] == A_GENES
    assert set(record["sections"]) == {"s1" if table_key is None else "tesla_25um_bins"}
    # Twice is no error, and the same seed gives the same.
    hd.tl.marker_regions(fine, A_GENES, table_key=table_key, working_px=40)
    np.testing.assert_array_equal(table.obs["hisdiff_region"], region)


def test_results_survive_the_store(fine, tmp_path) -> None:
    import spatialdata as sd

    hd.tl.marker_regions(fine, A_GENES, table_key="tesla_25um", working_px=20, target="large")
    hd.tl.edge_core(fine, width_um=30, table_key="tesla_25um", min_area_um2=5000)
    fine.write(tmp_path / "s.zarr")
    table = sd.read_zarr(tmp_path / "s.zarr").tables["tesla_25um"]
    assert table.uns["hisdiff"]["edge_core"]["hisdiff_edge_core"]["genes"].columns[0] == "gene"
    np.testing.assert_array_equal(table.obs["hisdiff_region"], fine.tables["tesla_25um"].obs["hisdiff_region"])


def test_without_inplace_nothing_is_written(sdata) -> None:
    before = list(sdata.tables["table"].obs)
    frame = hd.tl.marker_regions(sdata, A_GENES, working_px=20, inplace=False)
    assert list(frame) == ["hisdiff_region", "hisdiff_region_label", "hisdiff_region_density"]
    sdata.tables["table"].obs["half"] = np.arange(64) % 8 < 5
    columns, genes = hd.tl.edge_core(sdata, "half", width_um=100, inplace=False)
    assert list(genes)[:3] == ["gene", "log2_fold_change", "auc"]
    assert list(sdata.tables["table"].obs) == [*before, "half"]
    scores = hd.tl.tls_score(sdata, {"a": ["A00"], "b": ["A02"]}, n_required=2, working_px=20, inplace=False)
    assert list(scores) == ["a", "b", "hisdiff_tls"]


def test_programmes_score_where_they_meet(fine) -> None:
    programmes = {"one": ["A10"], "two": ["A08"], "other": ["B11"]}
    hd.tl.tls_score(fine, programmes, n_required=2, target="large", table_key="tesla_25um", working_px=40)
    table = fine.tables["tesla_25um"]
    score = table.obs["hisdiff_tls"].to_numpy()
    high = np.nan_to_num(np.asarray(table[:, ["A08", "A10"]].X).mean(axis=1))
    assert 0 < (score > 0).mean() < 1
    assert high[score > 0].mean() > high[score == 0].mean()
    assert ((score == 0) | (score >= 0.5)).all()
    assert list(table.obsm["hisdiff_tls_programmes"]) == list(programmes)


def test_edge_is_the_ring_of_its_width_and_genes_are_compared_between_spots(fine) -> None:
    table = fine.tables["tesla_25um"]
    xy = np.asarray(table.obsm["spatial"])  # mpp is 1
    radius = np.hypot(*(xy - [500, 500]).T)
    table.obs["disc"] = radius < 260
    hd.tl.edge_core(fine, "disc", width_um=80, table_key="tesla_25um")
    kind = table.obs["hisdiff_edge_core"].to_numpy()
    assert (kind[radius < 150] == "core").all()
    assert (kind[(radius > 200) & (radius < 240)] == "edge").all()
    assert (kind[radius >= 260] == "outside").all()
    record = table.uns["hisdiff"]["edge_core"]["hisdiff_edge_core"]
    assert record["unit"] == "spots"
    n_bins = (kind == "edge").sum()
    assert record["n_edge"] < n_bins / 4
    genes = record["genes"]
    assert len(genes) == table.n_vars
    assert (np.diff(genes["log2_fold_change"].abs()) <= 1e-12).all()
    assert genes["fdr"].between(0, 1).all()


def test_edge_of_a_region_of_spots_and_parts_that_are_too_small(sdata) -> None:
    table = sdata.tables["table"]
    column, row = np.arange(64) % 8, np.arange(64) // 8
    table.obs["part"] = pd.array((column < 5) | ((column == 7) & (row == 7)), dtype="boolean")
    hd.tl.edge_core(sdata, "part", width_um=90)
    kind = table.obs["hisdiff_edge_core"].to_numpy()
    assert kind[63] == "outside"
    assert (kind[(column == 2) & (row > 1) & (row < 6)] == "core").all()
    assert (kind[column == 4] == "edge").all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: hd.tl.marker_regions(s, []), ValueError, "markers is empty"),
        (lambda s: hd.tl.marker_regions(s, ["NOPE"]), KeyError, "no gene 'NOPE'"),
        (lambda s: hd.tl.marker_regions(s, "A00", n_required=2), ValueError, "more than there are markers"),
        (lambda s: hd.tl.marker_regions(s, "A00", target="tiny"), ValueError, "target is one of"),
        (lambda s: hd.tl.marker_regions(s, "A00", layer="raw"), KeyError, "no layer 'raw'"),
        (lambda s: hd.tl.marker_regions(s, "A00", key_added="array"), ValueError, "hisdiff did not write"),
        (lambda s: hd.tl.marker_regions(s, "A00", key_added="a/b"), ValueError, "not a valid name"),
        (lambda s: hd.tl.coexpression(s, layer="X", key_added=""), ValueError, "key_added is a name"),
        (lambda s: hd.tl.marker_regions(s, "A00", table_key="x"), KeyError, "no table 'x'"),
        (lambda s: hd.tl.marker_regions(s.tables["table"], "A00"), TypeError, "a SpatialData"),
        (lambda s: hd.tl.tls_score(s), ValueError, "No marker of \\['B cell'"),
        (lambda s: hd.tl.tls_score(s, {"a": ["A00"]}), ValueError, "more than there are programmes"),
        (lambda s: hd.tl.edge_core(s), KeyError, "no column of obs 'hisdiff_region'"),
        (lambda s: hd.tl.edge_core(s, "array_row"), ValueError, "not bool"),
        (lambda s: hd.tl.edge_core(s, "none"), ValueError, "all False"),
        (lambda s: hd.tl.edge_core(s, "all", width_um=900), ValueError, "deeper than width_um"),
        (lambda s: hd.tl.edge_core(s, "all", min_area_um2=1e9), ValueError, "lower min_area_um2"),
    ],
)
def test_mistakes_are_named_and_change_nothing(sdata, call, error, message) -> None:
    obs = sdata.tables["table"].obs
    obs["array"] = 1.0
    obs["array_label"] = 1.0
    obs["none"], obs["all"] = False, True
    before, uns = list(obs), sorted(sdata.tables["table"].uns)
    with pytest.raises(error, match=message):
        call(sdata)
    assert list(sdata.tables["table"].obs) == before
    assert sorted(sdata.tables["table"].uns) == uns


def test_markers_that_are_measured_but_not_chosen_or_not_predicted_are_treated_as_such(sdata, caplog) -> None:
    table = sdata.tables["table"]
    table.var["hisdiff_selected"] = table.var_names != "A10"
    hd.tl.marker_regions(sdata, A_GENES, working_px=40)
    assert sdata.tables["table"].uns["hisdiff"]["regions"]["hisdiff_region"]["markers"] == A_GENES
    hd.tl.predict(sdata, hd.tl.fit(sdata, method="tesla", config={"step_um": 50, "n_neighbors": 64}))
    programmes = {"red": A_GENES, "blue": ["B09"]}
    hd.tl.tls_score(sdata, programmes, layer="tesla", n_required=2, working_px=40)
    record = table.uns["hisdiff"]["regions"]["hisdiff_tls"]
    assert record["programmes"] == {"red": ["A08"], "blue": ["B09"]}
    assert "markers that 'tesla' lacks are left out: ['A10']" in caplog.text
    with pytest.raises(ValueError, match=r"No marker of \['red'\] is among the 11 genes of 'tesla'"):
        hd.tl.tls_score(sdata, {"red": ["A10"], "blue": ["B09"]}, layer="tesla", n_required=2)
