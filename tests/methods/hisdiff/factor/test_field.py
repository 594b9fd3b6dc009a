from dataclasses import replace

import numpy as np
import pytest
from field_sections import RADIUS_UM, Plane, field_section

from hisdiff import _cores
from hisdiff._geometry._grid import bins_within, overlap
from hisdiff._section import Locations
from hisdiff._stats._accuracy import pearson
from hisdiff.methods.hisdiff import FactorConfig, HisDiff
from hisdiff.methods.hisdiff.factor import _nodes
from hisdiff.methods.hisdiff.factor._field import TwoScaleField
from hisdiff.tl import _fine, _tiles

TINY = FactorConfig(
    n_components=3, gammas=(0.6,), penalties=(1.0, 10.0), n_factors=2, n_condition=2, n_members=2, width=16, depth=1,
    max_steps=20, validate_every=10, batch_size=64, n_steps=3,
)  # fmt: skip
BIN_UM = 10.0


@pytest.fixture(scope="module")
def fitted():
    return HisDiff().fit([field_section(n, s) for n, s in (("A", 1), ("B", 2), ("C", 3))], TINY, device="cpu")


@pytest.fixture(scope="module")
def target():
    return field_section("T", 7)


@pytest.fixture(scope="module")
def bins(target) -> Locations:
    return Locations.bins(bins_within(target.tissue, BIN_UM), BIN_UM)


def field(fitted, section, **options) -> TwoScaleField:
    made = fitted.field(section, **{"n_draws": 2, "device": "cpu", **options})
    assert isinstance(made, TwoScaleField)
    return made


def test_bins_follow_the_truth_inside_spots(fitted, target, bins) -> None:
    truth = target.dense.rates(bins.xy_um)
    found = field(fitted, target).mean(bins)
    assert pearson(truth[:, :3], found[:, :3]).min() > 0.85
    spot = np.hypot(*(bins.xy_um - target.spots.xy_um[44]).T) < RADIUS_UM
    assert pearson(truth[spot][:, :3], found[spot][:, :3]).min() > 0.85


def test_means_over_footprints_are_what_the_model_of_spots_says(fitted, target, bins) -> None:
    share = overlap(target.spots, bins.array_ij, BIN_UM) * BIN_UM**2 / (np.pi * RADIUS_UM**2)
    at_spots = fitted.predict(target, target.spots, n_draws=64, units="counts", device="cpu").mean
    np.testing.assert_allclose(
        (share @ field(fitted, target).mean(bins)).mean(axis=0), at_spots.mean(axis=0), rtol=0.08
    )


def test_a_bin_does_not_depend_on_which_others_are_asked_for(fitted, target, bins) -> None:
    some = bins.take(np.flatnonzero(np.hypot(*(bins.xy_um - 520).T) < 90))
    where = np.flatnonzero(np.hypot(*(bins.xy_um - 520).T) < 90)
    whole, part = field(fitted, target), field(fitted, target)
    np.testing.assert_allclose(part.mean(some), whole.mean(bins)[where], rtol=1e-4)
    for a, b in zip(part.draws(some), whole.draws(bins)):
        np.testing.assert_allclose(a, b[where], rtol=1e-4)


def test_draws_vary_smoothly_in_space_and_differ_between_seeds(fitted, target, bins) -> None:
    mean = field(fitted, target).mean(bins)
    one, other = (next(field(fitted, target, seed=seed).draws(bins)) for seed in (0, 1))
    apart = np.log2(one[:, 0]) - np.log2(mean[:, 0])
    index = {tuple(ij): k for k, ij in enumerate(bins.array_ij.tolist())}
    shifted = lambda step: np.array([index.get((i, j + step), -1) for i, j in bins.array_ij.tolist()])  # noqa: E731
    correlation = {s: np.corrcoef(apart[shifted(s) >= 0], apart[shifted(s)[shifted(s) >= 0]])[0, 1] for s in (1, 30)}
    assert correlation[1] > 0.6
    assert abs(correlation[30]) < 0.3
    assert np.abs(one - other).max() > 1


def test_draws_average_to_the_mean(fitted, target, bins) -> None:
    made = field(fitted, target, n_draws=40)
    some = bins.take(np.arange(0, len(bins), 7))
    drawn = np.mean(list(made.draws(some)), axis=0)
    np.testing.assert_allclose(drawn.mean(axis=0), made.mean(some).mean(axis=0), rtol=0.1)


def test_bins_larger_than_the_local_scale_are_means_of_smaller_ones(fitted, target, bins) -> None:
    large = Locations.bins(np.array([[10, 10], [12, 9]]), 40.0)
    parts = [
        Locations.bins(ij * 4 + np.array([[i, j] for i in range(4) for j in range(4)]), 10.0) for ij in large.array_ij
    ]
    made = field(fitted, target)
    expected = np.stack([made.mean(part).mean(axis=0) for part in parts])
    np.testing.assert_allclose(made.mean(large), expected, rtol=0.15)


def test_without_a_dense_model_every_bin_is_predicted_like_a_spot(target) -> None:
    from dataclasses import replace

    from hisdiff._prediction._field import PatchField

    plain = HisDiff().fit([field_section("A", 1), field_section("B", 2)], replace(TINY, fine=False), device="cpu")
    assert isinstance(plain.field(target, n_draws=2, device="cpu"), PatchField)


