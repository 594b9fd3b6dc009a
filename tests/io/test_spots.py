"""The rule for spots that all readers share."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
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
    xy = spots.obsm["spatial"]
    _spots.check_one_section(spots, "slide", xy)
    both = ad.concat([spots, spots], keys=["a", "b"], index_unique="_", label="library")
    with pytest.raises(ValueError, match="36 of 72 spots of slide have an array position"):
        _spots.check_one_section(both, "slide", np.concatenate([xy, xy]))
    both.obs["library_id"] = both.obs["library"]
    with pytest.raises(ValueError, match=r"several sections \(\['a', 'b'\]"):
        _spots.check_one_section(both, "slide", np.concatenate([xy, xy]))


def test_samples_that_lie_over_each_other_are_several_sections_and_parts_of_one_are_not(spots: ad.AnnData) -> None:
    xy = spots.obsm["spatial"]
    spots.obs = pd.DataFrame(
        {"sample": np.where(xy[:, 0] < np.median(xy[:, 0]), "left", "right")}, index=spots.obs_names
    )
    _spots.check_one_section(spots, "slide", xy)
    spots.obs["sample"] = np.where(np.arange(len(xy)) % 2, "a", "b")
    with pytest.raises(ValueError, match=r"slide holds several sections \(\['b', 'a'\] in obs\['sample'\]\)"):
        _spots.check_one_section(spots, "slide", xy)
    with pytest.raises(ValueError, match="36 of 72 spots of slide lie where another one does"):
        _spots.on_image(np.concatenate([xy, xy]), (1300, 1500), "slide")
