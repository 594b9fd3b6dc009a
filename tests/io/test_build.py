"""The parts that every reader builds a section from."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from spatialdata.transformations import get_transformation

from hisdiff.io import _build, _names, _scale
from hisdiff.io._storable import storable_table


def test_halving_takes_the_mean_of_two_by_two_pixels_and_drops_an_odd_line() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2051, 6), dtype=np.uint8)
    expected = pixels[:, :2050].reshape(3, 1025, 2, 3, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(_build.halve(pixels), expected, atol=0.5)


def test_lazy_levels_equal_those_made_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2200, 1501), dtype=np.uint8)
    eager = _build.levels_of(pixels)
    lazy = _build.levels_of(da.from_array(pixels, chunks=(1, 700, 333)))
    assert [level.shape for level in eager] == [(3, 2200, 1501), (3, 1100, 750), (3, 550, 375), (3, 275, 187)]
    for one, other in zip(eager, lazy, strict=True):
        np.testing.assert_array_equal(one.compute(), other.compute())


def test_chunking_in_memory_shares_the_pixels() -> None:
    pixels = np.zeros((3, 1500, 1500), dtype=np.uint8)
    shares = lambda block: np.full((1, 1, 1), np.shares_memory(block, pixels))  # noqa: E731
    assert da.map_blocks(shares, _build.chunked(pixels), dtype=bool, chunks=(1, 1, 1)).compute().all()


def test_a_reduced_image_maps_to_full_resolution_pixels_and_um() -> None:
    levels = _build.levels_of(np.zeros((3, 600, 800), dtype=np.uint8))
    element = _build.image_element(levels, _build.transformations(0.5, reduction=4))
    known = get_transformation(element, get_all=True)
    corner = [[800, 600, 1]]
    for system, expected in (("global", [3200, 2400]), ("um", [1600, 1200])):
        matrix = known[system].to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_allclose((corner @ matrix.T)[0, :2], expected)


@pytest.mark.parametrize("mpp", [0, -1, 1e-4, 250, np.nan])
def test_a_pixel_size_that_no_microscope_has_is_refused(mpp: float) -> None:
    with pytest.raises(ValueError, match="mpp of slide"):
        _scale.check_mpp(mpp, "slide")


def test_names_are_made_fit_for_spatialdata() -> None:
    assert _names.element_name("my slide (1)") == "my_slide__1_"
    assert _names.element_name("_hidden") == "hidden"
    assert _names.element_name("C2") == "C2"
    assert _names.element_name("Table") == "Table_section"  # there is a table of that name


def test_columns_that_a_store_holds_are_left_alone_without_a_word_and_others_are_named(caplog):
    obs = pd.DataFrame({"text": ["a", "b"], "kind": pd.Categorical(["x", "y"]), "flag": [True, False], "n": [1, 2]})
    table = AnnData(np.ones((2, 1), np.float32), obs=obs.set_index(pd.Index(["s1", "s2"])))
    storable_table(table)
    assert not caplog.messages
    table.obs["mixed"] = [1, "one"]
    storable_table(table)
    assert caplog.messages == ["Columns whose values a store cannot hold became text: [\"obs['mixed']\"]."]
    assert list(table.obs["mixed"]) == ["1", "one"]
