import numpy as np
import pytest
import shapely

from hisdiff._geometry._grid import discs
from hisdiff._geometry._patches import is_wide, patch_centers
from hisdiff._section import Locations


def shapes(*geometries) -> np.ndarray:
    out = np.empty(len(geometries), dtype=object)
    out[:] = geometries
    return out


def at(geometry) -> Locations:
    return Locations(shapely.get_coordinates(shapely.centroid(geometry)), shapes(geometry))


def merged_spots(centers: np.ndarray, radius: float = 50.0):
    return shapely.union_all(discs(centers, radius))


@pytest.mark.parametrize("radius", [1.0, 27.5, 55.0, 75.0])
def test_a_spot_has_one_patch_around_its_centre(radius: float) -> None:
    xy = np.array([[10.0, 20.0], [300.0, 400.0]])
    points, share = patch_centers(Locations(xy, radius))
    np.testing.assert_array_equal(points, xy)
    np.testing.assert_array_equal(share.toarray(), np.eye(2))


def test_merged_spots_have_the_patches_of_their_members() -> None:
    members = np.array([[100.0, 100], [300, 100], [100, 300], [300, 300]])
    points, share = patch_centers(at(merged_spots(members)))
    assert sorted(map(tuple, points.round(6).tolist())) == sorted(map(tuple, members.tolist()))
    np.testing.assert_allclose(share.toarray(), np.full((1, 4), 0.25))


def test_parts_count_by_their_area() -> None:
    both = shapely.union_all([*discs(np.array([[0.0, 0]]), 20), *discs(np.array([[500.0, 0]]), 40)])
    points, share = patch_centers(at(both))
    of = dict(zip(points[:, 0].round().astype(int), share.toarray()[0]))
    assert of[0] == pytest.approx(0.2, rel=1e-6)
    assert of[500] == pytest.approx(0.8, rel=1e-6)


def test_a_region_in_one_piece_has_patches_side_by_side_inside_it() -> None:
    region = shapely.box(0, 0, 500, 300)
    points, share = patch_centers(at(region))
    assert len(points) == 15
    assert shapely.contains_xy(region, *points.T).all()
    np.testing.assert_allclose((share @ points)[0], [250, 150])


def test_a_wide_region_that_no_lattice_point_hits_still_has_a_patch() -> None:
    ring = shapely.Point(0, 0).buffer(130).difference(shapely.Point(0, 0).buffer(120))
    ring = shapely.affinity.translate(ring, 7, 3)
    points, _ = patch_centers(at(ring))
    assert len(points) >= 1
    assert shapely.contains_xy(ring, *points.T).all()


def test_rows_stay_in_order_where_narrow_and_wide_are_mixed() -> None:
    members = np.array([[0.0, 0], [200, 0], [0, 200], [200, 200]])
    geometries = shapes(discs(np.array([[900.0, 0]]), 30)[0], merged_spots(members), shapely.box(500, 500, 510, 510))
    where = Locations(shapely.get_coordinates(shapely.centroid(geometries)), geometries)
    assert is_wide(where).tolist() == [False, True, False]
    points, share = patch_centers(where)
    assert share.shape == (3, 6)
    np.testing.assert_allclose(share @ points, where.xy_um, atol=1e-6)
