from __future__ import annotations

import numpy as np
import pytest
import shapely

import hisdiff as hd
from hisdiff._sdata._coarsen import coarsen
from hisdiff._sdata._read import open_sections


def test_pseudo_spots_have_the_counts_area_and_middle_of_their_members(make_section) -> None:
    sdata = make_section(side=5)
    table = sdata.tables["table"]
    coarse = coarsen(open_sections(sdata, needs=("counts",)), 2)
    merged = coarse.sdata.tables["table"]
    assert merged.n_obs == 9
    assert merged.obs["n_members"].tolist() == [4, 4, 2, 4, 4, 2, 2, 2, 1]
    assert coarse.complete.sum() == 16
    for row in range(merged.n_obs):
        members = coarse.parent == row
        np.testing.assert_array_equal(merged.X[row].toarray()[0], table.X.toarray()[members].sum(axis=0))
        block = table.obs.loc[members, ["array_row", "array_col"]].to_numpy() // 2
        assert (block == merged.obs[["array_row", "array_col"]].to_numpy()[row]).all()

    fine, spots = (open_sections(s, needs=("image",))[0].section.spots for s in (sdata, coarse.sdata))
    one_disc = shapely.area(shapely.buffer(shapely.points(0, 0), 25, quad_segs=32))
    np.testing.assert_allclose(shapely.area(spots.footprint), merged.obs["n_members"] * one_disc, rtol=1e-6)
    middles = np.stack([fine.xy_um[coarse.parent == row].mean(axis=0) for row in range(merged.n_obs)])
    np.testing.assert_allclose(spots.xy_um, middles, atol=1e-6)
    np.testing.assert_allclose(merged.obsm["spatial"], middles, atol=1e-6)  # 1 um per pixel here


def test_the_image_is_shared_and_the_section_stays_as_it_was(make_section) -> None:
    sdata = make_section()
    hd.pp.select_genes(sdata, genes=["A00", "B01"])
    before = sdata.tables["table"].copy()
    coarse = coarsen(open_sections(sdata, needs=("counts",)), 3)
    assert coarse.sdata.images["s1_image"] is sdata.images["s1_image"]
    assert coarse.sdata.tables["table"].var["hisdiff_selected"].sum() == 2
    assert list(sdata.shapes) == ["s1"]
    assert list(sdata.tables) == ["table"]
    assert sdata.tables["table"].obs.equals(before.obs)


def test_sections_of_one_table_are_merged_each_on_its_own(make_section) -> None:
    import spatialdata as sd

    parts = [make_section(name, seed=i, side=4) for i, name in enumerate(("a", "b"))]
    both = sd.concatenate(parts, concatenate_tables=True)
    coarse = coarsen(open_sections(both, needs=("counts",)), 2)
    table = coarse.sdata.tables["table"]
    assert table.obs["region"].value_counts().to_dict() == {"a": 4, "b": 4}
    regions = both.tables["table"].obs["region"].to_numpy()
    assert (table.obs["region"].to_numpy()[coarse.parent] == regions).all()
    assert len(open_sections(coarse.sdata, needs=("counts", "image"))) == 2


@pytest.mark.parametrize("method", ["tesla", "stage"])
def test_a_coarse_section_is_fitted_and_its_original_spots_are_predicted(make_section, method: str) -> None:
    sdata = make_section(side=8)
    hd.pp.select_genes(sdata, genes=list(sdata.tables["table"].var_names))
    merged = coarsen(open_sections(sdata, needs=("counts",)), 2)
    model = hd.tl.fit(merged.sdata, method=method, config={"max_steps": 20} if method == "stage" else "fast")
    merged.sdata.shapes["s1_spots"] = sdata.shapes["s1"]
    hd.tl.predict(merged.sdata, model, at="s1_spots")
    made = merged.sdata.tables[f"{method}_s1_spots"]
    assert made.n_obs == 64
    assert np.isfinite(made.X).all()


def test_what_cannot_be_merged_is_refused(make_section) -> None:
    sdata = make_section()
    with pytest.raises(ValueError, match="at least 2, not 1"):
        coarsen(open_sections(sdata, needs=("counts",)), 1)
    del sdata.tables["table"].obs["array_col"]
    with pytest.raises(ValueError, match=r"no obs column \['array_col'\]"):
        coarsen(open_sections(sdata, needs=("counts",)), 2)
