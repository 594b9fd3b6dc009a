from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

import hisdiff as hd

ROWS = [
    {"step": 0, "loss": 2.0, "energy_score": 11.0},
    {"step": 10, "loss": 1.0},
    {"step": 20, "loss": 0.5, "energy_score": 10.0},
    {"step": 40, "loss": 0.4, "energy_score": 10.5},
]


@pytest.fixture
def model():
    return SimpleNamespace(method="hisdiff", history=ROWS)


def test_each_value_has_a_panel_with_the_steps_at_which_it_is_known(model):
    axes = hd.pl.training(model).axes
    assert [ax.get_ylabel() for ax in axes] == ["loss", "energy score"]
    assert axes[0].lines[0].get_xdata().tolist() == [0, 10, 20, 40]
    assert axes[1].lines[0].get_xdata().tolist() == [0, 20, 40]


def test_best_step_on_held_out_tissue_is_marked_in_every_panel(model):
    for ax in hd.pl.training(model).axes:
        assert ax.lines[1].get_xdata() == [20, 20]
        assert ax.get_legend().get_texts()[0].get_text() == "best: step 20"


def test_nothing_is_marked_where_nothing_was_held_out(model):
    model.history = [{"step": 0, "loss": 1.0}, {"step": 5, "loss": np.nan}, {"step": 9, "loss": 0.4}]
    ax = hd.pl.training(model)
    assert isinstance(ax, plt.Axes)
    assert len(ax.lines) == 1
    assert ax.lines[0].get_xdata().tolist() == [0, 9]


def test_one_value_is_drawn_into_given_axes(model):
    ax = plt.subplots()[1]
    assert hd.pl.training(model, names="loss", ax=ax) is ax
    assert len(ax.lines) == 2


def test_mistakes_are_said(model):
    with pytest.raises(KeyError, match="energy_score"):
        hd.pl.training(model, names="energy_scor")
    with pytest.raises(ValueError, match="one panel"):
        hd.pl.training(model, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="'ridge' is not trained in steps"):
        hd.pl.training(SimpleNamespace(method="ridge", history=[]))
