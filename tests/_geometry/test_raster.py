import numpy as np
import pytest

from hisdiff._geometry._raster import PointRaster, depth_inside, large_parts


def grid(rows: int, columns: int, side: float = 10.0) -> np.ndarray:
    return np.array([((j + 0.5) * side + 300, (i + 0.5) * side + 70) for i in range(rows) for j in range(columns)])


def test_bins_become_one_pixel_each_and_missing_ones_stay_holes() -> None:
    xy = np.delete(grid(6, 8), 19, axis=0)
    raster = PointRaster.of(xy, bins=True)
    assert raster.nearest.shape == (6, 8)
    assert raster.pixel_um == pytest.approx(10)
    assert raster.box_um == pytest.approx((300, 70, 380, 130))
    assert (~raster.inside).sum() == 1
    values = np.arange(len(xy), dtype=float)
    np.testing.assert_allclose(raster.at(raster.paint(values)), values)


def test_spots_are_painted_as_far_as_they_reach() -> None:
    xy = grid(5, 5, 100.0)
    raster = PointRaster.of(xy, bins=False)
    assert raster.pixel_um == pytest.approx(25)
    painted = raster.paint(np.ones(25))
    assert painted[raster.inside].min() == 1
    assert raster.inside.all()


def test_many_bins_are_averaged_in_larger_pixels() -> None:
    xy = grid(40, 60)
    raster = PointRaster.of(xy, bins=True, max_px=10)
    assert min(raster.nearest.shape) == 10
    rising = raster.paint(xy[:, 0])
    assert np.abs(raster.at(rising) - xy[:, 0]).max() <= raster.pixel_um


def test_depth_of_a_disc_is_its_radius_at_the_centre() -> None:
    y, x = np.mgrid[:101, :101] - 50
    depth = depth_inside(np.hypot(y, x) < 30, 2.0)
    assert depth.max() == pytest.approx(60, abs=3)
    assert depth[0, 0] == 0
    # The border of the raster is outside.
    assert depth_inside(np.ones((9, 9), dtype=bool), 1.0)[4, 4] == 4.5


def test_small_parts_are_left_out_and_the_others_numbered_by_size() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:4, 2:4] = mask[8:12, 8:12] = mask[15:20, 0:8] = True
    parts = large_parts(mask, 10)
    assert parts[2, 2] == 0
    assert parts[16, 2] == 1
    assert parts[9, 9] == 2
