"""A SpatialData made elsewhere is brought to form, and left as it was."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import spatialdata as sd
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

import hisdiff as hd

SIZE = (1300, 1500)


def matrix(element: object, system: str = "um") -> np.ndarray:
    return get_transformation(element, system).to_affine_matrix(("x", "y"), ("x", "y"))


@pytest.fixture
def foreign(spots: ad.AnnData) -> SpatialData:
    """As spatialdata-io's Visium reader gives it: one system of its own, a second image at a tenth, no um."""
    rng = np.random.default_rng(0)
    full = rng.integers(0, 256, (3, *SIZE), dtype=np.uint8)
    images = {
        "full": Image2DModel.parse(full, c_coords=["r", "g", "b"], transformations={"slide": Identity()}),
        "hires": Image2DModel.parse(
            full[:, ::10, ::10],
            c_coords=["r", "g", "b"],
            transformations={"slide": Scale([10.0, 10.0], axes=("x", "y"))},
        ),
    }
    shapes = ShapesModel.parse(
        spots.obsm["spatial"],
        geometry=0,
        radius=65.0,
        index=np.arange(spots.n_obs),
        transformations={"slide": Identity()},
    )
    table = spots.copy()
    del table.obsm["spatial"]
    table.obs["region"], table.obs["id"] = "spots", np.arange(spots.n_obs)
    table.obs["region"] = table.obs["region"].astype("category")
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="id")
    return SpatialData(images=images, shapes={"spots": shapes}, tables={"table": table})


def test_um_comes_from_the_pitch_of_a_visium_array(foreign: SpatialData, spots: ad.AnnData) -> None:
    sdata = hd.io.adopt(foreign)
    assert matrix(sdata.images["full"])[0, 0] == pytest.approx(0.5)
    assert matrix(sdata.images["hires"])[0, 0] == pytest.approx(5)
    assert matrix(sdata.shapes["spots"])[0, 0] == pytest.approx(0.5)
    np.testing.assert_allclose(matrix(sdata.images["full"], "global"), np.eye(3))
    np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], spots.obsm["spatial"])


def test_the_image_becomes_multi_scale_without_a_copy_of_its_counts(foreign: SpatialData) -> None:
    sdata = hd.io.adopt(foreign)
    assert len(sdata.images["full"].children) > 1
    np.testing.assert_array_equal(sd.get_pyramid_levels(sdata.images["full"], n=0), foreign.images["full"])
    assert sdata.tables["table"].X is foreign.tables["table"].X


def test_the_input_is_left_as_it_was(foreign: SpatialData) -> None:
    hd.io.adopt(foreign, mpp=0.5)
    assert foreign.coordinate_systems == ["slide"]
    assert "spatial" not in foreign.tables["table"].obsm
    assert not hasattr(foreign.images["full"], "children")


def test_a_given_mpp_replaces_that_of_the_object(foreign: SpatialData) -> None:
    del foreign.tables["table"].obs["array_row"]
    once = hd.io.adopt(foreign, mpp=0.5)
    twice = hd.io.adopt(once, mpp=0.6)
    assert matrix(once.images["full"])[0, 0] == pytest.approx(0.5)
    assert matrix(twice.images["full"])[0, 0] == matrix(twice.shapes["spots"])[0, 0] == pytest.approx(0.6)
    assert matrix(hd.io.adopt(once).images["full"])[0, 0] == pytest.approx(0.5)


def test_without_any_scale_mpp_is_asked_for(foreign: SpatialData) -> None:
    del foreign.tables["table"].obs["array_row"]
    with pytest.raises(ValueError, match="pass mpp="):
        hd.io.adopt(foreign)


def test_an_mpp_that_contradicts_the_spots_is_refused(foreign: SpatialData) -> None:
    with pytest.raises(ValueError, match="contradicts the spots"):
        hd.io.adopt(foreign, mpp=5)


