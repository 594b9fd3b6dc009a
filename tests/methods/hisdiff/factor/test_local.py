import field_sections
import numpy as np
import pytest
from field_sections import field_section

from hisdiff._section import Locations
from hisdiff._stats._accuracy import pearson
from hisdiff._training._spots import TrainingSpots
from hisdiff.methods.hisdiff.factor._local import LocalRates, fit_local

BOX = (100.0, 100.0, 700.0, 600.0)
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
def truth() -> np.ndarray:
    """Return the true rates of bins of a section that was not trained on."""
    return field_section("T", 7).dense.rates(centers(BOX))


def centers(box: tuple[float, ...]) -> np.ndarray:
    x0, y0, x1, y1 = box
    x, y = np.meshgrid(np.arange(x0 + 5, x1, 10), np.arange(y0 + 5, y1, 10))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def rates_in(local: LocalRates, section, box: tuple[float, ...] = BOX) -> np.ndarray:
    seen = local.sees(section.dense).raster(box, 10.0)
    return local(seen.reshape(-1, seen.shape[2]))


def test_bins_are_learned_from_sums_over_footprints(local, truth) -> None:
    found = rates_in(local, field_section("T", 7))
    assert pearson(truth[:, :3], found[:, :3]).min() > 0.95
    # Also how far bins differ, which spots, being means over many bins, show less of.
    np.testing.assert_allclose(found[:, :3].std(axis=0), truth[:, :3].std(axis=0) / 60, rtol=0.2)


def test_what_does_not_vary_stays_near_the_mean(local) -> None:
    found = rates_in(local, field_section("T", 7))
    assert np.abs(found[:, 3] - 1).max() < 0.2


def test_rates_are_positive_however_far_from_the_training(local) -> None:
    far = np.random.default_rng(1).normal(0, 20, (100, 3 * len(local.windows_um))).astype(np.float32)
    assert (local(far) > 0).all()


def test_state_rebuilds_the_same_rates(local) -> None:
    section = field_section("T", 7)
    again = LocalRates.from_state(*local.state())
    np.testing.assert_array_equal(rates_in(again, section), rates_in(local, section))


class Slow(field_sections.Plane):
    """Fields that expression follows over a distance of some 18 um only."""

    def rates(self, xy_um: np.ndarray) -> np.ndarray:
        steps = np.arange(-32, 33, 16)
        offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        weights = np.exp(-np.square(offsets).sum(axis=1) / (2 * 18**2))
        up, down, _ = 2 * sum(w * self.values(xy_um + offset).T for w, offset in zip(weights / weights.sum(), offsets))
        relative = np.stack([1 + 0.6 * up, 1 - 0.6 * up, 1 + 0.4 * (up + down), np.ones_like(up)], axis=1)
        return 60 * np.maximum(relative, 0.05)


def test_rates_that_vary_slowly_follow_the_average_of_the_surroundings(local, monkeypatch) -> None:
    from hisdiff.methods.hisdiff.factor import _local

    monkeypatch.setattr(field_sections, "Plane", Slow)
    *sections, target = [field_section(name, seed) for name, seed in (("A", 1), ("B", 2), ("C", 3), ("T", 7))]
    found, truth = fitted(sections), target.dense.rates(centers(BOX))
    assert local.windows_um == (0.0,)  # where rates follow the place itself
    assert found.windows_um[-1] > 0
    monkeypatch.setattr(_local, "_WINDOW", 1e-9)
    alone = fitted(sections)
    apart = pearson(truth[:, :3], rates_in(found, target)[:, :3]) - pearson(
        truth[:, :3], rates_in(alone, target)[:, :3]
    )
    assert apart.min() > 0.03


def test_what_is_seen_of_a_place_depends_on_the_place_alone(local) -> None:
    from dataclasses import replace

    wide = replace(local, windows_um=(0.0, 20.0), landmarks=np.repeat(local.landmarks[:1], 2, axis=0))
    seen = wide.sees(field_section("T", 7).dense)
    whole, part = seen.raster(BOX, 10.0), seen.raster((200.0, 300.0, 240.0, 330.0), 10.0)
    np.testing.assert_allclose(part, whole[20:23, 10:14], rtol=1e-5, atol=1e-6)


def test_nothing_is_learned_where_a_section_has_no_dense_embedding() -> None:
    from dataclasses import replace

    sections = [field_section("A", 1), replace(field_section("B", 2), dense=None)]
    assert fitted(sections) is None


def test_outlines_serve_as_footprints(truth) -> None:
    from dataclasses import replace

    from hisdiff._geometry._grid import outlines

    def outlined(name: str, seed: int):
        section = field_section(name, seed)
        return replace(section, spots=Locations(section.spots.xy_um, np.asarray(outlines(section.spots))))

    found = fitted([outlined(n, s) for n, s in (("A", 1), ("B", 2), ("C", 3))])
    assert pearson(truth[:, :3], rates_in(found, field_section("T", 7))[:, :3]).min() > 0.95


def test_of_two_models_of_a_footprint_the_better_one_has_the_say(local) -> None:
    assert local.local_weight == 1.0  # beside a model of spots that tells nothing
    sections = [field_section(n, s) for n, s in (("A", 1), ("B", 2), ("C", 3))]
    assert (
        fitted(sections, lambda spots: spots.targets).local_weight == 0.0
    )  # beside one that knows the counts themselves
