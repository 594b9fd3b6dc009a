"""Settings of the two models: presets, what belongs to which, and what is out of range."""

import json

import pytest

from hisdiff._training._config import config_from
from hisdiff.methods.hisdiff import FactorConfig, HisDiff


def config_of(config):
    return config_from(HisDiff.config_type, config)


@pytest.mark.parametrize("name", ["fast", "dit", "paper"])
def test_json_there_and_back(name):
    config = config_of(name)
    assert config_of(json.loads(json.dumps(config.to_dict()))) == config


def test_fast_is_the_default():
    assert config_of("fast") == FactorConfig() == config_of({})
    dit = config_of("dit")
    assert (dit.around, dit.genes_per_token, dit.sampler, dit.n_steps) == ("mean", None, "heun", 5)


def test_paper_is_the_published_setting():
    paper = config_of("paper")
    assert (paper.denoiser, paper.width, paper.depth, paper.heads) == ("dit", 384, 12, 12)
    assert (paper.sampler, paper.n_steps, paper.learning_rate, paper.batch_size) == ("ddpm", 1000, 1e-4, 128)
    assert (paper.ema, paper.weight_decay, paper.clip, paper.patience) == (0.0, 0.0, None, None)
    assert paper.scaling == "raw"
    assert not paper.standardize


def test_options_change_a_preset():
    config = config_of({"preset": "dit", "width": 32, "scaling": "raw"})
    assert (config.denoiser, config.width, config.scaling) == ("dit", 32, "raw")


def test_unknown_option_lists_what_there_is():
    with pytest.raises(ValueError, match="FactorConfig.*Did you mean 'dropout'"):
        config_of({"dropuot": 0.1})
    with pytest.raises(ValueError, match="paper"):
        config_of("papper")
    with pytest.raises(ValueError, match="paper"):
        config_of({"preset": "papper"})


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (
            {"denoiser": "dit"},
            r"'denoiser' is a setting of GeneConfig \(preset 'dit' or 'paper'\), not of FactorConfig",
        ),
        ({"preset": "dit", "n_members": 2}, r"'n_members' is a setting of FactorConfig \(preset 'fast'\), not of Gene"),
    ],
)
def test_a_setting_of_the_other_model_names_the_configuration_it_belongs_to(config, match):
    with pytest.raises(ValueError, match=match):
        config_of(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"denoiser": "unet", "preset": "dit"},
        {"sampler": "magic"},
        {"scalings": []},
        {"scalings": ["log"]},
        {"scaling": "log", "preset": "dit"},
        {"dropout": 1.0},
        {"gammas": [0.0]},
        {"penalties": -1.0},
        {"n_factors": 0},
        {"linear": -0.1},
        {"learning_rate": 0.0},
        {"precision": "int8"},
        {"sampler": "ddpm"},  # of the default flow
        {"heads": 7, "preset": "dit"},
        {"compile": True, "preset": "dit"},
    ],
)
def test_values_out_of_range_name_the_option(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        config_of(changes)


def test_wrong_types_are_type_errors():
    with pytest.raises(TypeError, match="width"):
        FactorConfig(width=3.5)
    with pytest.raises(TypeError, match="FactorConfig or GeneConfig"):
        config_of(3)


def test_every_setting_of_the_training_can_be_chosen():
    training = FactorConfig(max_steps=7, ema=0.5, clip=None, cosine=True).of_training()
    assert (training["max_steps"], training["ema"], training["clip"], training["cosine"]) == (7, 0.5, None, True)
