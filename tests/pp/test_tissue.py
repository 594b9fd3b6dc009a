from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale, get_transformation

import hisdiff as hd


def test_the_outline_lies_in_the_frame_of_the_image(make_section) -> None:
    sdata = make_section(mpp=0.5)
    hd.pp.tissue_mask(sdata)
    tissue = sdata.shapes["tissue_s1_image"]
    assert set(get_transformation(tissue, get_all=True)) == {"global", "um"}
    outline = shapely.union_all(np.asarray(tissue.geometry))
    # The synthetic tissue is the square within a 3 % margin of 1600 px.
    assert outline.area == pytest.approx((0.94 * 1600) ** 2, rel=0.08)
    assert shapely.contains(outline.buffer(1), sdata.shapes["s1"].geometry.iloc[0])


def test_the_outline_can_be_returned_in_um(make_section) -> None:
    sdata = make_section(mpp=0.5)
    outline = hd.pp.tissue_mask(sdata, inplace=False)
    assert not [key for key in sdata.shapes if key.startswith("tissue")]
    assert outline.area == pytest.approx((0.94 * 800) ** 2, rel=0.08)


def test_running_twice_replaces_our_own_element_only(make_section) -> None:
    sdata = make_section()
    hd.pp.tissue_mask(sdata)
    hd.pp.tissue_mask(sdata)
    mine = gpd.GeoDataFrame({"geometry": [shapely.box(0, 0, 9, 9)]})
    sdata.shapes["mine"] = ShapesModel.parse(
        mine, transformations={"global": Identity(), "um": Scale([0.5, 0.5], axes=("x", "y"))}
    )
    with pytest.raises(ValueError, match="'mine' that hisdiff did not write"):
        hd.pp.tissue_mask(sdata, key_added="mine")
    assert sdata.shapes["mine"].area.iloc[0] == 81


def test_an_empty_slide_is_said_to_be_empty(make_section) -> None:
    sdata = make_section()
    blank = np.full((3, 400, 400), 240, dtype=np.uint8)
    sdata.images["blank"] = Image2DModel.parse(
        blank,
        dims=("c", "y", "x"),
        transformations={"global": Scale([4, 4], axes=("x", "y")), "um": Scale([2.0, 2.0], axes=("x", "y"))},
    )
    with pytest.raises(ValueError, match="No tissue was found in image 'blank'.*bright background"):
        hd.pp.tissue_mask(sdata, image_key="blank")
    assert not [key for key in sdata.shapes if key.startswith("tissue")]


@pytest.mark.real
@pytest.mark.parametrize(("section", "area_mm2"), [("B4", 12.2), ("C3", 7.8)])
def test_real_sections_are_outlined_and_hold_their_spots(real_data, section: str, area_mm2: float) -> None:
    sdata = hd.io.her2st(real_data / "her2st", section)
    outline = hd.pp.tissue_mask(sdata, inplace=False)
    assert outline.area / 1e6 == pytest.approx(area_mm2, rel=0.08)
    from hisdiff._sdata._read import open_sections

    xy = open_sections(sdata)[0].section.spots.xy_um
    assert shapely.contains_xy(outline.buffer(50), xy[:, 0], xy[:, 1]).mean() > 0.97
