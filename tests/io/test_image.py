"""Sections that have only an image, of every kind of file."""

from __future__ import annotations

import gc
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd
import tifffile
from PIL import Image
from spatialdata.transformations import get_transformation

import hisdiff as hd
from hisdiff._sdata._image import levels_of
from hisdiff.io._raster import open_raster


def full(sdata: sd.SpatialData) -> np.ndarray:
    (element,) = sdata.images.values()
    return levels_of(element)[0].to_numpy().transpose(1, 2, 0)


def mpp_of(sdata: sd.SpatialData) -> float:
    (element,) = sdata.images.values()
    return get_transformation(element, "um").to_affine_matrix(("x", "y"), ("x", "y"))[0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_pixels_are_those_of_the_file(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"slide.{suffix}")
    sdata = hd.io.image(tmp_path / f"slide.{suffix}", mpp=0.5)
    np.testing.assert_array_equal(full(sdata), pixels)
    assert list(sdata.images) == ["slide_image"]
    assert mpp_of(sdata) == 0.5
    assert not sdata.tables


def test_jpeg_is_close_to_what_was_saved(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "slide.jpg", quality=95)
    assert np.abs(full(hd.io.image(tmp_path / "slide.jpg", mpp=0.5)).astype(int) - pixels).mean() < 3


def test_the_name_of_the_section_can_be_chosen(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    assert list(hd.io.image(tmp_path / "slide.png", 0.5, name="patient 1").images) == ["patient_1_image"]


@pytest.mark.parametrize("layout", ["tiles", "strips", "contiguous", "planes", "compressed planes"])
def test_every_layout_of_a_tiff_is_read_right(tmp_path: Path, layout: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1500, 3), dtype=np.uint8)
    options = {
        "tiles": {"tile": (256, 240), "compression": "zlib"},
        "strips": {"rowsperstrip": 37, "compression": "zlib"},
        "contiguous": {},
        "planes": {"planarconfig": "separate"},
        "compressed planes": {"planarconfig": "separate", "tile": (128, 128), "compression": "zlib"},
    }[layout]
    data = pixels.transpose(2, 0, 1) if "planes" in layout else pixels
    tifffile.imwrite(tmp_path / "slide.tif", data, photometric="rgb", **options)
    sdata = hd.io.image(tmp_path / "slide.tif", mpp=0.5)
    np.testing.assert_array_equal(full(sdata), pixels)
    part = sdata.images["slide_image"]["scale0"]["image"].data[:, 301:333, 1013:1040].compute()
    np.testing.assert_array_equal(part, pixels[301:333, 1013:1040].transpose(2, 0, 1))


def write_pyramid(path: Path, value: int = 200) -> None:
    full = np.full((2048, 2048, 3), value, dtype=np.uint8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(full, subifds=1, tile=(256, 256), photometric="rgb", compression="zlib")
        # Another colour than the finest level has, to see which one is read.
        tif.write(full[::4, ::4] // 2, subfiletype=1, tile=(256, 256), photometric="rgb", compression="zlib")


def test_the_pyramid_of_the_file_is_used(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "slide.tif")
    element = hd.io.image(tmp_path / "slide.tif", mpp=0.5).images["slide_image"]
    coarse = sd.get_pyramid_levels(element, n=1)
    assert coarse.shape == (3, 512, 512)
    assert (coarse.to_numpy() == 100).all()
    scale = get_transformation(coarse, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert scale[0, 0] == pytest.approx(2.0)


def test_a_patch_reads_only_its_own_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pyramid(tmp_path / "slide.tif")
    level = open_raster(tmp_path / "slide.tif").levels[0]
    from hisdiff.io import _tiff

    seen = []
    read = _tiff._TiffLevel._read
    monkeypatch.setattr(
        _tiff._TiffLevel, "_read", lambda self, opened, key: seen.append(key) or read(self, opened, key)
    )
    level[:, :100, 1100:1200].compute()
    assert len(seen) == 1
    assert (seen[0][1].stop - seen[0][1].start) <= 1024


def test_lazy_levels_can_be_sent_to_another_process_and_close_their_file(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "slide.tif")
    level = open_raster(tmp_path / "slide.tif").levels[0]
    level[:, :10, :10].compute()
    again = pickle.loads(pickle.dumps(level))
    assert (again[:, :10, :10].compute() == 200).all()
    del level, again
    gc.collect()  # a file left open would be a ResourceWarning, and so an error here


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    level = open_raster(tmp_path / "slide.tif").levels[0].rechunk((3, 100, 100))
    np.testing.assert_array_equal(level.compute(scheduler="threads", num_workers=8), pixels.transpose(2, 0, 1))


def test_the_object_survives_a_zarr_round_trip(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    sdata = hd.io.image(tmp_path / "slide.png", mpp=0.31)
    sdata.write(tmp_path / "slide.zarr")
    again = sd.read_zarr(tmp_path / "slide.zarr")
    np.testing.assert_array_equal(full(again), pixels)
    assert mpp_of(again) == pytest.approx(0.31)


class TestPixelSize:
    def test_resolution_tags(self, tmp_path: Path, pixels: np.ndarray) -> None:
        for unit, per_unit in (("CENTIMETER", 10000 / 0.25), ("INCH", 25400 / 0.25)):
            file = tmp_path / f"{unit}.tif"
            tifffile.imwrite(file, pixels, photometric="rgb", resolution=(per_unit, per_unit), resolutionunit=unit)
            assert mpp_of(hd.io.image(file)) == pytest.approx(0.25, rel=1e-4)

    def test_ome_in_micrometres_or_another_unit(self, tmp_path: Path, pixels: np.ndarray) -> None:
        for unit, size in (("µm", 0.5), ("nm", 500.0), ("mm", 0.0005)):
            file = tmp_path / "slide.ome.tif"
            metadata = {"axes": "YXS"}
            for axis in "XY":
                metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
            tifffile.imwrite(file, pixels, photometric="rgb", metadata=metadata)
            assert mpp_of(hd.io.image(file)) == pytest.approx(0.5)

    def test_aperio_description(self, tmp_path: Path, pixels: np.ndarray) -> None:
        text = "Aperio Image Library v1\n400x300 -> 400x300|AppMag = 40|MPP = 0.2520|Left = 20"
        tifffile.imwrite(
            tmp_path / "a.svs", pixels, photometric="rgb", tile=(128, 128), description=text, metadata=None
        )
        assert mpp_of(hd.io.image(tmp_path / "a.svs")) == pytest.approx(0.252)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"description": "Aperio Image Library v1\r\n4x3|MPP=0,2521|AppMag = 40"}, 0.2521),
            ({"description": "Aperio Image Library v1\r\n4x3|MPP = 4.99e-1"}, 0.499),
            ({"description": '<x><Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">&quot;0.00025&quot; &quot;0.00025&quot;</Attribute></x>'}, 0.25),
            ({"description": '<?xml version="1.0"?><OME><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="400" SizeY="300" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0,25" PhysicalSizeY="0,25"><Channel ID="C" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'}, 0.25),
            ({"description": '<x><name>openslide.mpp-x</name><value type="VipsRefString">0.25</value></x>'}, 0.25),
            ({"resolution": (4000, 4000), "resolutionunit": "MILLIMETER"}, 0.25),
        ],
    )  # fmt: skip
    def test_other_vendors_and_notations(
        self, tmp_path: Path, pixels: np.ndarray, options: dict, expected: float
    ) -> None:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, **options)
        assert mpp_of(hd.io.image(tmp_path / "a.tif")) == pytest.approx(expected)

    def test_figures_that_contradict_each_other_are_all_named(self, tmp_path: Path, pixels: np.ndarray) -> None:
        tifffile.imwrite(
            tmp_path / "a.svs", pixels, photometric="rgb", tile=(128, 128), metadata=None, resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER", description="Aperio Image Library v1\n400x300|MPP = 0.25",
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"0\.25 um by the Aperio description.*0\.5 um by the resolution tags"):
            hd.io.image(tmp_path / "a.svs")
        assert mpp_of(hd.io.image(tmp_path / "a.svs", mpp=0.25)) == 0.25

    def test_the_resolution_of_a_flatbed_scanner_is_said(
        self, tmp_path: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
    ) -> None:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", resolution=(2540, 2540), resolutionunit="INCH")
        assert mpp_of(hd.io.image(tmp_path / "a.tif")) == pytest.approx(10)
        assert "flatbed scanner" in caplog.text

    def test_imagej_unit(self, tmp_path: Path, pixels: np.ndarray) -> None:
        tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
        assert mpp_of(hd.io.image(tmp_path / "a.tif")) == pytest.approx(0.5)

    def test_the_resolution_of_a_printer_is_no_pixel_size(self, tmp_path: Path, pixels: np.ndarray) -> None:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", resolution=(300, 300), resolutionunit="INCH")
        with pytest.raises(ValueError, match=r"a.tif does not say how many micrometres a pixel has; pass mpp="):
            hd.io.image(tmp_path / "a.tif")

    def test_a_given_size_goes_before_the_files_and_that_is_said(
        self, tmp_path: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
    ) -> None:
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, photometric="rgb", resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
        )
        assert mpp_of(hd.io.image(tmp_path / "a.tif", mpp=0.5)) == 0.5
        assert "says 0.25 um per pixel" in caplog.text

    def test_oblong_pixels_are_refused(self, tmp_path: Path, pixels: np.ndarray) -> None:
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, photometric="rgb", resolution=(4e4, 2e4), resolutionunit="CENTIMETER"
        )
        with pytest.raises(ValueError, match="have to be square"):
            hd.io.image(tmp_path / "a.tif")


