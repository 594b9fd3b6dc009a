from __future__ import annotations

import numpy as np
import pytest
import shapely

from hisdiff._geometry import find_tissue


def slide(glass: tuple[int, int, int], stain: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A disc of speckled tissue of radius 800 um with a round hole of radius 300, at 8 um per pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:300, :300] * 8.0
    away = np.hypot(x - 1200, y - 1200)
    image = np.asarray(glass) + rng.normal(0, 1.0, (300, 300, 3))
    speckled = np.asarray(stain) + rng.normal(0, 14, (300, 300, 1))
    tissue = ((away < 800) & (away > 300))[..., None]
    return np.clip(np.where(tissue, speckled, image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("glass", [(255, 255, 255), (245, 243, 240), (208, 196, 212), (235, 215, 230)])
@pytest.mark.parametrize("stain", [(150, 90, 160), (205, 150, 190)])
def test_tissue_is_outlined_on_any_glass_with_its_hole(
    glass: tuple[int, int, int], stain: tuple[int, int, int]
) -> None:
    found = find_tissue(slide(glass, stain), 8.0, min_area_um2=5e4, min_hole_um2=2e4)
    true = shapely.Point(1200, 1200).buffer(800) - shapely.Point(1200, 1200).buffer(300)
    assert shapely.area(found ^ true) / true.area < 0.12


def test_stain_that_ran_over_the_glass_is_no_tissue() -> None:
    image = slide((235, 225, 235), (150, 90, 160))
    y, x = np.mgrid[:300, :300]
    smear = np.exp(-((x - 260) ** 2 + (y - 40) ** 2) / 900)[..., None] * [10, 60, 25]
    smeared = np.clip(image - smear, 0, 255).astype(np.uint8)
    found = find_tissue(smeared, 8.0, min_area_um2=5e4, min_hole_um2=2e4)
    assert not shapely.contains_xy(found, 260 * 8, 40 * 8)


@pytest.mark.parametrize("level", [255, 230])
def test_an_empty_slide_has_no_tissue(level: int) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (200, 200, 3))
    empty = np.clip(level + noise, 0, 255).astype(np.uint8)
    assert find_tissue(empty, 8.0, min_area_um2=5e4, min_hole_um2=2e4).is_empty


def test_an_image_cut_out_of_tissue_is_all_tissue() -> None:
    cut = np.clip(np.random.default_rng(0).normal([150, 90, 160], 14, (120, 120, 3)), 0, 255).astype(np.uint8)
    found = find_tissue(cut, 8.0, min_area_um2=5e4, min_hole_um2=2e4)
    assert found.area > 0.95 * (120 * 8) ** 2


def test_small_pieces_are_dropped_and_small_holes_filled() -> None:
    image = slide((245, 243, 240), (150, 90, 160))
    found = find_tissue(image, 8.0, min_area_um2=5e4, min_hole_um2=4e5)
    assert all(not part.interiors for part in found.geoms)
    assert find_tissue(image, 8.0, min_area_um2=1e7, min_hole_um2=2e4).is_empty
