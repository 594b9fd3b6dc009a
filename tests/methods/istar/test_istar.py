from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hisdiff._prediction._superpixels import Footprints, Inputs, disc, inside
from hisdiff._section import FeatureSpec, Locations, Section
from hisdiff._stats._accuracy import pearson
from hisdiff._training._loop import generator_for
from hisdiff.methods._registry import get as method
from hisdiff.methods.istar import FittedIStar, IStar, IStarConfig
from hisdiff.methods.istar._network import Ensemble, FootprintLoss, Superpixels

GENES = np.array([f"G{i}" for i in range(6)])
D = 8
QUICK = IStarConfig(max_steps=150, width=32, n_members=3)


class Waves:
    """A dense embedding of smooth functions of the place; ``shift`` and ``scale`` stand for another stain."""

    spec = FeatureSpec("waves", "1", D, 0.5, 16.0)

    def __init__(self, shift: float = 0.0, scale: float = 1.0) -> None:
        self.shift, self.scale = shift, scale
        self.mean, self.std = np.full(D, shift, np.float32), np.full(D, scale * 0.7, np.float32)

    def at(self, xy: np.ndarray) -> np.ndarray:
        k = np.arange(1, D + 1)
        waves = np.sin(xy[..., :1] * k / 90 + k) * np.cos(xy[..., 1:] * k / 110)
        return (self.shift + self.scale * waves).astype(np.float32)

    def raster(self, box_um, resolution_um) -> np.ndarray:
        x0, y0, x1, y1 = box_um
        x = np.arange(round((x1 - x0) / resolution_um)) + 0.5
        y = np.arange(round((y1 - y0) / resolution_um)) + 0.5
        return self.at(np.stack(np.meshgrid(x0 + x * resolution_um, y0 + y * resolution_um), axis=-1))


class Frame:
    """An image that is only asked for its extent."""

    mpp = 0.5

    def __init__(self, side_um: float) -> None:
        self.bounds_um = (0.0, 0.0, side_um, side_um)


def rates(xy: np.ndarray) -> np.ndarray:
    """Counts per spot of radius 25 um; the last gene is the same everywhere."""
    plain = Waves().at(xy)
    mixed = plain @ np.random.default_rng(5).normal(size=(D, len(GENES)))
    mixed[..., -1] = 0
    return 40 * np.exp(mixed)


def section(name: str = "A", seed: int = 0, *, size_factor: float = 1.0, dense=None, side: int = 9) -> Section:
    rng = np.random.default_rng(seed)
    row, col = (a.ravel() for a in np.mgrid[:side, :side])
    xy = np.stack([col, row], axis=1) * 100.0 + rng.uniform(40, 60, 2) + 13.0 * seed
    footprints = Footprints.of(Locations(xy, 25.0), 8.0)
    mean = footprints.share @ rates((footprints.ij[:, ::-1] + 0.5) * 8)
    counts = csr_matrix(rng.poisson(mean * size_factor).astype(np.float32))
    made = Section(name, GENES, counts, Locations(xy, 25.0), Frame(side * 100.0 + 200), dense=dense or Waves())
    return made.with_panel(GENES)


@pytest.fixture(scope="module")
def fitted() -> FittedIStar:
    return IStar().fit([section()], QUICK, progress=False)


def test_parameters_are_as_published():
    one = Ensemble(1, 579, 256, 1000)
    assert sum(p.numel() for p in one.parameters()) == 602_856


def test_a_member_is_the_network_of_its_formula():
    network = Ensemble(2, 5, 16, 3, seed=4)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for member in range(2):
        h = x
        for weight, bias in list(zip(network.weights, network.biases))[:-1]:
            h = torch.nn.functional.leaky_relu(h @ weight[member] + bias[member], 0.1)
        out = torch.nn.functional.elu(h @ network.weights[-1][member] + network.biases[-1][member], 0.01) + 0.01
        torch.testing.assert_close(network(x)[member], out)
    assert (network(100 * x) > 0).all()


def test_member_k_starts_from_seed_plus_k():
    two, other = Ensemble(2, 5, 16, 3, seed=4), Ensemble(1, 5, 16, 3, seed=5)
    for weight, alone in zip(two.weights, other.weights):
        torch.testing.assert_close(weight[1:], alone.data)


def test_published_discs():
    assert len(disc(3.4375)) == 37
    assert np.ptp(disc(3.4375), axis=0).tolist() == [6, 6]
    assert len(disc(6.25)) == 121
    visium = Footprints.of(Locations(np.array([[400.0, 240.0]]), 27.5), 8.0, whole_discs=True)
    assert visium.ij.mean(axis=0).tolist() == [30.0, 50.0]
    np.testing.assert_allclose(visium.share.data, 1 / 37)