def test_shapes_in_micrometres_give_the_scale(foreign: SpatialData) -> None:
    # Own coordinates in um, as Xenium has them: 0.5 um per pixel of the image.
    del foreign.tables["table"].obs["array_row"]
    old = foreign.shapes["spots"]
    um = ShapesModel.parse(
        old.geometry.get_coordinates().to_numpy() * 0.5, geometry=0, radius=27.5, index=old.index,
        transformations={"slide": Scale([2.0, 2.0], axes=("x", "y")), "um": Identity()},
    )  # fmt: skip
    foreign.shapes["spots"] = um
    sdata = hd.io.adopt(foreign)
    assert matrix(sdata.images["full"])[0, 0] == pytest.approx(0.5)
    np.testing.assert_allclose(matrix(sdata.shapes["spots"]), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], old.geometry.get_coordinates())


def two_sections(foreign: SpatialData, second: str) -> SpatialData:
    """A section beside a second one, of the same spots and pixels, in a coordinate system of its own or the same one."""
    frame = Scale([2.0, 2.0], axes=("x", "y"))  # two units of the system to a pixel
    image, shapes = foreign.images["full"], foreign.shapes["spots"]
    tables = [foreign.tables["table"].copy(), foreign.tables["table"].copy()]
    tables[1].obs["region"] = "spots2"
    tables[1].obs_names = [f"{name}_2" for name in tables[1].obs_names]
    both = ad.concat(tables)
    both.obs["region"] = both.obs["region"].astype("category")
    return SpatialData(
        images={
            "spots_image": image,
            "spots2_image": Image2DModel.parse(
                image.to_numpy(), c_coords=["r", "g", "b"], transformations={second: frame}
            ),
        },
        shapes={
            "spots": shapes,
            "spots2": ShapesModel.parse(
                shapes.geometry.get_coordinates().to_numpy(), geometry=0, radius=65.0, index=shapes.index,
                transformations={second: frame},
            ),
        },
        tables={
            "table": TableModel.parse(both, region=["spots", "spots2"], region_key="region", instance_key="id")
        },
    )  # fmt: skip


def test_every_section_gets_the_pixels_of_its_image_as_global(foreign: SpatialData) -> None:
    sdata = hd.io.adopt(two_sections(foreign, "slide2"), mpp=0.5)
    for key in ("spots_image", "spots2_image"):
        np.testing.assert_allclose(matrix(sdata.images[key], "global"), np.eye(3))
    for key in ("spots", "spots2"):
        np.testing.assert_allclose(matrix(sdata.shapes[key], "global"), np.eye(3))
        assert matrix(sdata.shapes[key])[0, 0] == pytest.approx(0.5)


def test_sections_in_one_system_share_the_global_of_the_first(foreign: SpatialData) -> None:
    images = {"spots": "spots_image", "spots2": "spots2_image"}
    sdata = hd.io.adopt(two_sections(foreign, "slide"), mpp=0.5, image_key=images)
    np.testing.assert_allclose(matrix(sdata.images["spots_image"], "global"), np.eye(3))
    np.testing.assert_allclose(matrix(sdata.images["spots2_image"], "global"), np.diag([2.0, 2.0, 1.0]))


def test_a_table_that_annotates_nothing_is_connected(foreign: SpatialData) -> None:
    table = foreign.tables["table"]
    del table.uns["spatialdata_attrs"]
    sdata = hd.io.adopt(foreign)
    assert sdata.tables["table"].uns["spatialdata_attrs"]["region"] == "spots"
    assert list(sdata.tables["table"].obs["instance_id"]) == list(range(table.n_obs))
    foreign.shapes["others"] = foreign.shapes["spots"]
    with pytest.raises(ValueError, match=r"2 of the shapes .*choose with shapes_key="):
        hd.io.adopt(foreign)
    assert hd.io.adopt(foreign, shapes_key="others").tables["table"].obs["region"].iloc[0] == "others"


def test_alpha_and_library_size_of_the_image_are_brought_to_eight_bits(foreign: SpatialData) -> None:
    rgba = np.full((4, *SIZE), 65535, dtype=np.uint16)
    rgba[0] = 0
    rgba[3, :, :700] = 0
    foreign.images["full"] = Image2DModel.parse(
        rgba, c_coords=["r", "g", "b", "a"], transformations={"slide": Identity()}
    )
    pixels = sd.get_pyramid_levels(hd.io.adopt(foreign).images["full"], n=0).to_numpy()
    assert pixels.dtype == np.uint8
    assert (pixels[:, :, :700] == 255).all()
    assert (pixels[0, :, 700:] == 0).all()


