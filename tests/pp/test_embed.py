from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd
from snapshot import snapshot
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation, remove_transformation

import hisdiff as hd
from hisdiff._sdata._coarsen import coarsen
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._read import open_sections
from hisdiff._section import Locations
from hisdiff.encoders import _registry


def stored(sdata, table: str = "table"):
    return sdata.tables[table].obsm["hisdiff_embedding"]


def test_embedding_mean_and_sd_are_stored_raw_with_their_record(make_section, color_encoder) -> None:
    sdata = make_section()
    hd.pp.embed(sdata, color_encoder)
    values = stored(sdata)
    assert values.shape == (36, 6)
    assert values.dtype == np.float32
    record = sdata.tables["table"].uns["hisdiff"]["embedding"]
    assert (record["encoder"], record["revision"], record["patch_um"], record["mpp"]) == ("colour", "1", 64.0, 2.0)
    section = record["sections"]["s1"]
    assert section["mean"].shape == section["std"].shape == (6,)
    # The lattice covers the same tissue as the spots, so the mean colours agree roughly.
    np.testing.assert_allclose(section["mean"][:3], values.mean(axis=0)[:3], atol=0.1)


def test_what_is_there_already_is_not_computed_again(make_section, color_encoder) -> None:
    sdata = make_section()
    hd.pp.embed(sdata, color_encoder)
    before, seen = stored(sdata).copy(), color_encoder.n_patches
    hd.pp.embed(sdata, color_encoder)
    assert color_encoder.n_patches == seen
    np.testing.assert_array_equal(stored(sdata), before)
    hd.pp.embed(sdata, color_encoder, patch_um=40)
    assert color_encoder.n_patches > seen
    assert np.abs(stored(sdata) - before).max() > 0


def test_another_image_under_the_same_name_is_embedded_anew(make_section, color_encoder) -> None:
    sdata, other = make_section(seed=0), make_section(seed=3)
    hd.pp.embed(sdata, color_encoder)
    before = stored(sdata).copy()
    sdata.images["s1_image"] = other.images["s1_image"]
    hd.pp.embed(sdata, color_encoder)
    assert np.abs(stored(sdata) - before).max() > 0.01


def test_the_pixel_size_of_the_scan_does_not_matter(make_section, color_encoder) -> None:
    fine, coarse = make_section(mpp=0.5), make_section(mpp=1.0)
    for sdata in (fine, coarse):
        hd.pp.embed(sdata, color_encoder)
    # The colour field is the same; noise is drawn per pixel, so only means can agree.
    assert np.corrcoef(stored(fine)[:, 0], stored(coarse)[:, 0])[0, 1] > 0.99


def test_statistics_of_the_section_do_not_change_when_spots_are_left_out(make_section, color_encoder) -> None:
    whole, part = make_section(), make_section()
    table = part.tables["table"][:10].copy()
    del part.tables["table"]
    part.tables["table"] = table
    for sdata in (whole, part):
        hd.pp.embed(sdata, color_encoder)
    a, b = (s.tables["table"].uns["hisdiff"]["embedding"]["sections"]["s1"] for s in (whole, part))
    np.testing.assert_array_equal(a["mean"], b["mean"])
    np.testing.assert_allclose(stored(whole)[:10], stored(part), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing(make_section, color_encoder, batch_size: int) -> None:
    first = hd.pp.embed(make_section(), color_encoder, inplace=False)
    again = hd.pp.embed(make_section(), color_encoder, batch_size=batch_size, inplace=False)
    np.testing.assert_allclose(again, first, rtol=1e-6)


def test_without_inplace_nothing_is_written(make_section, color_encoder) -> None:
    sdata = make_section()
    both = hd.pp.embed([sdata, make_section("s2")], color_encoder, inplace=False)
    assert [v.shape for v in both] == [(36, 6)] * 2
    assert "hisdiff_embedding" not in sdata.tables["table"].obsm
    assert list(sdata.shapes) == ["s1"]


def test_a_section_with_only_an_image_gets_a_lattice(make_section, color_encoder) -> None:
    sdata = make_section()
    only = sd.SpatialData(images={"he": sdata.images["s1_image"]})
    hd.pp.embed(only, color_encoder)
    table = only.tables["lattice"]
    assert table.n_vars == 0
    assert table.obsm["hisdiff_embedding"].shape == (table.n_obs, 6)
    spots = open_sections(only)[0].section.spots
    assert spots.footprint == pytest.approx(27.5)
    assert table.n_obs > 20
    hd.pp.embed(only, color_encoder)  # running the cell twice is normal
    assert only.tables["lattice"].n_obs == table.n_obs


def test_embedding_survives_zarr(make_section, color_encoder, tmp_path) -> None:
    sdata = make_section()
    hd.pp.embed(sdata, color_encoder)
    sdata.write(tmp_path / "s.zarr")
    again = sd.read_zarr(tmp_path / "s.zarr")
    seen = color_encoder.n_patches
    hd.pp.embed(again, color_encoder)
    assert color_encoder.n_patches == seen
    np.testing.assert_array_equal(stored(again), stored(sdata))


def without_image(sdata) -> None:
    del sdata.images["s1_image"]


def with_pixels(make):
    """Return what puts ``make(rgb)``, (c, y, x), in the place of the image."""

    def spoil(sdata) -> None:
        image = sdata.images["s1_image"]
        rgb = next(iter(image["scale0"].data_vars.values())).data.compute()
        frames = get_transformation(image, get_all=True)
        sdata.images["s1_image"] = Image2DModel.parse(make(rgb), dims=("c", "y", "x"), transformations=frames)

    return spoil


def far_away(sdata) -> None:
    frame = sdata.shapes["s1"]
    frame["geometry"] = frame.geometry.translate(5000, 0)


def without_scale(sdata) -> None:
    for element in (sdata.images["s1_image"], sdata.shapes["s1"]):
        remove_transformation(element, "um")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_image, "no image for 's1'"),
        (with_pixels(lambda rgb: rgb[:1]), "'s1_image' has 1 channel"),
        (with_pixels(lambda rgb: rgb.astype(np.int32)), "'s1_image' has dtype int32"),
        (with_pixels(lambda rgb: rgb.astype(np.float32)), "'s1_image' is of type float with values outside 0 to 1"),
        (far_away, "outside image 's1_image'"),
        (without_scale, "micrometres per pixel"),
    ],
)
def test_images_that_cannot_be_embedded_are_named_and_nothing_is_written(
    make_section, color_encoder, spoil, message
) -> None:
    sdata = make_section()
    spoil(sdata)
    before = snapshot(sdata)
    with pytest.raises(ValueError, match=message):
        hd.pp.embed(sdata, color_encoder)
    assert snapshot(sdata) == before


