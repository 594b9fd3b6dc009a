import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hisdiff._section import Locations, Section
from hisdiff.methods._registry import get as method
from hisdiff.methods.stage import FittedStage, Stage, StageConfig
from hisdiff.methods.stage._network import StageNetwork, sliced_wasserstein

GENES = np.array([f"G{i}" for i in range(8)])


def make(name: str = "s", seed: int = 0, side: int = 9, z: float | None = None, size_factor: float = 1.0) -> Section:
    """Genes that rise and fall over the section in smooth waves, and as many that do the opposite: totals are even."""
    rng = np.random.default_rng(seed)
    xy = 150 + 100 * np.array([(i, j) for j in range(side) for i in range(side)], dtype=float)
    u, v = (xy / (100 * side)).T
    waves = np.column_stack([np.sin(3 * u + k) * np.cos(2 * v - k) for k in range(len(GENES) // 2)])
    rate = 200 * (1 + np.concatenate([waves, -waves], axis=1)) + 5
    counts = rng.poisson(size_factor * rate)
    spots = Locations(xy, 27.5, z_um=None if z is None else np.full(len(xy), z))
    return Section(name, GENES, csr_matrix(counts.astype(np.float32)), spots).with_panel(GENES)


QUICK = StageConfig(max_steps=150)


@pytest.fixture(scope="module")
def section() -> Section:
    return make()


@pytest.fixture(scope="module")
def fitted(section) -> FittedStage:
    return Stage().fit([section], QUICK, device="cpu", progress=False)


def test_sliced_wasserstein_of_a_cloud_with_itself_is_zero_and_of_a_shift_its_square_over_the_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(50, 3, generator=generator)
    assert sliced_wasserstein(u, u, 100, generator) == 0
    shift = torch.tensor([0.3, -0.4, 1.2])
    assert float(sliced_wasserstein(u, u + shift, 20_000, generator)) == pytest.approx(1.69 / 3, rel=0.03)


def test_permuting_a_batch_leaves_sliced_wasserstein_and_changes_the_distance_of_pairs() -> None:
    u, c = torch.rand(40, 2), torch.rand(40, 2)
    order = torch.randperm(40)
    first = sliced_wasserstein(u, c, 50, torch.Generator().manual_seed(1))
    second = sliced_wasserstein(u, c[order], 50, torch.Generator().manual_seed(1))
    torch.testing.assert_close(first, second)
    assert not torch.isclose((u - c).abs().mean(), (u - c[order]).abs().mean())


def test_parameter_counts_are_those_of_the_paper() -> None:
    network = StageNetwork(3000, 2, last_relu=True, decoder_only=False, n_directions=10)
    count = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    assert (count(network.encoder), count(network.decoder)) == (3_530_202, 3_533_200)


def test_the_loss_is_the_published_sum(section) -> None:
    torch.manual_seed(0)
    network = StageNetwork(8, 2, last_relu=False, decoder_only=False, n_directions=10)
    x, c = torch.rand(20, 8), torch.rand(20, 2)
    total, parts = network.loss({"x": x, "c": c}, torch.Generator().manual_seed(3))
    u = network.encoder(x)
    rest = network.decoder(u) - x
    latent = (u - c).abs().mean() + 0.1 * sliced_wasserstein(u, c, 10, torch.Generator().manual_seed(3))
    expected = 0.1 * latent + 0.1 * 0.1 * ((rest**2).mean() + 0.1 * rest.abs().mean())
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)
    assert set(parts) == {"latent", "reconstruction"}


def test_no_output_starts_dead_behind_its_relu() -> None:
    for seed in range(5):
        network = StageNetwork(8, 2, last_relu=True, decoder_only=False, n_directions=10)
        x, c = torch.rand(50, 8), torch.rand(50, 2)
        network.initialize(seed, x, c)
        assert (network.encoder(x) > 0).any(dim=0).all()
        assert (network.decoder(c) > 0).any(dim=0).all()


def test_coordinates_hidden_in_expression_are_found(fitted) -> None:
    # The waves tell the place; 150 steps bring spots to a fraction of the section's 800 um.
    assert fitted.position_error_um < 60
    assert fitted.history[-1]["latent"] < 0.3 * fitted.history[0]["latent"]


def test_coordinates_among_the_genes_are_read_off(section) -> None:
    # Two noiseless columns hold the place itself: the latent loss has nothing to stop at but the rate.
    c = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    network = StageNetwork(2, 2, last_relu=True, decoder_only=False, n_directions=20)
    network.initialize(0, c, c)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for step in range(120):
        optimizer.zero_grad()
        total, parts = network.loss({"x": c, "c": c}, torch.Generator().manual_seed(step))
        total.backward()
        optimizer.step()
        losses.append(parts["latent"].item())
    assert np.mean(losses[-20:]) < 0.1 * losses[0]


def test_held_out_spots_are_recovered_and_the_split_is_kept(section, fitted) -> None:
    known = fitted.frame.sections[0]
    assert known.trained.sum() == round(0.8 * 81)
    assert fitted.calibration.cv_pcc.mean() > 0.8
    assert fitted.history[-1]["held_out_pcc"] > 0.5
    prediction = fitted.predict(section, section.spots, n_draws=16, keep_draws=1)
    np.testing.assert_array_equal(prediction.obs["held_out"], ~known.trained)
    assert not prediction.obs["generated"].any()
    assert prediction.draws is None
    assert np.isnan(prediction.std).all()


def test_counts_are_those_of_the_median_spot(section, fitted) -> None:
    counts = fitted.predict(section, section.spots, n_draws=1, units="counts").mean
    assert np.median(counts.sum(axis=1)) == pytest.approx(section.library_size, rel=0.1)
    deeper = fitted.predict(
        section, section.spots, n_draws=1, units="counts", library_size=4 * section.library_size
    ).mean
    np.testing.assert_allclose(deeper, 4 * counts, rtol=1e-4)


def test_the_map_is_a_function_of_the_place_and_unknown_far_from_spots(section, fitted) -> None:
    field = fitted.field(section, n_draws=1, device="cpu")
    bins = Locations.bins(np.array([(i, j) for i in range(10, 20) for j in range(10, 20)]), 25.0)
    (whole,) = field.draws(bins)
    (part,) = field.draws(bins.take(np.arange(30, 40)))
    np.testing.assert_allclose(part, whole[30:40], rtol=1e-5)
    (far,) = field.draws(Locations.bins(np.array([[0, 100]]), 25.0))
    assert np.isnan(far).all()


def test_a_rebuilt_model_predicts_the_same(section, fitted) -> None:
    arrays, settings = fitted.state()
    again = FittedStage.from_state(arrays, settings, fitted.genes)
    for units in ("log2", "counts"):
        np.testing.assert_array_equal(
            again.predict(section, section.spots, n_draws=1, units=units).mean,
            fitted.predict(section, section.spots, n_draws=1, units=units).mean,
        )


def test_the_same_seed_trains_the_same_and_an_interrupted_run_goes_on_to_the_same(section, tmp_path) -> None:
    short = replace(QUICK, max_steps=6)
    first, second, other = (Stage().fit([section], short, seed=s, device="cpu").network for s in (0, 0, 1))
    for a, b in zip(first.parameters(), second.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(first.decoder[0].weight, other.decoder[0].weight)
    Stage().fit([section], replace(short, max_steps=3), device="cpu", checkpoint=tmp_path / "c")
    resumed = Stage().fit([section], short, device="cpu", checkpoint=tmp_path / "c", resume=True).network
    torch.testing.assert_close(resumed.decoder[0].weight, first.decoder[0].weight)


def test_nothing_of_a_section_changes() -> None:
    section = make()
    digest = lambda: hashlib.sha256(  # noqa: E731
        section.counts.data.tobytes() + section.counts.indices.tobytes() + section.spots.xy_um.tobytes()
    ).hexdigest()
    before = digest()
    Stage().fit([section], replace(QUICK, max_steps=2), device="cpu")
    assert digest() == before


def test_refuses_sections_it_does_not_know(section, fitted) -> None:
    for other, text in (
        (make("other"), "'other' is none of them"),
        (make("s", size_factor=0.5, seed=1), "'s' is none of them"),
    ):
        with pytest.raises(ValueError, match=text):
            fitted.predict(other, other.spots, n_draws=1)
    moved = replace(section, spots=Locations(section.spots.xy_um + 30, 27.5))
    with pytest.raises(ValueError, match="none of them"):
        fitted.field(moved, n_draws=1)
    # A part of the section, or the section without its counts, is still known.
    rows = np.arange(20, 60)
    cropped = Section("s", GENES, section.counts[rows], section.spots.take(rows)).with_panel(GENES)
    bare = Section("s", GENES, None, section.spots)
    whole = fitted.predict(section, section.spots, n_draws=1).mean
    np.testing.assert_allclose(fitted.predict(cropped, cropped.spots, n_draws=1).mean, whole[rows], rtol=1e-5)
    np.testing.assert_allclose(fitted.predict(bare, bare.spots, n_draws=1).mean, whole, rtol=1e-5)


def test_a_stack_needs_heights_and_is_then_one_map_in_three_dimensions() -> None:
    stack = [make("a", 0), make("b", 1)]
    with pytest.raises(ValueError, match="section_spacing_um"):
        Stage().fit(stack, QUICK)
    for sections, config in (
        (stack, replace(QUICK, max_steps=20, section_spacing_um=10.0)),
        ([make("a", 0, z=0.0), make("b", 1, z=10.0)], replace(QUICK, max_steps=20)),
    ):
        fitted = Stage().fit(sections, config, device="cpu")
        assert fitted.frame.n_dims == 3
        np.testing.assert_allclose([k.z_um for k in fitted.frame.sections], [0, 10])
        between = replace(stack[0].spots, z_um=np.full(81, 5.0))
        new = fitted.predict(sections[0], between, n_draws=1).mean
        own = fitted.predict(sections[0], sections[0].spots, n_draws=1).mean
        assert np.isfinite(new).all()
        assert not np.allclose(new, own)


def test_refuses_what_it_cannot_fit(section) -> None:
    empty = Section("empty", GENES, csr_matrix((9, 8), dtype=np.float32), Locations(np.eye(9)[:, :2] * 100, 27.5))
    with pytest.raises(ValueError, match="'empty' has 0"):
        Stage().fit([empty], QUICK)
    with pytest.raises(ValueError, match="validation= has no effect"):
        Stage().fit([section], QUICK, validation=[section])


def test_decoder_alone_and_open_ends_are_options(section) -> None:
    config = replace(QUICK, max_steps=20, decoder_only=True, last_relu=False, train_fraction=1.0)
    fitted = Stage().fit([section], config, device="cpu")
    assert fitted.calibration is None
    assert fitted.position_error_um == 0
    assert fitted.predict(section, section.spots, n_draws=1).mean.min() >= 0


def test_configuration() -> None:
    assert StageConfig.from_dict(StageConfig(max_steps=3).to_dict()).max_steps == 3
    for options, error, text in (
        ({"max_epoch": 3}, ValueError, "Did you mean 'max_epochs'"),
        ({"train_fraction": 1.2}, ValueError, "train_fraction"),
        ({"batch_size": 1}, ValueError, "at least 3"),
        ({"last_relu": 1}, TypeError, "last_relu"),
        ({"section_spacing_um": -1}, ValueError, "section_spacing_um"),
    ):
        with pytest.raises(error, match=text):
            StageConfig.from_dict(options)
    assert isinstance(method("stage"), Stage)