def test_a_hires_image_without_its_scale_is_caught(foreign: SpatialData) -> None:
    foreign.images["hires"] = Image2DModel.parse(
        np.zeros((3, 130, 150), np.uint8), c_coords=["r", "g", "b"], transformations={"slide": Identity()}
    )
    del foreign.images["full"]
    with pytest.raises(ValueError, match="lie outside the image.*hires"):
        hd.io.adopt(foreign)


def test_a_few_spots_off_the_image_and_controls_are_left_out_of_the_table(foreign: SpatialData) -> None:
    old = foreign.shapes["spots"]
    points = old.geometry.get_coordinates().to_numpy().copy()
    points[4] = [-20, 100]
    foreign.shapes["spots"] = ShapesModel.parse(
        points, geometry=0, radius=65.0, index=old.index, transformations={"slide": Identity()}
    )
    table = foreign.tables["table"]
    table.var_names = ["A", "B", "C", "D", "BLANK_0001"]
    sdata = hd.io.adopt(foreign)
    assert list(sdata.tables["table"].obs["id"]) == [i for i in range(table.n_obs) if i != 4]
    assert list(sdata.tables["table"].var_names) == list("ABCD")
    assert table.shape == (36, 5)
    hd.pp.embed(sdata, "texture")


def test_an_image_alone_needs_only_its_mpp() -> None:
    pixels = np.zeros((3, 600, 700), np.uint8)
    sdata = hd.io.adopt(SpatialData(images={"he": Image2DModel.parse(pixels, c_coords=["r", "g", "b"])}), mpp=0.5)
    assert matrix(sdata.images["he"])[0, 0] == 0.5
    assert matrix(sdata.images["he"], "global")[0, 0] == 1


def test_an_image_in_another_system_is_refused(foreign: SpatialData) -> None:
    foreign.images["full"] = Image2DModel.parse(
        np.zeros((3, *SIZE), np.uint8), transformations={"elsewhere": Identity()}
    )
    del foreign.images["hires"]
    with pytest.raises(ValueError, match="shares a coordinate system with 'spots'"):
        hd.io.adopt(foreign)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("1", TypeError), (1000, ValueError)])
def test_a_wrong_mpp_is_refused(foreign: SpatialData, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="mpp"):
        hd.io.adopt(foreign, mpp=value)


def test_anything_but_a_spatialdata_is_refused(spots: ad.AnnData) -> None:
    with pytest.raises(TypeError, match="hd.io.from_anndata"):
        hd.io.adopt(spots)


def test_what_readers_give_is_in_form_already(tmp_path: object) -> None:
    toy = hd.datasets.toy(size_um=300)
    sdata = hd.io.adopt(toy)
    assert matrix(sdata.images["toy_image"])[0, 0] == 0.5
    np.testing.assert_allclose(matrix(sdata.labels["toy_truth"]), matrix(toy.labels["toy_truth"]))
    np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], toy.tables["table"].obsm["spatial"])


def test_an_image_that_is_turned_against_the_reduced_one_is_refused_and_can_be_turned(foreign: SpatialData) -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([x * 200 // SIZE[1], y * 200 // SIZE[0], (x + y) % 200]).astype(np.uint8)
    # As the readers of the field have it: the two images share no system with each other, only with the spots.
    foreign.images["hires"] = Image2DModel.parse(pixels[:, ::10, ::10].copy(), transformations={"low": Identity()})
    set_transformation(foreign.shapes["spots"], Scale([0.1, 0.1], axes=("x", "y")), "low")
    foreign.images["full"] = Image2DModel.parse(
        pixels.swapaxes(1, 2).copy(), c_coords=["r", "g", "b"], transformations={"slide": Identity()}
    )
    with pytest.raises(ValueError, match="Image 'full' is mirrored or turned .* orient='transpose'"):
        hd.io.adopt(foreign)
    seen = hd.io.adopt(foreign, orient="transpose").images["full"]["scale0"]["image"].to_numpy()
    np.testing.assert_array_equal(seen, pixels)
