"""The network around the closed-form mean."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from hisdiff._device import Products
from hisdiff._section import FeatureSpec, Locations, Section, library_size_of
from hisdiff._training._loop import generator_for
from hisdiff.methods.hisdiff import FactorConfig, FittedHisDiff, GeneConfig, HisDiff
from hisdiff.methods.hisdiff.gene._around import AroundNetwork, Told
from hisdiff.methods.hisdiff.gene._drawing import Drawing

G, D = 14, 4
TINY = {"width": 16, "depth": 1, "heads": 2, "n_steps": 3, "max_steps": 6, "validate_every": 3, "batch_size": 16}


class Features:
    def __init__(self) -> None:
        self.spec = FeatureSpec("test", "1", D, 0.5, 112.0)
        self.mean, self.std = np.zeros(D, np.float32), np.ones(D, np.float32)

    def at(self, locations: Locations) -> np.ndarray:
        phase = locations.xy_um[:, :1] / 150 + locations.xy_um[:, 1:] / 230
        return np.sin(phase + np.arange(D)).astype(np.float32)


def section(name: str, *, side: int = 8, seed: int = 0) -> Section:
    """Counts follow the first value of the embedding; the second half of the genes a state with two values as well."""
    xy = 100.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    spots, features, rng = Locations(xy, 25.0), Features(), np.random.default_rng(seed)
    state = np.where(rng.random(len(xy)) < 0.5, -1.0, 1.0)[:, None] * (np.arange(G) >= G // 2)
    rate = 20 * np.exp(0.8 * np.where(np.arange(G) % 2, -1, 1) * features.at(spots)[:, :1] + 0.8 * state)
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    genes = np.array([f"gene{i}" for i in range(G)])
    return Section(name, genes, counts, spots, features=features, library_size=library_size_of(counts))


@pytest.fixture(scope="module")
def sections() -> list[Section]:
    return [section(f"s{i}", seed=i) for i in range(3)]


def fit(sections, settings, **options) -> FittedHisDiff:
    return HisDiff().fit(sections, settings, device="cpu", progress=False, **options)


def config(**options) -> GeneConfig:
    return GeneConfig.from_dict({"preset": "dit", **TINY, **options})


@pytest.fixture(scope="module")
def fitted(sections) -> FittedHisDiff:
    return fit(sections[:2], config())


def predict(fitted, s, **options):
    return fitted.predict(s, s.spots, **{"n_draws": 4, "keep_draws": 4, "progress": False, **options})


def test_mean_and_spread_are_those_of_the_factor_model(fitted, sections):
    fast = fit(sections[:2], FactorConfig(flow=False, fine=False))
    ours, theirs = (predict(model, sections[2]) for model in (fitted, fast))
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.std, theirs.std)
    np.testing.assert_allclose(ours.draws[0].mean(), theirs.draws[0].mean(), atol=0.3)


def test_an_untrained_network_draws_what_the_factor_model_draws(sections):
    settings = {"around": "mean", **TINY, "max_steps": 1, "learning_rate": 1e-12, "ema": 0.0}
    untrained = fit(sections[:2], config(**settings))
    normal = fit(sections[:2], FactorConfig(flow=False, fine=False, n_steps=3))
    ours, theirs = (predict(model, sections[2]) for model in (untrained, normal))
    np.testing.assert_allclose(np.stack(list(ours.draws)), np.stack(list(theirs.draws)), atol=1e-3)


def test_the_condition_and_the_noise_decide_the_scores(fitted, sections):
    model = replace(fitted.generator, kept=True)
    for k, parameter in enumerate(model.network.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=generator_for(0, k))
    try:
        told = model.score_condition(sections[2], sections[2].spots, model.means(sections[2], sections[2].spots), "cpu")
        start = np.random.default_rng(0).normal(size=(len(told.values), len(model.spread.factors.loadings)))
        whole = model.scores(told, start, 0, n_steps=3, device="cpu")
        some = Told(told.values[5:7], Drawing(8, Products(torch.device("cpu"))))
        np.testing.assert_allclose(model.scores(some, start[5:7], 0, n_steps=3, device="cpu"), whole[5:7], atol=1e-4)
        turned = told._replace(values=told.values.flip(0))
        assert np.abs(model.scores(turned, start, 0, n_steps=3, device="cpu") - whole).max() > 1e-3
        fitted = replace(fitted, generator=model)
        arrays, plain = fitted.state()
        again = FittedHisDiff.from_state(arrays, json.loads(json.dumps(plain)), fitted.genes)
        ours, theirs = (predict(model, sections[2]) for model in (fitted, again))
        np.testing.assert_array_equal(np.stack(list(ours.draws)), np.stack(list(theirs.draws)))
    finally:
        for parameter in model.network.parameters():
            torch.nn.init.zeros_(parameter)


def test_genes_that_vary_together_share_a_token(sections):
    groups = fit(sections[:2], config(genes_per_token=7)).generator.gene.network.denoiser.groups
    # Even and odd genes follow the image with opposite signs.
    assert set(groups.order[:7].tolist()) in (set(range(0, G, 2)), set(range(1, G, 2)))


def test_conditions_are_optional_and_validation_sections_decide(sections):
    bare = fit(sections[:2], config(with_mean=False, with_library_size=True), validation=sections[2:])
    assert bare.generator.network.mean is None
    assert bare.generator.gene.network.conditioner.size is not None
    assert bare.calibration is not None
    assert np.isfinite(predict(bare, sections[2], n_draws=1, keep_draws=1).draws[0]).all()


def test_without_embeddings_the_network_sees_the_mean_alone(sections):
    blind = replace(fit(sections[:2], config(with_embedding=False)).generator, kept=True)
    for k, parameter in enumerate(blind.network.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=generator_for(0, k))
    center = blind.means(sections[2], sections[2].spots)
    told = blind.score_condition(sections[2], sections[2].spots, center, "cpu")
    for parameter in blind.gene.network.conditioner.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(blind.score_condition(sections[2], sections[2].spots, center, "cpu").values, told.values)
    other = blind.score_condition(sections[2], sections[2].spots, center[::-1], "cpu")
    assert (other.values - told.values).abs().max() > 1e-3


def test_what_one_draw_finds_out_of_memory_the_next_ones_know(sections, fitted, monkeypatch, caplog):
    fitted = replace(fitted, generator=replace(fitted.generator, kept=True))
    whole = predict(fitted, sections[2])
    sample = AroundNetwork.sample

    def little_memory(self, condition, *args, **options):
        if len(condition) > 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return sample(self, condition, *args, **options)

    monkeypatch.setattr(AroundNetwork, "sample", little_memory)
    with caplog.at_level("WARNING", logger="hisdiff"):
        np.testing.assert_allclose(
            np.stack(list(predict(fitted, sections[2]).draws)), np.stack(list(whole.draws)), atol=1e-4
        )
    assert caplog.text.count("out of memory on the device") == 2  # 64, 32, 16 locations, in the first of four draws


def test_dropout_changes_what_is_learned_but_not_from_run_to_run(sections):
    def losses(**options) -> list[float]:
        history = fit(
            sections[:2], config(max_steps=6, validate_every=1, patience=None, learning_rate=0.03, **options)
        ).history
        return [row["loss"] for row in history if "loss" in row]

    dropped = losses(dropout=0.5)
    assert dropped == losses(dropout=0.5)
    assert dropped != losses()


def test_settings_that_contradict_each_other_are_named(sections):
    with pytest.raises(ValueError, match="dropout are settings of models around the mean"):
        config(around=None, dropout=0.1)
    with pytest.raises(ValueError, match="dropout is from 0 to below 1"):
        config(dropout=1.0)
    with pytest.raises(ValueError, match="needs with_mean=True"):
        config(with_embedding=False, with_mean=False)
    with pytest.raises(ValueError, match="raw log2.*has no mean to start from"):
        GeneConfig.from_dict({"preset": "paper", "around": "mean"})
    with pytest.raises(ValueError, match="sampler is one of.*not 'ddpm'"):
        config(sampler="ddpm")
    with pytest.raises(ValueError, match="around=None there is no mean"):
        config(around=None, with_mean=False)
    with pytest.raises(ValueError, match="around is 'mean' or None|around"):
        config(around="median")
    with pytest.raises(ValueError, match="genes_per_token is 15, but the panel has 14 genes"):
        fit(sections[:1], config(genes_per_token=15))