class TestColour:
    def test_alpha_is_laid_over_white(self, tmp_path: Path, pixels: np.ndarray) -> None:
        alpha = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
        alpha[:, :100] = 0
        rgba = np.concatenate([pixels, alpha], axis=-1)
        Image.fromarray(rgba).save(tmp_path / "a.png")
        tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
        for name in ("a.png", "a.tif"):
            seen = full(hd.io.image(tmp_path / name, 0.5))
            assert (seen[:, :100] == 255).all()
            np.testing.assert_array_equal(seen[:, 100:], pixels[:, 100:])

    def test_extra_channels_are_opacity_only_where_the_file_says_so(self, tmp_path: Path, pixels: np.ndarray) -> None:
        half = np.full((*pixels.shape[:2], 1), 128, dtype=np.uint8)
        for kind, extra, expected in (
            ("unspecified", 0 * half, pixels),
            ("unassalpha", 0 * half, pixels),  # nothing would be left of the image
            ("assocalpha", half, np.minimum(pixels.astype(int) + 127, 255)),
        ):
            data = np.concatenate([pixels, extra], axis=-1)
            tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", extrasamples=[kind])
            assert np.abs(full(hd.io.image(tmp_path / "a.tif", 0.5)).astype(int) - expected).max() <= 1

    def test_tiffs_of_other_colors_are_converted_or_refused_by_name(self, tmp_path: Path, pixels: np.ndarray) -> None:
        file = tmp_path / "a.tif"
        for mode, photometric in (("CMYK", "separated"), ("YCbCr", "ycbcr")):
            tifffile.imwrite(file, np.asarray(Image.fromarray(pixels).convert(mode)), photometric=photometric)
            assert np.abs(full(hd.io.image(file, 0.5)).astype(int) - pixels).mean() < 3
        Image.fromarray(pixels).quantize(64).save(file)
        assert np.abs(full(hd.io.image(file, 0.5)).astype(int) - pixels).mean() < 12
        tifffile.imwrite(file, pixels, photometric="cielab")
        with pytest.raises(ValueError, match="a.tif has its colours as CIELAB"):
            hd.io.image(file, 0.5)

    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_sixteen_bit_values_are_scaled_from_the_library_size_they_use(
        self, tmp_path: Path, pixels: np.ndarray, bits: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        top = 2**bits - 1
        deep = np.round(pixels / 255 * top).astype(np.uint16)
        deep[0, 0] = top
        tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
        seen = full(hd.io.image(tmp_path / "a.tif", 0.5))
        assert seen.dtype == np.uint8
        assert np.abs(seen[1:].astype(int) - pixels[1:]).max() <= 1
        assert f"from 0 to {top}" in caplog.text

    @pytest.mark.parametrize("top", [1.0, 255.0])
    def test_floats_are_taken_from_zero_to_one_or_255(self, tmp_path: Path, pixels: np.ndarray, top: float) -> None:
        tifffile.imwrite(tmp_path / "a.tif", (pixels / 255 * top).astype(np.float32), photometric="rgb")
        np.testing.assert_array_equal(full(hd.io.image(tmp_path / "a.tif", 0.5)), pixels)

    @pytest.mark.parametrize("bad", [np.nan, -1.0, 1e6])
    def test_floats_that_are_no_colour_are_refused(self, tmp_path: Path, pixels: np.ndarray, bad: float) -> None:
        values = (pixels / 255).astype(np.float32)
        values[5, 5] = bad
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
        with pytest.raises(ValueError, match="float"):
            hd.io.image(tmp_path / "a.tif", 0.5)

    def test_signed_integers_are_refused(self, tmp_path: Path, pixels: np.ndarray) -> None:
        tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.int32), photometric="rgb")
        with pytest.raises(ValueError, match="int32"):
            hd.io.image(tmp_path / "a.tif", 0.5)

    def test_one_channel_is_refused(self, tmp_path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
        tifffile.imwrite(tmp_path / "a.tif", pixels[..., 0], photometric="minisblack")
        tifffile.imwrite(tmp_path / "deep.tif", pixels[..., 0].astype(np.uint16), photometric="minisblack")
        for name in ("a.png", "a.tif", "deep.tif"):
            with pytest.raises(ValueError, match=rf"{name} has one channel"):
                hd.io.image(tmp_path / name, 0.5)

    def test_grey_in_three_channels_is_said(self, tmp_path: Path, pixels: np.ndarray, caplog) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.repeat(pixels[..., :1], 3, axis=2), photometric="rgb")
        hd.io.image(tmp_path / "a.tif", 0.5)
        assert "a.tif is grey, in three equal channels" in caplog.text

    def test_fluorescence_is_refused(self, tmp_path: Path, pixels: np.ndarray) -> None:
        for channels in (2, 4, 5):
            stack = np.stack([pixels[..., 0]] * channels)
            tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": "CYX"})
            with pytest.raises(ValueError, match=rf"{channels} channels"):
                hd.io.image(tmp_path / "a.tif", 0.5)

    def test_a_stack_is_refused(self, tmp_path: Path, pixels: np.ndarray) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.stack([pixels] * 4), photometric="rgb", metadata={"axes": "ZYXS"})
        with pytest.raises(ValueError, match="one plane"):
            hd.io.image(tmp_path / "a.tif", 0.5)

    def test_print_colours_are_converted(self, tmp_path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
        assert np.abs(full(hd.io.image(tmp_path / "a.jpg", 0.5)).astype(int) - pixels).mean() < 5

    def test_a_palette_is_turned_into_colours(self, tmp_path: Path) -> None:
        Image.new("P", (40, 30), 1).save(tmp_path / "a.gif")
        assert full(hd.io.image(tmp_path / "a.gif", 0.5)).shape == (30, 40, 3)


class TestBrokenFiles:
    @pytest.mark.parametrize("name", ["notes.txt", "notes.tif", "notes.svs"])
    def test_a_text_is_said_to_be_no_image(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("no such format")
        with pytest.raises(ValueError, match=rf"{name} is no image.*it begins with b'no such format'"):
            hd.io.image(tmp_path / name, 0.5)

    @pytest.mark.parametrize(
        ("of", "instead"),
        [
            ('SizeT="1"', 'SizeT="1000000000"'),
            ('SizeX="40"', 'SizeX="forty"'),
            ("<Image", "<a>" * 5000 + "<Image"),
            ("?>", '?><!DOCTYPE d [<!ENTITY a "' + "a" * 9 + '"><!ENTITY b "' + "&a;" * 99 + '">]>&b;'),
        ],
    )
    def test_extreme_metadata_of_ome_name_the_file(self, tmp_path: Path, of: str, instead: str) -> None:
        told = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="P:0" '
            'DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="30" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.5"><Channel '
            'ID="C:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
        )
        file, pixels = tmp_path / "a.ome.tif", np.zeros((30, 40, 3), np.uint8)
        tifffile.imwrite(file, pixels, photometric="rgb", description=told, metadata=None)
        assert mpp_of(hd.io.image(file)) == 0.5  # one side says that of both
        tifffile.imwrite(file, pixels, photometric="rgb", description=told.replace(of, instead, 1), metadata=None)
        with pytest.raises(ValueError, match="a.ome.tif"):
            hd.io.image(file)

    def test_a_small_file_that_would_fill_the_memory_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "bomb.png"
        Image.new("RGB", (8, 8)).save(file)
        raw = bytearray(file.read_bytes())
        raw[16:24] = struct.pack(">II", 30000, 30000)  # the size, in the first chunk, and the chunk's checksum
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
        file.write_bytes(raw)
        with pytest.raises(ValueError, match=r"bomb.png has 0.0 MB and would take 2.7 GB decoded"):
            hd.io.image(file, 0.5)

    def test_a_damaged_tile_names_the_file(self, tmp_path: Path, pixels: np.ndarray) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, pixels, photometric="rgb", tile=(64, 64), compression="zlib")
        with tifffile.TiffFile(file) as tif:
            offset = tif.pages[0].dataoffsets[20]
        with file.open("r+b") as raw:
            raw.seek(offset)
            raw.write(bytes(200))
        sdata = hd.io.image(file, 0.5)
        with pytest.raises(ValueError, match="a.tif cannot be decoded"):
            full(sdata)

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    def test_a_truncated_image_is_named(self, tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
        whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
        noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
        Image.fromarray(noise).save(whole)
        cut.write_bytes(whole.read_bytes()[:-20000])
        with pytest.raises(ValueError, match=rf"cut.{suffix} cannot be read as an image.*complete"):
            hd.io.image(cut, 0.5)

    @pytest.mark.parametrize("options", [{}, {"tile": (64, 64), "compression": "zlib"}])
    def test_a_truncated_tiff_is_named(self, tmp_path: Path, pixels: np.ndarray, options: dict) -> None:
        whole, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
        tifffile.imwrite(whole, pixels, photometric="rgb", **options)
        cut.write_bytes(whole.read_bytes()[:-2000])
        with pytest.raises(ValueError, match=r"cut.tif is truncated"):
            hd.io.image(cut, 0.5)

    def test_a_tiff_cut_off_in_its_header_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0")
        with pytest.raises(ValueError, match=r"cut.tif cannot be read as a TIFF"):
            hd.io.image(tmp_path / "cut.tif", 0.5)

    def test_an_empty_file_a_folder_and_a_missing_file_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "empty.tif").touch()
        with pytest.raises(ValueError, match="empty.tif is empty"):
            hd.io.image(tmp_path / "empty.tif", 0.5)
        with pytest.raises(ValueError, match="is a folder"):
            hd.io.image(tmp_path, 0.5)
        with pytest.raises(FileNotFoundError, match="no image file .*gone.tif"):
            hd.io.image(tmp_path / "gone.tif", 0.5)

    def test_the_preview_of_a_scanner_format_is_not_taken_for_the_slide(
        self, tmp_path: Path, pixels: np.ndarray
    ) -> None:
        Image.fromarray(pixels).save(tmp_path / "slide.mrxs", format="jpeg")
        with pytest.raises((ImportError, ValueError), match="OpenSlide"):
            hd.io.image(tmp_path / "slide.mrxs", 0.5)

    def test_another_format_points_to_openslide(self, tmp_path: Path) -> None:
        (tmp_path / "slide.mrxs").write_bytes(b"something else entirely")
        try:
            import openslide  # noqa: F401
        except ImportError:
            with pytest.raises(ImportError, match=r"hisdiff\[wsi\]"):
                hd.io.image(tmp_path / "slide.mrxs", 0.5)
        else:
            with pytest.raises(ValueError, match="OpenSlide cannot read it"):
                hd.io.image(tmp_path / "slide.mrxs", 0.5)


@pytest.mark.parametrize(("mpp", "error"), [(0, ValueError), (-1, ValueError), ("0.5", TypeError), (500, ValueError)])
def test_a_wrong_mpp_is_refused(tmp_path: Path, pixels: np.ndarray, mpp: object, error: type[Exception]) -> None:
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    with pytest.raises(error, match="mpp"):
        hd.io.image(tmp_path / "slide.png", mpp=mpp)
