from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

import hisdiff as hd
from hisdiff._device import Products
from hisdiff._diffusion._gaussian import GaussianDiffusion
from hisdiff._diffusion._samplers import denoiser
from hisdiff._diffusion._schedule import linear_betas
from hisdiff._nn._initialize import initialize
from hisdiff._section import FeatureSpec, Locations, Section, library_size_of
from hisdiff._training._loop import generator_for
from hisdiff.methods.hisdiff import FittedHisDiff, GeneConfig, HisDiff
from hisdiff.methods.hisdiff.gene import _model as _gene_model
from hisdiff.methods.hisdiff.gene._loss import Anchors, GeneLoss, thin
from hisdiff.methods.hisdiff.gene._model import GeneModel, GeneNetwork, Sizes, rescaled
from hisdiff.methods.hisdiff.gene._scale import OCTAVES, GeneScale, counts_at

G, D = 6, 5
TINY = {
    "width": 16, "depth": 1, "heads": 2, "n_steps": 4, "max_steps": 6, "validate_every": 3, "batch_size": 16, "warmup": 0,
}  # fmt: skip


class Features:
    """Embeddings that are a function of the place."""

    def __init__(self, dim: int = D) -> None:
        self.spec = FeatureSpec("test", "1", dim, 0.5, 112.0)
        self.mean, self.std = np.zeros(dim, np.float32), np.ones(dim, np.float32)

    def at(self, locations: Locations) -> np.ndarray:
        phase = locations.xy_um[:, :1] / 150 + locations.xy_um[:, 1:] / 230
        return np.sin(phase + np.arange(self.spec.dim)).astype(np.float32)


def section(name: str = "s", *, side: int = 5, seed: int = 0, size_factor: float = 1.0, dim: int = D) -> Section:
    """Spots at 100 um whose counts follow the first value of the embedding."""
    xy = 100.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    spots, features = Locations(xy, 25.0), Features(dim)
    sign = np.where(np.arange(G) % 2, -1, 1)
    rate = 20 * size_factor * np.exp(1.2 * sign * features.at(spots)[:, :1])
    counts = sparse.csr_matrix(np.random.default_rng(seed).poisson(rate).astype(np.float32))
    genes = np.array([f"gene{i}" for i in range(G)])
    return Section(name, genes, counts, spots, features=features, library_size=library_size_of(counts))


def config(preset: str = "dit", **options) -> GeneConfig:
    """The network that learns all of expression; around the mean, see test_around.py."""
    form = {"around": None, "genes_per_token": 1, "sampler": "dpm++2m"} if preset == "dit" else {}
    return GeneConfig.from_dict({"preset": preset, **TINY, **form, **options})


def random_model(settings: GeneConfig, *, seed: int = 0, dim: int = D) -> GeneModel:
    """A network with random weights everywhere, so that nothing is zero."""
    sizes = Sizes.of(settings, G, dim)
    network = initialize(GeneNetwork.of(settings, sizes), generator_for(seed, -1))
    for k, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=generator_for(seed, k))
    s = section()
    scale = GeneScale.identity(dim, G)
    if settings.standardize:
        scale = GeneScale.fit(s.features.at(s.spots), s.counts.toarray(), np.full(25, s.log2_size))
    return GeneModel(settings, sizes, network, scale, log2_size=s.log2_size, pitch_um=100.0)


def draws_of(model: GeneModel, s: Section, locations: Locations | None = None, **options) -> np.ndarray:
    asked = {
        "log2_size": s.log2_size,
        "n_draws": 2,
        "n_steps": 4,
        "seed": 0,
        "device": "cpu",
        **options,
    }
    return np.stack(list(model.draws(s, locations or s.spots, **asked)))


def fit(sections, settings, **options) -> FittedHisDiff:
    return HisDiff().fit(sections, settings, device="cpu", progress=False, **options)


KINDS = [("dit", {}), ("paper", {}), ("dit", {"sampler": "heun", "genes_per_token": 4}), ("dit", {"sampler": "ddpm"})]


# ------------------------------------------------------------------------------------------------ draws