def test_sixteen_bit_float_and_transparent_images_are_embedded_as_their_colours(make_section, color_encoder) -> None:
    embedded = []
    for same in (
        lambda rgb: rgb,
        lambda rgb: rgb.astype(np.uint16) * 257,
        lambda rgb: rgb.astype(np.float32) / 255,
        lambda rgb: np.concatenate([rgb, np.full_like(rgb[:1], 255)]),
    ):
        sdata = make_section()
        with_pixels(same)(sdata)
        hd.pp.embed(sdata, color_encoder)
        embedded.append(stored(sdata))
    for values in embedded[1:]:
        np.testing.assert_allclose(values, embedded[0], atol=1e-6)


def test_one_bad_section_or_a_wrong_argument_stops_all_before_the_encoder_runs(make_section, color_encoder) -> None:
    good, bad = make_section(), make_section("s2")
    del bad.images["s2_image"]
    before = snapshot(good)
    for data, encoder, options, error, message in (
        ([good, bad], color_encoder, {}, ValueError, "no image for 's2'"),
        (good, color_encoder, {"patch_um": 0}, ValueError, "patch_um"),
        (good, color_encoder, {"batch_size": 0}, ValueError, "batch_size"),
        (good, color_encoder, {"device": "gpu"}, ValueError, "gpu"),
        (good, "textur", {}, (ValueError, KeyError), "textur"),
    ):
        with pytest.raises(error, match=message):
            hd.pp.embed(data, encoder, **options)
    assert color_encoder.n_patches == 0
    assert snapshot(good) == before


