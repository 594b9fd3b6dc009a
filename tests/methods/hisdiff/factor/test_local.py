import numpy as np
import pytest
from field_sections import field_section

from hisdiff._section import Locations
from hisdiff._stats._accuracy import pearson
from hisdiff._training._spots import TrainingSpots
from hisdiff.methods.hisdiff.factor._local import LocalRates, fit_local

OPTIONS = {"n_components": 3, "linear": 0.3, "gammas": (0.6, 1.5), "seed": 0}


def fitted(sections, of_spots=None) -> LocalRates | None:
    """Fit beside a model of spots that tells nothing, or what is given."""
    spots = TrainingSpots.of(sections)
    noise = np.random.default_rng(0).normal(5, 0.1, spots.targets.shape)
    return fit_local(spots, noise if of_spots is None else of_spots(spots), **OPTIONS)


@pytest.fixture(scope="module")
def local() -> LocalRates:
    found = fitted([field_section(n, s) for n, s in (("A", 1), ("B", 2), ("C", 3))])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def bins() -> tuple[np.ndarray, np.ndarray]:
    """Return features and rates of bins all over a section that was not trained on."""
    plane = field_section("T", 7).dense
    xy = np.random.default_rng(0).uniform(100, 1000, (3000, 2))
    return plane.values(xy).astype(np.float32), plane.rates(xy)


def test_bins_are_learned_from_sums_over_footprints(local, bins) -> None:
    vectors, truth = bins
    found = local(field_section("T", 7).dense, vectors)
    assert pearson(truth[:, :3], found[:, :3]).min() > 0.95
    # Also how far bins differ, which spots, being means over many bins, show less of.
    np.testing.assert_allclose(found[:, :3].std(axis=0), truth[:, :3].std(axis=0) / 60, rtol=0.2)


def test_what_does_not_vary_stays_near_the_mean(local, bins) -> None:
    found = local(field_section("T", 7).dense, bins[0])
    assert np.abs(found[:, 3] - 1).max() < 0.2


def test_rates_are_positive_however_far_from_the_training(local) -> None:
    far = np.random.default_rng(1).normal(0, 20, (100, 3)).astype(np.float32)
    assert (local(field_section("T", 7).dense, far) > 0).all()


def test_state_rebuilds_the_same_rates(local, bins) -> None:
    dense = field_section("T", 7).dense
    again = LocalRates.from_state(*local.state())
    np.testing.assert_array_equal(again(dense, bins[0]), local(dense, bins[0]))


def test_nothing_is_learned_where_a_section_has_no_dense_embedding() -> None:
    from dataclasses import replace

    sections = [field_section("A", 1), replace(field_section("B", 2), dense=None)]
    assert fitted(sections) is None


def test_outlines_serve_as_footprints(bins) -> None:
    from dataclasses import replace

    from hisdiff._geometry._grid import outlines

    def outlined(name: str, seed: int):
        section = field_section(name, seed)
        return replace(section, spots=Locations(section.spots.xy_um, np.asarray(outlines(section.spots))))

    found = fitted([outlined(n, s) for n, s in (("A", 1), ("B", 2), ("C", 3))])
    assert pearson(bins[1][:, :3], found(field_section("T", 7).dense, bins[0])[:, :3]).min() > 0.95


def test_of_two_models_of_a_footprint_the_better_one_has_the_say(local) -> None:
    assert local.local_weight == 1.0  # beside a model of spots that tells nothing
    sections = [field_section(n, s) for n, s in (("A", 1), ("B", 2), ("C", 3))]
    assert (
        fitted(sections, lambda spots: spots.targets).local_weight == 0.0
    )  # beside one that knows the counts themselves
