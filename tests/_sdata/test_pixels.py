from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
import zarr

from hisdiff._sdata import _pixels
from hisdiff._sdata._pixels import Pixels

IMAGE = np.random.default_rng(0).integers(0, 255, (3, 50, 70), dtype=np.uint8)
BOXES = [(0, 0, 50, 70), (3, 5, 17, 33), (16, 16, 32, 32), (-4, -6, 9, 60), (40, 60, 60, 90), (60, 80, 64, 84)]


def expected(box: tuple[int, int, int, int]) -> np.ndarray:
    y0, x0, y1, x1 = box
    padded = np.pad(IMAGE, ((0, 0), (100, 100), (100, 100)), constant_values=255)
    return padded[:, 100 + y0 : 100 + y1, 100 + x0 : 100 + x1]


@pytest.mark.parametrize("chunks", [(3, 16, 16), (1, 50, 9), None])
@pytest.mark.parametrize("kept", [1, 2, 100])
def test_boxes_do_not_depend_on_chunks_or_what_is_kept(chunks, kept, monkeypatch) -> None:
    monkeypatch.setattr(_pixels, "_KEPT_BYTES", kept * 3 * 16 * 16)
    monkeypatch.setattr(_pixels, "_LARGEST_KEPT", 3 * 16 * 16)
    pixels = Pixels(IMAGE if chunks is None else da.from_array(IMAGE, chunks=chunks), "image")
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda box: pixels.box(*box), BOXES * 5))
    for box, got in zip(BOXES * 5, read):
        np.testing.assert_array_equal(got, expected(box))
    assert len(pixels._kept) <= kept


def test_a_chunk_is_decoded_once_for_neighbouring_boxes() -> None:
    decoded = []

    def decode(block: np.ndarray) -> np.ndarray:
        decoded.append(block.shape)
        return block

    source = da.from_array(IMAGE, chunks=(3, 25, 35)).map_blocks(decode, dtype=np.uint8, meta=np.empty((0, 0, 0), "u1"))
    pixels = Pixels(source, "image")
    for x in range(0, 20, 5):
        pixels.box(0, x, 15, x + 15)
    assert len(decoded) == 1


def test_a_pickled_copy_reads_the_same() -> None:
    pixels = Pixels(da.from_array(IMAGE, chunks=(3, 16, 16)), "image")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pixels)).box(*BOXES[1]), expected(BOXES[1]))


@pytest.mark.parametrize("shards", [None, (3, 32, 16)])
def test_a_damaged_chunk_is_an_error_that_names_the_image_and_the_file(tmp_path, shards) -> None:

    array = zarr.create_array(tmp_path / "a.zarr", shape=(3, 32, 32), chunks=(3, 16, 16), shards=shards, dtype="uint8")
    array[:] = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "1").write_bytes(b"no chunk")
    pixels = Pixels(da.from_zarr(tmp_path / "a.zarr").map_blocks(np.invert), "s1_image")
    pixels.box(0, 0, 8, 8)
    with pytest.raises(OSError, match=r"Image 's1_image' cannot be read: \S*/a.zarr/c/0/0/1 is damaged"):
        pixels.box(0, 8, 8, 24)