def test_footprints_by_area_add_up_to_the_disc():
    spots = Locations(np.array([[403.0, 245.5], [431.0, 250.0]]), 27.5)
    footprints = Footprints.of(spots, 8.0)
    bins, share = footprints.padded()
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-6)
    middle = (footprints.ij[bins][..., ::-1] + 0.5) * 8
    np.testing.assert_allclose((share[..., None] * middle).sum(axis=1), spots.xy_um, atol=0.1)
    full = share[0].max()
    assert full * np.pi * 27.5**2 == pytest.approx(64, rel=2e-3)


def test_spots_over_the_edge_of_the_image_are_left_out_with_a_warning(caplog):
    whole = section()
    cut = replace(whole, image=Frame(820.0))
    kept = inside(cut.spots, cut.image)
    assert 0 < kept.sum() < len(kept)
    fitted = IStar().fit([cut], replace(QUICK, max_steps=2), progress=False)
    assert f"{(~kept).sum()} of 81 spots of 'A' reach over the edge" in caplog.text
    assert np.isfinite(fitted.predict(cut, cut.spots, n_draws=2).mean).all()
    with pytest.raises(ValueError, match="at least 2 spots"):
        IStar().fit([replace(whole, image=Frame(50.0))], QUICK, progress=False)


def test_sums_over_footprints_estimate_the_counts_of_spots(fitted):
    train = section()
    told = fitted.predict(train, train.spots, n_draws=16, units="counts")
    assert told.n_draws == fitted.network.n_members < 16
    assert pearson(np.log2(1 + train.counts.toarray()), np.log2(1 + told.mean))[:-1].min() > 0.8
    # The sum rule: superpixels, each with its share of a footprint, add up to what is said of the spot.
    footprints = Footprints.of(train.spots, 8.0)
    field = fitted.field(train, n_draws=16)
    bins = Locations.bins(footprints.ij, 8.0)
    summed = np.stack([footprints.share @ draw for draw in field.draws(bins)])
    np.testing.assert_allclose(np.median(summed, axis=0), told.mean, rtol=1e-3, atol=1e-3)


def test_superpixels_follow_the_truth_between_and_inside_spots(fitted):
    ij = np.stack(np.mgrid[8:100, 8:100], axis=-1).reshape(-1, 2)
    bins = Locations.bins(ij, 8.0)
    field = fitted.field(section(), n_draws=3)
    assert field.n_draws == 3
    mean = np.median(np.stack(list(field.draws(bins))), axis=0)
    assert pearson(np.log(rates(bins.xy_um)), np.log(mean + 0.1))[:-1].mean() > 0.7


def test_new_sections_with_another_stain_and_no_counts_are_predicted(fitted):
    new = section("B", 3, dense=Waves(shift=5.0, scale=2.0))
    bare = replace(new, counts=None, library_size=None)
    told = fitted.predict(bare, bare.spots, n_draws=3, keep_draws=2)
    assert pearson(np.log2(1 + new.counts.toarray()), told.mean)[:-1].min() > 0.6
    assert told.draws.shape == (2, 81, 6)
    assert (told.std > 0).all()


def test_bins_do_not_depend_on_which_are_asked_for_together_nor_do_coarse_ones_on_their_size(fitted):
    field = fitted.field(section(), n_draws=2)
    ij = np.stack(np.mgrid[0:30, 0:20], axis=-1).reshape(-1, 2)
    whole = next(field.draws(Locations.bins(ij, 8.0)))
    some = next(field.draws(Locations.bins(ij[::7], 8.0)))
    np.testing.assert_allclose(whole[::7], some, rtol=1e-4, atol=1e-4)
    coarse = next(field.draws(Locations.bins(np.array([[0, 0], [2, 1]]), 32.0)))
    block = whole.reshape(30, 20, -1)
    np.testing.assert_allclose(coarse[0], block[0:4, 0:4].mean(axis=(0, 1)), rtol=1e-3)
    np.testing.assert_allclose(coarse[1], block[8:12, 4:8].mean(axis=(0, 1)), rtol=1e-3)
    assert list(next(field.draws(Locations.bins(np.empty((0, 2), int), 8.0))).shape) == [0, 6]


def test_sections_of_different_library_size_are_brought_to_one(fitted):
    deep, shallow = section("A", 0), section("B", 1, size_factor=0.25)
    both = IStar().fit([deep, shallow], QUICK, progress=False)
    assert both.log2_size == pytest.approx((deep.log2_size + shallow.log2_size) / 2)
    for one in (deep, shallow):
        told = both.predict(one, one.spots, n_draws=3, units="counts")
        assert told.mean.sum() == pytest.approx(one.counts.sum(), rel=0.15)
    asked = both.predict(deep, deep.spots, n_draws=3, units="counts", library_size=2 * deep.library_size)
    np.testing.assert_allclose(
        asked.mean, 2 * both.predict(deep, deep.spots, n_draws=3, units="counts").mean, rtol=1e-5
    )