@pytest.mark.parametrize(("preset", "options"), KINDS)
def test_draws_follow_the_seed_and_nothing_else(preset, options, monkeypatch):
    model, s = random_model(config(preset, **options)), section()
    draws = draws_of(model, s)
    assert draws.shape == (2, 25, G)
    assert np.isfinite(draws).all()
    np.testing.assert_array_equal(draws_of(model, s), draws)
    np.testing.assert_array_equal(draws_of(model, s, n_draws=1), draws[:1])
    assert np.abs(draws_of(model, s, seed=1) - draws).max() > 0.1
    assert np.abs(draws[0] - draws[1]).max() > 0.1
    monkeypatch.setattr(_gene_model, "_CHUNK_VALUES", 7 * G * TINY["width"])
    monkeypatch.setattr(_gene_model, "_CONTEXT_ROWS", 4)
    np.testing.assert_allclose(draws_of(model, s), draws, atol=1e-4)


def test_where_memory_runs_out_fewer_locations_give_the_same_draws(monkeypatch, caplog):
    model, s = random_model(config()), section()
    whole = draws_of(model, s)
    sample = GeneModel._sample

    def little_memory(self, *args):
        if len(args[-1]) > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return sample(self, *args)

    monkeypatch.setattr(GeneModel, "_sample", little_memory)
    with caplog.at_level("WARNING", logger="hisdiff"):
        np.testing.assert_allclose(draws_of(model, s), whole, atol=1e-4)
    assert caplog.text.count("out of memory on the device") == 2  # 25, 13, 7: and the second draw knows


def test_draws_that_overflow_in_fp16_are_made_in_float32(monkeypatch, caplog):
    model, s = random_model(config(precision="fp16")), section()
    whole = draws_of(model, s)
    assert "'fp16': cpu does not multiply in it" in caplog.text
    monkeypatch.setattr(Products, "of", lambda precision, device, **options: Products(device, torch.float16))
    overflowing = lambda *args, autocast: denoiser(*args) if autocast is None else lambda x, t: x + torch.inf  # noqa: E731
    monkeypatch.setattr(_gene_model, "denoiser", overflowing)
    np.testing.assert_array_equal(draws_of(model, s), whole)
    assert caplog.text.count("draws overflow in fp16; going on in float32") == 1


def test_the_image_decides(monkeypatch):
    model, s = random_model(config()), section()
    other = replace(s, features=SimpleNamespace(**vars(Features()), at=lambda locations: -Features().at(locations)))
    assert np.abs(draws_of(model, other) - draws_of(model, s)).max() > 1e-3


def test_the_conditioner_is_asked_once_for_all_draws_and_steps(monkeypatch):
    model, s = random_model(config()), section()
    calls = []
    at = model.network.conditioner.at
    monkeypatch.setattr(model.network.conditioner, "at", lambda *args: calls.append(1) or at(*args))
    draws_of(model, s, n_draws=3)
    assert len(calls) == 1


@pytest.mark.parametrize("side", [1, 2])
def test_fewer_spots_than_anchors_are_fine(side):
    assert np.isfinite(draws_of(random_model(config()), section(side=side))).all()


def test_an_embedding_of_another_width_is_named(monkeypatch):
    with pytest.raises(ValueError, match="has 7 values, but the model was trained on 5"):
        draws_of(random_model(config()), section(dim=7))


def test_more_steps_than_the_diffusion_has_are_refused():
    with pytest.raises(ValueError, match="1 to 1000 steps, not 1001"):
        draws_of(random_model(config("paper")), section(), n_steps=1001)


@pytest.mark.parametrize(("preset", "options"), KINDS)
def test_a_model_comes_back_from_its_state(preset, options):
    settings = config(preset, **options)
    fitted = FittedHisDiff(section().genes, settings, random_model(settings))
    arrays, plain = fitted.state()
    again = FittedHisDiff.from_state(arrays, plain, fitted.genes)
    np.testing.assert_array_equal(draws_of(again.generator, section()), draws_of(fitted.generator, section()))


# ------------------------------------------------------------------------------------------------ library size


def test_the_published_setting_knows_no_library_size():
    model, s = random_model(config("paper")), section()
    np.testing.assert_array_equal(draws_of(model, s, log2_size=float("nan")), draws_of(model, s, log2_size=3.0))


