from __future__ import annotations

import numpy as np
import pytest
import shapely
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale, remove_transformation, set_transformation

from hisdiff._sdata._at import read_locations
from hisdiff._sdata._locate import locate
from hisdiff._sdata._provenance import mark_made_here
from hisdiff._sdata._read import open_sections, read_spots
from hisdiff._sdata._selection import Selection


def test_the_only_table_its_region_and_its_image_are_found(make_section) -> None:
    (place,) = locate(make_section("s1", mpp=0.5))
    assert (place.table_key, place.region, place.image_key) == ("table", "s1", "s1_image")
    assert place.mpp == pytest.approx(0.5)
    np.testing.assert_array_equal(place.rows, np.arange(36))


def test_tables_called_truth_or_made_by_hisdiff_are_no_default(make_section) -> None:
    sdata = make_section()
    for key in ("truth", "fine"):
        sdata.tables[key] = sdata.tables["table"].copy()
    mark_made_here(sdata.tables["fine"])
    assert locate(sdata)[0].table_key == "table"
    sdata.tables["other"] = sdata.tables["table"].copy()
    with pytest.raises(ValueError, match=r"several tables, \['table', 'other'\]; choose one with table_key="):
        locate(sdata)
    assert locate(sdata, Selection(table_key="other"))[0].table_key == "other"


def test_the_finest_image_is_taken_and_equally_fine_ones_are_ambiguous(make_section) -> None:
    sdata = make_section(mpp=0.5)
    small = np.zeros((3, 64, 64), dtype=np.uint8)
    sdata.images["hires"] = Image2DModel.parse(
        small, dims=("c", "y", "x"), transformations={"global": Scale([12.5, 12.5], axes=("x", "y"))}
    )
    assert locate(sdata)[0].image_key == "s1_image"
    sdata.images["twin"] = Image2DModel.parse(small, dims=("c", "y", "x"), transformations={"global": Identity()})
    assert locate(sdata)[0].image_key == "s1_image"  # readers name an image after its section
    sdata.images["s1_twin"] = sdata.images["twin"]
    with pytest.raises(ValueError, match="equally fine"):
        locate(sdata)
    assert locate(sdata, Selection(image_key={"s1": "s1_image"}))[0].image_key == "s1_image"


def test_positions_go_through_the_transformations_of_both_elements(make_section) -> None:
    sdata = make_section(mpp=0.5)
    plain = open_sections(sdata)[0].section.spots
    # The same spots told in a unit of four pixels.
    shapes = sdata.shapes["s1"].copy()
    shapes["geometry"], shapes["radius"] = shapes.geometry.scale(0.25, 0.25, origin=(0, 0)), shapes["radius"] / 4
    for system, factor in (("global", 4.0), ("um", 2.0)):
        set_transformation(shapes, Scale([factor, factor], axes=("x", "y")), system)
    sdata.shapes["s1"] = shapes
    scaled = open_sections(sdata)[0].section.spots
    np.testing.assert_allclose(scaled.xy_um, plain.xy_um)
    assert scaled.footprint == pytest.approx(25.0) == plain.footprint


def test_spots_follow_the_rows_of_the_table_whatever_the_order_of_the_shapes(make_section) -> None:
    sdata = make_section()
    before = open_sections(sdata)[0].section.spots.xy_um
    sdata.shapes["s1"] = sdata.shapes["s1"].iloc[::-1]
    np.testing.assert_allclose(open_sections(sdata)[0].section.spots.xy_um, before)


def test_a_missing_scale_is_asked_for_and_a_contradicting_one_refused(make_section) -> None:
    sdata = make_section(mpp=0.5)
    with pytest.raises(ValueError, match="contradicts image 's1_image', which has 0.5"):
        locate(sdata, Selection(mpp=0.25))
    for element in (sdata.images["s1_image"], sdata.shapes["s1"]):
        remove_transformation(element, "um")
    with pytest.raises(ValueError, match="pass mpp="):
        locate(sdata)
    assert locate(sdata, Selection(mpp=0.25))[0].mpp == 0.25


def test_array_positions_that_are_no_numbers_are_none(make_section) -> None:
    sdata = make_section()
    obs, place = sdata.tables["table"].obs, locate(sdata)[0]
    obs["array_col"] = np.arange(len(obs))
    for row, known in ((np.arange(float(len(obs))), True), (np.nan, False), ("a", False), (None, False)):
        obs["array_row"] = row
        assert (read_spots(place).array_ij is not None) == known


def test_spots_and_shapes_without_a_place_are_refused(make_section) -> None:
    sdata = make_section()
    shapes = sdata.shapes["s1"]
    geometry = [shapely.Point(np.nan, 1.0), shapely.Point(), *shapes.geometry[2:]]
    sdata.shapes["odd"] = sdata.shapes["s1"] = shapes.assign(geometry=geometry)
    place = locate(sdata)[0]
    for read in (lambda: read_spots(place), lambda: read_locations(place, "odd")):
        with pytest.raises(ValueError, match=f"2 of {len(shapes)} shapes of '.*' have no place"):
            read()


def test_spots_outside_the_image_are_refused_with_both_extents(make_section) -> None:
    sdata = make_section(mpp=0.5)
    shapes = sdata.shapes["s1"].copy()
    shapes["geometry"] = shapes.geometry.scale(5, 5, origin=(0, 0))
    sdata.shapes["s1"] = shapes
    with pytest.raises(ValueError, match=r"lie outside image 's1_image'.*full-resolution image on a reduced one"):
        open_sections(sdata)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"table_key": "tabel"}, KeyError, "no table 'tabel'.*Did you mean 'table'"),
        ({"image_key": "he"}, KeyError, "no image 'he'; available: \\['s1_image'\\]"),
        ({"shapes_key": "spots"}, ValueError, "shapes_key"),
        ({"mpp": -1}, ValueError, "mpp"),
        ({"mpp": "0.5"}, TypeError, "mpp"),
    ],
)
def test_wrong_names_are_answered_with_what_there_is(make_section, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        locate(make_section(), Selection(**arguments))


def test_other_objects_are_refused_with_the_way_to_bring_them(make_section) -> None:
    with pytest.raises(TypeError, match="hd.io.from_anndata"):
        locate(make_section().tables["table"])


def test_an_object_without_image_says_so_where_one_is_needed(make_section) -> None:
    sdata = make_section()
    del sdata.images["s1_image"]
    with pytest.raises(ValueError, match="no image for 's1'"):
        open_sections(sdata, needs=("image",))


def test_rows_without_a_shape_are_refused_by_name(make_section) -> None:
    sdata = make_section()
    sdata.shapes["s1"] = sdata.shapes["s1"].iloc[3:]
    with pytest.raises(ValueError, match="3 of 36 rows of table 'table' have no shape in 's1', such as \\['s1_0x0'"):
        open_sections(sdata)
