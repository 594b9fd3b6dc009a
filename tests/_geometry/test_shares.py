import numpy as np
import pytest
import shapely

from hisdiff._geometry._shares import shares
from hisdiff._section import Locations


def test_bins_are_shared_by_area():
    bins = Locations.bins(np.array([[0, 0], [0, 1], [1, 0], [5, 5]]), 10.0)
    targets = np.array([shapely.box(0, 0, 15, 10), shapely.box(5, 5, 10, 20), shapely.box(500, 500, 510, 510)])
    np.testing.assert_allclose(
        shares(targets, bins).toarray(), [[1, 0.5, 0, 0], [0.25, 0, 0.5, 0], [0, 0, 0, 0]], atol=1e-12
    )


def test_bins_at_the_corner_of_an_outline_with_a_hole_keep_their_mass():
    bins = Locations.bins(np.stack(np.divmod(np.arange(100), 10), axis=1), 10.0)
    hole = shapely.Point(40, 55).buffer(23)
    ring = shapely.box(0, 0, 100, 100) - hole
    found = shares(np.array([ring, hole]), bins)
    np.testing.assert_allclose(np.asarray(found.sum(axis=0)).ravel(), 1, rtol=1e-12)
    assert found[0].sum() * 100 == pytest.approx(ring.area, rel=1e-12)


def test_sources_may_be_larger_than_what_they_are_cut_by():
    disc = Locations(np.array([[50.0, 50.0]]), 40.0)
    left = shapely.box(0, 0, 50, 100)
    np.testing.assert_allclose(shares(np.array([left]), disc).toarray(), [[0.5]], rtol=1e-12)