def test_beyond_the_library_sizes_of_training_counts_are_scaled():
    model, s = random_model(config()), section()
    deepest = float(model.scale.log2_sizes[-1])
    edge, beyond = (np.maximum(draws_of(model, s, log2_size=d), 0) for d in (deepest, deepest + 2))
    np.testing.assert_allclose(np.exp2(beyond) - 1, 4 * (np.exp2(edge) - 1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(rescaled(np.log2(1 + np.array([0.0, 3.0])), -1), np.log2(1 + np.array([0.0, 1.5])))


def test_thinned_counts_lose_what_their_library_size_says():
    counts, log2_size = torch.full((4000, 3), 160.0), torch.full((4000,), 9.0)
    thinned, lower = thin(counts, log2_size, generator_for(0, 0))
    lost = log2_size - lower
    assert ((lost == 0).float().mean() - 0.5).abs() < 0.05
    assert lost.min() >= 0
    assert OCTAVES * 0.95 < lost.max() <= OCTAVES
    assert (thinned.mean(1) / (160 * torch.exp2(-lost))).mean().item() == pytest.approx(1, abs=0.02)
    assert (thinned == thinned.round()).all()
    assert (thinned[lost == 0] == 160).all()


def test_genes_are_standardised_at_every_library_size():
    rng = np.random.default_rng(0)
    log2_size = np.repeat([6.0, 8.0], 2000)
    counts = rng.poisson(np.exp2(log2_size)[:, None] * rng.gamma(3, 0.3, (4000, 1)))
    scale = GeneScale.fit(rng.normal(3, 2, (4000, 1)), counts, log2_size)
    assert (scale.log2_sizes[0], scale.log2_sizes[-1]) == (6 - OCTAVES, 8)
    for wanted in (2.25, 5.0, 8.0):
        center, spread = scale.at(wanted)
        standard = (np.log2(1 + counts_at(counts, log2_size, wanted)) - center) / spread
        assert abs(standard.mean()) < 0.05
        assert standard.std() == pytest.approx(1, abs=0.05)
    assert np.abs(scale.embedding(np.array([[3.0]]))) < 0.2


def test_training_standardises_as_prediction_does():
    model = random_model(config())
    loss = GeneLoss(model, Anchors(np.zeros((1, D), np.float32)))
    low, high = model.scale.log2_sizes[[0, -1]]
    for log2_size in (low, 0.3 * low + 0.7 * high, high):
        center, spread = model.scale.at(float(log2_size))
        values = torch.rand(1, G, generator=generator_for(0, 0))
        ours = loss._standardized(values, torch.tensor([log2_size]))
        np.testing.assert_allclose(ours[0].numpy(), (values[0].numpy() - center) / spread, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ training


def test_the_paper_preset_is_trained_on_the_published_loss():
    model = random_model(config("paper"))
    rng = np.random.default_rng(0)
    anchors = Anchors(rng.normal(size=(12, D)).astype(np.float32))
    batch = {
        "own": torch.from_numpy(rng.normal(size=(8, D)).astype(np.float32)),
        "near": torch.from_numpy(rng.integers(0, 12, (8, 9))),
        "wide": torch.from_numpy(rng.integers(-1, 12, (8, 49))),
        "counts": torch.from_numpy(rng.poisson(5, (8, G)).astype(np.float32)),
        "log2_size": torch.zeros(8),
    }
    place = torch.arange(8) / 8
    terms = GeneLoss(model, anchors).terms(batch, anchors, place, generator_for(0, 0))
    noise = torch.randn((8, G), generator=generator_for(0, 0))
    # Written out, since training and the check of the published loss share one function.
    diffusion, x0, t = GaussianDiffusion(linear_betas()), torch.log2(1 + batch["counts"]), (place * 1000).long()
    x_t = diffusion.q_sample(x0, t, noise)
    conditioner = model.network.conditioner
    condition = conditioner.at(batch["own"], anchors.on(torch.device("cpu")), batch["near"], batch["wide"])
    mse, bound = diffusion.losses(model.network.denoiser(x_t, t.float(), condition), x0, x_t, t, noise)
    torch.testing.assert_close((terms["mse"], terms["vb"]), (mse, bound))


def test_reference_compat_scores_the_last_step_as_published_and_draws_once():
    with pytest.raises(ValueError, match="reference_compat is for the published setting"):
        config(reference_compat=True)
    settings = config("paper", reference_compat=True)
    assert (settings.precision, settings.as_published) == ("tf32", True)
    assert GeneLoss(random_model(settings), Anchors(np.zeros((1, D), np.float32))).diffusion.reference_compat
    assert FittedHisDiff(section().genes, settings, random_model(settings)).usual_draws == 1
    assert FittedHisDiff(section().genes, config(), random_model(config())).usual_draws is None


def test_the_fusion_starts_as_published():
    sizes = Sizes(200, 1024, 1024, 8, 1024)
    network = initialize(GeneNetwork.of(GeneConfig.preset("paper"), sizes), generator_for(0, -1))
    weight = network.conditioner.fuse[-1].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (network.conditioner.fuse[-1].bias == 0).all()
    assert sum(p.numel() for p in network.parameters()) == 42_528_002


@pytest.mark.slow
def test_the_planted_rule_is_learned():
    settings = config(max_steps=50, validate_every=25, learning_rate=1e-2, batch_size=64)
    fitted = fit([section(seed=i) for i in range(2)], settings)
    losses = [row["loss"] for row in fitted.history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    assert np.median(fitted.calibration.cv_pcc) > 0.5
    assert (fitted.calibration.interval_factor > 0).all()
    other = section(seed=9)
    predicted = fitted.predict(other, other.spots, n_draws=8, progress=False)
    first = other.features.at(other.spots)[:, 0]
    assert np.corrcoef(predicted.mean[:, 0], first)[0, 1] > 0.5
    assert np.corrcoef(predicted.mean[:, 1], first)[0, 1] < -0.5


@pytest.mark.parametrize(("preset", "options"), KINDS)
def test_the_same_seed_gives_the_same_model(preset, options):
    first, second = (fit([section()], config(preset, **options), seed=3).state()[0] for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_without_patience_all_tissue_is_trained_on_and_nothing_is_known():
    fitted = fit([section()], config("paper"))
    assert fitted.calibration is None
    assert set(fitted.history[-1]) == {"step", "loss", "mse", "vb"}


@pytest.mark.parametrize("preset", ["dit", "paper"])
def test_validation_sections_are_what_is_known_from(preset):
    fitted = fit([section()], config(preset), validation=[section("held", seed=1)])
    assert fitted.calibration.cv_pcc.shape == fitted.calibration.interval_factor.shape == (G,)
    assert all("val_score" in row for row in fitted.history)


def test_spots_without_counts_are_left_out_and_serve_as_anchors():
    s = section()
    counts = s.counts.tolil()
    counts[:7] = 0
    empty = replace(s, counts=counts.tocsr())
    fitted = fit([empty], config("paper"))
    assert fitted.predict(empty, empty.spots, n_draws=1, progress=False).mean.shape == (25, G)


def test_embeddings_of_any_width_fit():
    for preset in ("dit", "paper"):
        s = section(dim=13)
        assert draws_of(fit([s], config(preset)).generator, s, n_draws=1).shape == (1, 25, G)


@pytest.mark.parametrize("killed_at", [2, 6])
def test_a_killed_fit_goes_on_to_the_same_model(tmp_path, monkeypatch, killed_at):
    """After 2 steps it is in the first run, on part of the tissue; after 6 at the start of the second, on all."""
    sections, settings = [section(), section(seed=1)], config()
    whole = fit(sections, settings).state()[0]
    taken = []
    loss = GeneLoss.loss

    def until_killed(self, batch, generator):
        taken.append(1)
        if len(taken) > killed_at:
            raise KeyboardInterrupt
        return loss(self, batch, generator)

    monkeypatch.setattr(GeneLoss, "loss", until_killed)
    with pytest.raises(KeyboardInterrupt):
        fit(sections, settings, checkpoint=tmp_path / "run")
    monkeypatch.setattr(GeneLoss, "loss", loss)
    resumed = fit(sections, settings, checkpoint=tmp_path / "run", resume=True).state()[0]
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)


# ------------------------------------------------------------------------------------------------ as users call it


@pytest.mark.parametrize("preset", ["dit", "paper"])
def test_a_fit_is_saved_and_predicts_spots_and_the_lattice_of_an_image(colored_sections, tmp_path, preset):
    *training, other = colored_sections
    model = hd.tl.fit(training, config={"preset": preset, **TINY}, save=tmp_path / "model", device="cpu")
    values = hd.tl.predict(other, model, n_draws=2, inplace=False).X
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    loaded = hd.models.load(tmp_path / "model")
    assert loaded.id == model.id
    np.testing.assert_array_equal(hd.tl.predict(other, loaded, n_draws=2, inplace=False).X, values)
    del other.tables["table"]
    hd.pp.embed(other, ColorlessEncoder())
    hd.tl.predict(other, loaded, n_draws=2)
    assert other.tables["lattice"].shape[1] == len(model.genes)


class ColorlessEncoder:
    """What ``color_encoder`` calls itself, so that the model takes its embeddings."""

    spec = hd.encoders.EncoderSpec("colour", "1", dim=6, input_px=32, mpp=2.0, licence="CC0-1.0", derivatives=True)

    def encode(self, patches: np.ndarray) -> np.ndarray:
        return np.tile(patches.reshape(len(patches), -1).mean(axis=1, keepdims=True) / 255, 6).astype(np.float32)