def test_a_rebuilt_model_gives_the_same_bins(fitted, target, bins) -> None:
    from hisdiff.methods.hisdiff import FittedHisDiff

    again = FittedHisDiff.from_state(*fitted.state(), fitted.genes)
    some = bins.take(slice(0, 50))
    np.testing.assert_array_equal(field(again, target).mean(some), field(fitted, target).mean(some))


@pytest.mark.slow
def test_spread_finer_than_spots_is_that_of_many_draws_and_no_seed_changes_it():
    import hisdiff as hd

    training = hd.datasets.toy(seed=3, n_sections=2, size_um=600, n_genes=60)
    model = hd.tl.fit(training, config={"max_steps": 5, "validate_every": 5})
    test = hd.datasets.toy(seed=4, size_um=600, n_genes=60)
    at = {"at": "toy", "calibrate": "none"}, {"at": "toy"}
    for how in ({"resolution_um": 50}, {"resolution_um": 50, "units": "log2"}, *at):
        ask = {**how, "inplace": False}
        many = hd.tl.predict(test, model, n_draws=24, keep_draws=24, rng=1, **ask)
        other = hd.tl.predict(test, model, rng=2, **ask)
        np.testing.assert_allclose(many.layers["std"], other.layers["std"], rtol=1e-4)
        drawn = np.stack([many.layers[f"draw{i}"] for i in range(24)])
        ratio = np.asarray(many.layers["std"]).mean(axis=0) / drawn.std(axis=0, ddof=1).mean(axis=0)
        assert np.median(ratio) == pytest.approx(1, abs=0.25), how  # draws of counts have wide tails
        assert ("hisdiff_uncertainty" in many.obs) == ("at" not in how)
        assert many.uns["hisdiff"]["predictions"]["hisdiff"]["std_error"] == 0


def test_a_spread_that_comes_from_draws_says_how_uncertain_it_is():
    import hisdiff as hd

    sdata = hd.datasets.toy(size_um=400, n_genes=60)
    model = hd.tl.fit(sdata, method="ridge")
    for calibrate, expected in (("none", 0), ("shrink", 1 / np.sqrt(2 * 3))):
        made = hd.tl.predict(sdata, model, resolution_um=100, calibrate=calibrate, n_draws=4, inplace=False)
        (record,) = made.uns["hisdiff"]["predictions"].values()
        assert record["std_error"] == pytest.approx(expected)


def test_bins_larger_than_the_spots_inside_them_follow_counts_exactly_and_have_a_spread(fitted, target) -> None:
    small = replace(target, spots=target.spots.scaled(0.05))
    for size_um in (10.0, 250.0):
        bins = Locations.bins(bins_within(target.tissue, size_um), size_um)
        predictor = _fine.fine_predictor(
            small, field(fitted, small), size_um, calibrate="exact", units="counts", keep_draws=1, seed=0
        )
        assert np.isfinite(predictor.bins(bins.array_ij).std).all()


class Thorough(Plane):
    """A plane whose features several threads may ask for; it counts the places that were."""

    reentrant = True

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.asked: list[np.ndarray] = []

    def at(self, locations: Locations) -> np.ndarray:
        self.asked.append(locations.xy_um)
        return super().at(locations)


def test_bytes_do_not_depend_on_cores_nor_on_where_a_run_was_stopped_and_no_node_is_computed_twice(
    fitted, target, bins, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(_fine, "_TILE_VALUES", 1.0)
    monkeypatch.setattr(_nodes, "_SIDE", 4)
    monkeypatch.setattr(_tiles, "_BAND", 2)

    def predicted(cores: int, folder=None, stop_after=None) -> tuple[list[np.ndarray], np.ndarray]:
        monkeypatch.setattr(_cores, "cpu_share", lambda: cores)
        plane = Thorough(7)
        section = replace(target, features=plane, dense=plane)
        made = field(fitted, section)
        how = {"calibrate": "shrink", "units": "counts", "keep_draws": 1, "seed": 0, "of_shapes": False}
        predictor = _fine.fine_predictor(section, made, BIN_UM, **how)
        if stop_after is not None:
            left = iter(range(stop_after))
            monkeypatch.setattr(predictor.field, "uncertainty", lambda bins: next(left) * np.ones(len(bins)))
        of = _fine.predict_bins(predictor, bins, folder, {}, show=False)
        nodes = np.concatenate([xy for xy in plane.asked if len(xy) != len(section.spots)])
        return [np.asarray(values) for values in (of.mean, of.std, of.draws[0])], nodes

    one, nodes = predicted(1)
    three, _ = predicted(3)
    for a, b in zip(one, three):
        np.testing.assert_array_equal(a, b)
    each, times = np.unique(np.round(nodes, 3), axis=0, return_counts=True)
    assert len(each) > 100
    assert (times == times[0]).all()
    with pytest.raises(RuntimeError):
        predicted(3, tmp_path / "run", stop_after=3)
    for a, b in zip(one, predicted(3, tmp_path / "run")[0]):
        np.testing.assert_array_equal(a, b)
