import numpy as np
from field_sections import field_section
from linear_sections import linear_section
from scipy.sparse import csr_matrix, diags

from hisdiff._section import Locations
from hisdiff._stats._accuracy import pearson
from hisdiff._training._spots import TrainingSpots


def halved(section, rows: np.ndarray):
    """Return a section in which some spots have half the area and every second count of it."""
    from dataclasses import replace

    share = np.where(rows, 0.5, 1.0)
    counts = csr_matrix(np.round((diags(share) @ section.counts).toarray()))
    radius = section.spots.radius_um * np.sqrt(share)
    return replace(section, counts=counts, spots=Locations(section.spots.xy_um, radius))


def test_small_footprints_are_brought_to_the_median_one_and_weigh_less() -> None:
    section = linear_section("A", 1, level=8.0)
    small = np.arange(len(section.spots)) % 4 == 0
    whole, part = (TrainingSpots.of([s]) for s in (section, halved(section, small)))
    np.testing.assert_allclose(part.measured, whole.measured, atol=0.1)
    np.testing.assert_allclose(part.area, np.where(small, 0.5, 1.0))
    np.testing.assert_allclose(part.weight, np.where(small, 0.5, 1.0))


def test_bins_are_learned_from_footprints_of_different_area() -> None:
    from hisdiff.methods.hisdiff.factor._local import fit_local

    sections = [field_section(name, seed) for name, seed in (("A", 1), ("B", 2), ("C", 3))]
    mixed = [halved(section, np.arange(len(section.spots)) % 3 == 0) for section in sections]
    plane = field_section("T", 7).dense
    x, y = np.meshgrid(np.arange(105, 605, 10), np.arange(105, 505, 10))
    truth = plane.rates(np.stack([x.ravel(), y.ravel()], axis=1))
    for cohort in (sections, mixed):
        spots = TrainingSpots.of(cohort)
        local = fit_local(spots, spots.targets * 0 + 5, n_components=3, linear=0.3, gammas=(0.6, 1.5), seed=0)
        seen = local.sees(plane).raster((100.0, 100.0, 600.0, 500.0), 10.0)
        found = local(seen.reshape(-1, seen.shape[2]))
        assert pearson(truth[:, :3], found[:, :3]).min() > 0.94
