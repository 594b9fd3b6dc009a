from __future__ import annotations

import errno

import numpy as np
import pytest
import spatialdata
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import hisdiff as hd
from hisdiff import _stream
from hisdiff._geometry._grid import bins_within
from hisdiff._sdata import _journal, _store
from hisdiff._sdata._dense import DenseFeatures
from hisdiff._sdata._read import open_sections
from hisdiff.encoders import DenseSpec, EncoderSpec

AXES = ("x", "y")
KEY, EMBEDDING = "grid_20um", "grid_20um_embedding"


class DenseColor:
    """Mean colour of every bin."""

    def __init__(self, dim: int = 3) -> None:
        self.spec = EncoderSpec("dense-colour", "1", dim=3, input_px=8, mpp=2.0)
        self.dense_spec = DenseSpec("1", dim, 2.0, 16.0)
        self.boxes: list = []
        self.stop_at: int | None = None

    def encode(self, patches):
        return patches.reshape(len(patches), -1, 3).mean(axis=1).astype(np.float32)

    def encode_dense(self, image, box_um, resolution_um):
        if self.stop_at is not None and len(self.boxes) >= self.stop_at:
            raise KeyboardInterrupt
        self.boxes.append(box_um)
        x0, y0, x1, y1 = box_um
        rows, columns = round((y1 - y0) / resolution_um), round((x1 - x0) / resolution_um)
        pixels = image.read(box_um, 2.0).astype(np.float32)
        px = round(resolution_um / 2.0)
        color = pixels.reshape(rows, px, columns, px, 3).mean(axis=(1, 3))
        return np.tile(color, self.dense_spec.dim // 3 + 1)[..., : self.dense_spec.dim]


@pytest.fixture
def sdata(make_section):
    return make_section(side=4)


@pytest.fixture
def backed(make_section, tmp_path):
    make_section(side=4).write(tmp_path / "section.zarr")
    return spatialdata.read_zarr(tmp_path / "section.zarr")


@pytest.fixture
def in_pieces(monkeypatch):
    """Make chunks, and what is embedded at once, so small that a test section takes several."""
    monkeypatch.setattr("hisdiff.pp._grid._CHUNK_VALUES", 800)
    monkeypatch.setattr("hisdiff.pp._grid._REGION_UM", 100.0)


def left(sdata):
    """Return what lies beside a store, or hidden in it."""
    hidden = [path for path in sdata.path.rglob(".*") if path.name != ".hisdiff"]
    return sorted(
        path.name
        for path in [*sdata.path.parent.iterdir(), *sdata.path.glob(".hisdiff/*"), *hidden]
        if path != sdata.path
    )


def test_labels_number_the_bins_of_the_tissue_and_lie_where_they_are(sdata):
    hd.pp.grid(sdata, 20)
    section = open_sections(sdata)[0].section
    ij = bins_within(section.tissue, 20.0)
    labels = sdata.labels[KEY]
    assert labels.dtype == np.int32
    values = labels.values
    assert sorted(values[values > 0]) == list(range(1, len(ij) + 1))
    to_um = get_transformation(labels, "um").to_affine_matrix(AXES, AXES)
    for number in (1, len(ij) // 2, len(ij)):
        (row,), (column,) = np.nonzero(values == number)
        center = to_um @ [column + 0.5, row + 0.5, 1]
        np.testing.assert_allclose(center[:2], (ij[number - 1][::-1] + 0.5) * 20)


def test_the_embedding_lies_over_the_labels_in_the_systems_of_the_image(sdata):
    hd.pp.grid(sdata, 20)
    labels, embedding = sdata.labels[KEY], sdata.images[EMBEDDING]
    assert embedding.shape == (144, *labels.shape)
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding.values[:, labels.values > 0]).all()
    image = get_transformation(sdata.images["s1_image"]["scale0"]["image"], get_all=True)
    assert {"global", "um"} <= set(image)
    for system in image:
        np.testing.assert_allclose(
            get_transformation(labels, system).to_affine_matrix(AXES, AXES),
            get_transformation(embedding, system).to_affine_matrix(AXES, AXES),
        )


def test_the_embedding_holds_what_the_encoder_gives_for_each_place(sdata, in_pieces):
    hd.pp.grid(sdata, 20, encoder=DenseColor())
    labels, embedding = sdata.labels[KEY], sdata.images[EMBEDDING].values
    to_px = get_transformation(labels, "global").to_affine_matrix(AXES, AXES)
    image = sdata.images["s1_image"]["scale0"]["image"].values
    for row, column in np.argwhere(labels.values > 0)[::37]:
        x0, y0, _ = np.round(to_px @ [column, row, 1]).astype(int)
        inside = image[:, y0 : y0 + 20, x0 : x0 + 20]
        np.testing.assert_allclose(embedding[:, row, column], inside.mean(axis=(1, 2)), atol=1.5)


def test_a_grid_in_the_store_equals_one_in_memory_and_is_found_again(sdata, backed, in_pieces):
    hd.pp.grid(sdata, 20)
    hd.pp.grid(backed, 20)
    again = spatialdata.read_zarr(backed.path)
    for other in (backed, again):
        np.testing.assert_array_equal(other.labels[KEY].values, sdata.labels[KEY].values)
        np.testing.assert_array_equal(other.images[EMBEDDING].values, sdata.images[EMBEDDING].values)
        assert KEY in other.attrs["hisdiff"]["written"]
    assert backed.images[EMBEDDING].chunks[1][0] < backed.images[EMBEDDING].shape[1]
    assert not left(backed)


def test_a_second_run_replaces_its_own_result(backed):
    hd.pp.grid(backed, 20, encoder=DenseColor())
    hd.pp.grid(backed, 20)
    assert backed.images[EMBEDDING].shape[0] == 144
    assert spatialdata.read_zarr(backed.path).images[EMBEDDING].shape[0] == 144


def test_an_interrupted_grid_leaves_nothing_in_the_object_and_goes_on(backed, in_pieces):
    encoder = DenseColor()
    hd.pp.grid(backed, 20, encoder=encoder)
    whole, n_boxes = backed.images[EMBEDDING].values, len(encoder.boxes)
    hd.pp.grid(backed, 20)  # something else in the meantime
    before = backed.images[EMBEDDING].values
    encoder = DenseColor()
    encoder.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        hd.pp.grid(backed, 20, encoder=encoder)
    np.testing.assert_array_equal(spatialdata.read_zarr(backed.path).images[EMBEDDING].values, before)
    assert left(backed) == [f"run-{EMBEDDING}"]
    encoder.stop_at = None
    hd.pp.grid(backed, 20, encoder=encoder)
    assert len(encoder.boxes) == n_boxes
    np.testing.assert_array_equal(backed.images[EMBEDDING].values, whole)
    assert not left(backed)


@pytest.mark.parametrize("when", ["tiles", "placing"])
def test_a_full_disk_leaves_the_object_as_it_was(backed, monkeypatch, when):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "tiles":
        monkeypatch.setattr(_stream, "_fill", full)
    else:
        monkeypatch.setattr(_journal, "put_in_place", full)
    with pytest.raises(OSError, match="No space left on device.*GB are free"):
        hd.pp.grid(backed, 20, encoder=DenseColor())
    assert KEY not in backed
    assert EMBEDDING not in backed
    assert not backed.attrs.get("hisdiff", {}).get("written")
    stored = spatialdata.read_zarr(backed.path)
    assert not [key for key in stored.elements_paths_in_memory() if "grid" in key]
    assert not stored.attrs.get("hisdiff", {}).get("written")
    assert stored.has_consolidated_metadata()
    monkeypatch.undo()
    hd.pp.grid(backed, 20, encoder=DenseColor())
    assert not left(backed)


def test_what_is_stored_is_not_computed_again(sdata):
    encoder = DenseColor()
    hd.pp.grid(sdata, 20, encoder=encoder)
    bound = open_sections(sdata)[0]
    stored = DenseFeatures(encoder, bound.section.image, bound.section.tissue, bound.place)
    fresh = DenseFeatures(encoder, bound.section.image, bound.section.tissue)
    x0, y0 = (np.array(bound.section.tissue.bounds[:2]) // 20 + 3) * 20
    encoder.boxes.clear()
    inner = stored.raster((x0, y0, x0 + 200, y0 + 100), 20.0)
    mean, std = stored.mean, stored.std
    assert not encoder.boxes
    np.testing.assert_array_equal(inner, fresh.raster((x0, y0, x0 + 200, y0 + 100), 20.0))
    np.testing.assert_array_equal(mean, fresh.mean)
    np.testing.assert_array_equal(std, fresh.std)
    encoder.boxes.clear()
    outer = stored.raster((-100, -100, x0, y0), 20.0)  # reaches beyond the grid and the image
    assert len(encoder.boxes) == 1
    np.testing.assert_array_equal(outer, fresh.raster((-100, -100, x0, y0), 20.0))
    encoder.boxes.clear()
    stored.raster((x0, y0, x0 + 80, y0 + 40), 40.0)  # another resolution
    assert len(encoder.boxes) == 1


def test_the_encoder_of_the_embedding_is_the_default(sdata, color_encoder):
    hd.pp.embed(sdata, color_encoder)
    hd.pp.grid(sdata, 20)  # an object, without a dense form: the patch around every bin
    assert sdata.attrs["hisdiff"]["written"][EMBEDDING]["encoder"] == "colour"
    with pytest.raises(ValueError, match=r"'colour' has no dense form.*'texture'"):
        hd.pp.grid(sdata, 20, encoder=color_encoder)
    hd.pp.embed(sdata)
    hd.pp.grid(sdata, 20)
    assert sdata.attrs["hisdiff"]["written"][EMBEDDING]["encoder"] == "texture"


def test_long_vectors_are_stored_in_half_precision(sdata):
    hd.pp.grid(sdata, 20, encoder=DenseColor(300))
    assert sdata.images[EMBEDDING].dtype == np.float16


def test_several_images_have_grids_of_their_own(sdata, make_section):
    sdata.images["other"] = make_section("s2", seed=1, side=4).images["s2_image"]
    hd.pp.grid(sdata, 20, image_key="s1_image", encoder=DenseColor())
    hd.pp.grid(sdata, 20, image_key="other", encoder=DenseColor())
    # Three channels, and yet no image of a section.
    hd.pp.grid(sdata, 40, image_key="other", encoder=DenseColor())
    for name in ("grid_20um_s1_image", "grid_20um_other", "grid_40um_other"):
        assert name in sdata.labels
        assert f"{name}_embedding" in sdata.images


@pytest.mark.parametrize(
    ("resolution", "error", "message"),
    [
        (0.5, ValueError, "finer than a pixel of image 's1_image', which has 1 um"),
        (5000, ValueError, "larger than the tissue of 's1'"),
        (0, ValueError, "above zero"),
        ("16", TypeError, "a number"),
    ],
)
def test_a_resolution_that_makes_no_sense_is_an_error(sdata, resolution, error, message):
    with pytest.raises(error, match=message):
        hd.pp.grid(sdata, resolution)
    assert not [key for key in sdata.shapes if key.startswith("tissue")]
    assert "hisdiff" not in sdata.attrs


def test_a_grid_without_a_bin_is_an_error(sdata):
    import geopandas as gpd
    from shapely import box
    from spatialdata.models import ShapesModel

    # Between the centres of bins of 200 um.
    frame = gpd.GeoDataFrame({"geometry": [box(205, 205, 295, 495)]})
    sdata["tissue"] = ShapesModel.parse(
        frame, transformations=get_transformation(sdata.images["s1_image"]["scale0"]["image"], get_all=True)
    )
    with pytest.raises(ValueError, match="No bin of a grid of 200 um"):
        hd.pp.grid(sdata, 200)


def test_glass_alone_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    glass = rng.integers(243, 246, (3, 600, 600), dtype=np.uint8)
    sdata = spatialdata.SpatialData(images={"slide": Image2DModel.parse(glass, dims=("c", "y", "x"))})
    with pytest.raises(ValueError, match="No tissue was found in image 'slide'"):
        hd.pp.grid(sdata, 20, mpp=1.0)
    assert list(sdata.images) == ["slide"]


@pytest.mark.parametrize("name", [KEY, EMBEDDING])
def test_a_name_that_is_taken_is_an_error(sdata, backed, name):
    mine = Image2DModel.parse(np.zeros((5, 8, 8), dtype=np.uint8), dims=("c", "y", "x"))
    sdata.images[name] = mine
    with pytest.raises(ValueError, match=f"{name}' that hisdiff did not write"):
        hd.pp.grid(sdata, 20)
    backed.images[name] = mine
    backed.write_element(name)
    del backed.images[name]
    with pytest.raises(ValueError, match="in the object's store"):
        hd.pp.grid(backed, 20)
    hd.pp.grid(sdata, 20, encoder=DenseColor(), key_added="mine")
    assert "mine_embedding" in sdata.images


def test_what_does_not_fit_into_memory_is_to_be_written_first(sdata, backed, monkeypatch):
    monkeypatch.setattr(_store, "LARGEST_IN_MEMORY", 1000)
    with pytest.raises(ValueError, match="sdata.write"):
        hd.pp.grid(sdata, 20)
    hd.pp.grid(backed, 20, encoder=DenseColor())
    assert KEY in backed
