import json

import pytest

from hisdiff.methods.hisdiff import HisDiffConfig


@pytest.mark.parametrize("name", ["fast", "dit", "paper"])
def test_json_there_and_back(name):
    config = HisDiffConfig.preset(name)
    assert HisDiffConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_fast_is_the_default():
    assert HisDiffConfig.preset("fast") == HisDiffConfig() == HisDiffConfig.from_dict({})


def test_paper_is_the_published_setting():
    paper = HisDiffConfig.preset("paper")
    assert (paper.denoiser, paper.width, paper.depth, paper.heads) == ("dit", 384, 12, 12)
    assert (paper.sampler, paper.n_steps, paper.learning_rate, paper.batch_size) == ("ddpm", 1000, 1e-4, 128)
    assert (paper.ema, paper.weight_decay, paper.clip, paper.patience) == (0.0, 0.0, None, None)
    assert paper.scalings == ("raw",)
    assert not paper.standardize


def test_options_change_a_preset():
    config = HisDiffConfig.from_dict({"preset": "dit", "width": 32, "scalings": "raw"})
    assert (config.denoiser, config.width, config.scalings) == ("dit", 32, ("raw",))


def test_unknown_option_lists_what_there_is():
    with pytest.raises(ValueError, match="denoiser.*Did you mean 'dropout'"):
        HisDiffConfig.from_dict({"dropuot": 0.1})
    with pytest.raises(ValueError, match="paper"):
        HisDiffConfig.preset("papper")


@pytest.mark.parametrize(
    "changes",
    [
        {"denoiser": "unet"},
        {"sampler": "magic"},
        {"scalings": []},
        {"scalings": ["log"]},
        {"dropout": 1.0},
        {"gammas": [0.0]},
        {"penalties": -1.0},
        {"n_factors": 0},
        {"linear": -0.1},
        {"learning_rate": 0.0},
        {"precision": "int8"},
        {"sampler": "ddpm"},  # of the default flow
        {"heads": 7, "preset": "dit"},
    ],
)
def test_values_out_of_range_name_the_option(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        HisDiffConfig.from_dict(changes)


def test_wrong_types_are_type_errors():
    with pytest.raises(TypeError, match="width"):
        HisDiffConfig(width=3.5)


def test_training_options_are_those_of_the_configuration():
    options = HisDiffConfig(train_steps=7, ema=0.5, clip=None).training()
    assert (options.n_steps, options.ema, options.clip) == (7, 0.5, None)