def test_an_encoder_without_access_leaves_the_object_as_it_was(make_section, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sdata = make_section()
    before = snapshot(sdata)
    with pytest.raises(ConnectionError, match="MahmoodLab/UNI2-h.*texture"):
        hd.pp.embed(sdata, "uni2-h")
    assert snapshot(sdata) == before


def test_merged_spots_have_the_mean_embedding_of_their_members(make_section, color_encoder) -> None:
    sdata = make_section()
    coarse = coarsen(open_sections(sdata, needs=("counts",)), 3)
    for one in (sdata, coarse.sdata):
        hd.pp.embed(one, color_encoder)
    merged, own = stored(coarse.sdata), stored(sdata)
    for row in range(len(merged)):
        np.testing.assert_allclose(merged[row], own[coarse.parent == row].mean(axis=0), rtol=1e-4)

    # A place in the middle of a merged spot is no merged spot.
    (bound,) = open_sections(coarse.sdata, needs=("features",))
    spots = bound.section.spots
    bound.section.features._encoder = color_encoder
    np.testing.assert_array_equal(bound.section.features.at(spots.take(slice(0, 3))), merged[:3])
    narrow = bound.section.features.at(Locations(spots.xy_um[:3], 25.0))
    assert np.abs(narrow - merged[:3]).max() > 1e-3


def moved_spots(sdata) -> None:
    shapes = sdata.shapes["s1"].copy()
    shapes["geometry"] = shapes.geometry.translate(20, 0)
    sdata.shapes["s1"] = shapes


def another_image(sdata) -> None:
    image = np.asarray(sdata.images["s1_image"]["scale0"]["image"])
    sdata.images["s1_image"] = Image2DModel.parse(
        255 - image, dims=("c", "y", "x"), transformations=get_transformation(sdata.images["s1_image"], get_all=True)
    )


def no_values(sdata) -> None:
    del sdata.tables["table"].obsm["hisdiff_embedding"]


@pytest.mark.parametrize("change", [moved_spots, another_image, no_values])
def test_an_embedding_that_is_out_of_date_is_made_again_before_a_prediction(make_section, change, caplog) -> None:
    sdata = make_section()
    hd.pp.select_genes(sdata)
    hd.pp.embed(sdata, "texture")
    model = hd.tl.fit(sdata, method="ridge")
    before = stored(sdata).copy()
    change(sdata)
    with caplog.at_level("INFO", "hisdiff"):
        hd.tl.predict(sdata, model)
    assert "running hd.pp.embed" in caplog.text
    assert (np.abs(stored(sdata) - before).max() > 1e-3) == (change is not no_values)
    fresh = make_section()
    if change is not no_values:
        change(fresh)
    hd.pp.embed(fresh, "texture")
    np.testing.assert_allclose(stored(sdata), stored(fresh), atol=1e-5)


def test_subsets_and_crops_keep_their_embedding(make_section, caplog) -> None:
    sdata = make_section()
    hd.pp.select_genes(sdata)
    hd.pp.embed(sdata, "texture")
    model = hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata, model)
    whole = sdata.tables["table"].copy()
    crop = sd.bounding_box_query(
        sdata, axes=("x", "y"), min_coordinate=[160, 160], max_coordinate=[560, 560], target_coordinate_system="global"
    )
    few = sd.SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables={"table": whole[:20].copy()})
    for part in (crop, few):
        for name in layer_names(part.tables["table"]):
            del part.tables["table"].layers[name]
        with caplog.at_level("INFO", "hisdiff"):
            hd.tl.predict(part, model)
        names = part.tables["table"].obs_names
        assert 0 < len(names) < len(whole)
        np.testing.assert_array_equal(stored(part), whole[names].obsm["hisdiff_embedding"])
    assert "running hd.pp.embed" not in caplog.text


def test_an_embedding_of_an_encoder_that_its_name_does_not_lead_to_is_asked_for(
    make_section, color_encoder, monkeypatch
) -> None:
    sdata = make_section()
    hd.pp.select_genes(sdata)
    hd.pp.embed(sdata, color_encoder)
    model = hd.tl.fit(sdata, method="ridge")
    moved_spots(sdata)
    before = snapshot(sdata)
    monkeypatch.setattr(_registry, "_REMEMBERED", {})  # as in another process
    with pytest.raises(ValueError, match=r"spots have moved.*encoder 'colour' .*pass the object with encoder="):
        hd.tl.predict(sdata, model)
    assert snapshot(sdata) == before
    hd.tl.predict(sdata, model, encoder=color_encoder)
    assert "ridge" in sdata.tables["table"].layers


def test_texture_takes_the_size_that_the_coarsest_image_needs_and_says_so(make_section, caplog) -> None:
    fine, coarse = make_section("fine", mpp=0.5), make_section("coarse", mpp=4.4)
    hd.pp.embed([fine, coarse], "texture")
    for sdata in (fine, coarse):
        assert sdata.tables["table"].uns["hisdiff"]["embedding"]["encoder"] == "texture-4um"
    assert "'coarse_image' has 4.4 um per pixel" in caplog.text
    hd.pp.embed(fine, "texture")
    assert fine.tables["table"].uns["hisdiff"]["embedding"]["encoder"] == "texture"


def test_unembedded_sections_are_fitted_at_one_size(make_section) -> None:
    sections = [make_section("a", mpp=1.0), make_section("b", mpp=2.5)]
    hd.pp.select_genes(sections)
    model = hd.tl.fit(sections, method="ridge")
    assert model.cohort.features.encoder == "texture-2um"


def test_images_too_coarse_for_an_encoder_are_refused_with_one_that_is_not(make_section) -> None:
    with pytest.raises(ValueError, match="encoder='texture-4um'"):
        hd.pp.embed(make_section(mpp=4.4), "texture-2um")
    with pytest.raises(ValueError, match=r"images of up to 6 can be used"):
        hd.pp.embed(make_section(mpp=6.5), "texture")