def test_the_loss_of_one_batch_falls_steadily():
    train = section()
    bins, share = (torch.from_numpy(a) for a in Footprints.of(train.spots, 8.0).padded())
    ij = Footprints.of(train.spots, 8.0).ij
    counts = torch.from_numpy(train.counts.toarray())
    batch = {"bins": bins[:64], "share": share[:64], "target": (counts / counts.amax(0))[:64]}
    module = FootprintLoss(Ensemble(2, D, 32, 6), Superpixels(Waves().at((ij[:, ::-1] + 0.5) * 8)), None)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = module.loss(batch, generator_for(0, 0)).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert (np.diff(losses) < 1e-4).all()
    assert losses[-1] < losses[0] / 2


def test_a_sample_of_a_footprint_is_right_on_average():
    train = section()
    bins, share = (torch.from_numpy(a[:2]) for a in Footprints.of(train.spots, 8.0).padded())
    picked = torch.multinomial(share, 40_000, replacement=True, generator=generator_for(0, 0))
    for spot in range(2):
        found = torch.bincount(picked[spot], minlength=share.shape[1]) / 40_000
        np.testing.assert_allclose(found, share[spot], atol=3e-3)


def test_the_order_of_members_changes_nothing(fitted):
    train = section()
    before = fitted.predict(train, train.spots, n_draws=3)
    arrays, settings = fitted.state()
    turned = {n: a[::-1].copy() if n.startswith("network.") else a for n, a in arrays.items()}
    after = FittedIStar.from_state(turned, settings, GENES).predict(train, train.spots, n_draws=3)
    np.testing.assert_allclose(after.mean, before.mean, rtol=1e-5)
    np.testing.assert_allclose(after.std, before.std, rtol=1e-3, atol=1e-5)


def test_the_same_seed_fits_the_same_and_state_rebuilds_it(fitted):
    again = IStar().fit([section()], QUICK, progress=False)
    arrays, settings = again.state()
    for name, array in fitted.state()[0].items():
        np.testing.assert_array_equal(array, arrays[name])
    rebuilt = FittedIStar.from_state(arrays, settings, GENES)
    train = section()
    np.testing.assert_array_equal(
        rebuilt.predict(train, train.spots, n_draws=2).mean, fitted.predict(train, train.spots, n_draws=2).mean
    )


def test_reference_compat_uses_raw_embeddings_whole_discs_and_raw_counts():
    config = IStarConfig.from_dict({"preset": "paper", "reference_compat": True, "max_steps": 16, "n_members": 2})
    shallow = section("B", 1, size_factor=0.25)
    both = IStar().fit([section(), shallow], config, progress=False)
    assert not both.inputs.standardize
    assert both.inputs.axes is None
    every = np.concatenate([section().counts.toarray(), shallow.counts.toarray()])
    np.testing.assert_allclose(both.low + both.span, every.max(axis=0), rtol=1e-6)
    assert np.isfinite(both.predict(shallow, shallow.spots, n_draws=2).mean).all()


def test_validation_sections_tell_how_good_it_is():
    watched = IStar().fit([section()], QUICK, validation=[section("V", 2)], progress=False)
    assert watched.calibration.cv_pcc[:-1].min() > 0.5
    assert watched.calibration.interval_factor.shape == (6,)


def test_a_section_without_a_dense_embedding_is_refused(fitted):
    bare = replace(section(), dense=None)
    for call in (
        lambda: IStar().fit([bare], QUICK),
        lambda: fitted.predict(bare, bare.spots, n_draws=1),
        lambda: fitted.field(bare, n_draws=1),
    ):
        with pytest.raises(ValueError, match="dense embedding.*'A'"):
            call()


def test_principal_components_are_of_unit_variance_and_flat_columns_are_harmless():
    values = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32) * [1, 2, 3, 4, 0]
    inputs = Inputs.fit([values], 3, standardize=True)
    np.testing.assert_allclose(inputs.projected(values).std(axis=0), 1, rtol=0.01)
    flat = Inputs.fit([np.ones((9, 4), np.float32)], 3, standardize=True)
    assert np.isfinite(flat.projected(np.ones((2, 4), np.float32))).all()


def test_config_survives_a_round_trip_and_names_what_is_wrong():
    config = IStarConfig.preset("paper")
    assert IStarConfig.from_dict(config.to_dict()) == config
    assert config.for_spots(4000).batch_size == 128
    assert config.for_spots(181).batch_size == 11
    assert config.for_spots(181).steps(181) == 400 * 17
    for options, error, message in (
        ({"n_member": 1}, ValueError, r"'n_member'.*Did you mean 'n_members'"),
        ({"n_members": 0}, ValueError, "n_members"),
        ({"width": 1.5}, TypeError, "width"),
        ({"precision": "half"}, ValueError, "precision"),
        ({"preset": "slow"}, ValueError, "slow"),
        ({"patience": 3}, ValueError, "'patience'"),  # nothing is held out while it trains
    ):
        with pytest.raises(error, match=message):
            IStarConfig.from_dict(options)


def test_is_found_by_name():
    assert isinstance(method("istar"), IStar)
