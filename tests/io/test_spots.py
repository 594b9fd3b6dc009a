"""The rule for spots that all readers share."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from hisdiff.io import _spots


def test_a_few_spots_beyond_the_border_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    xy = np.random.default_rng(0).uniform(0, 300, (40, 2))
    xy[3], xy[7] = [-5, 10], xy[8]
    assert np.flatnonzero(~_spots.on_image(xy, (300, 400), "slide")).tolist() == [3]
    assert "1 of 40 spots lie where another one does" in caplog.text
    assert "left out 1 of 40 spots, which lie up to 5 px beyond" in caplog.text


def test_swapped_or_scaled_coordinates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 of 2 spots of slide lie outside.*400 x 300 px.*hires"):
        _spots.on_image(np.array([[4000.0, 300.0], [5000, 10]]), (300, 400), "slide")
    with pytest.raises(ValueError, match="With x and y swapped they lie on it"):
        _spots.on_image(np.array([[100.0, 390.0], [10, 350]]), (300, 400), "slide")


@pytest.mark.parametrize(
    ("xy", "message"), [([np.nan, 4.0], "no position"), ([0.0, 0.0], "All 3 spots of slide are at one place")]
)
def test_missing_positions_are_refused(xy: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _spots.on_image(np.array([xy] * 3), (300, 400), "slide")


def test_several_sections_in_one_table_are_told_by_their_array_positions(spots: ad.AnnData) -> None:
    _spots.check_one_section(spots, "slide")
    both = ad.concat([spots, spots], keys=["a", "b"], index_unique="_", label="library")
    with pytest.raises(ValueError, match="36 of 72 spots of slide have an array position"):
        _spots.check_one_section(both, "slide")
    both.obs["library_id"] = both.obs["library"]
    with pytest.raises(ValueError, match=r"several sections \(\['a', 'b'\]"):
        _spots.check_one_section(both, "slide")
