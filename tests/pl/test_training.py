from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

import hisdiff as hd

ROWS = [
    {"step": 0, "loss": 2.0, "val_score": 11.0, "val_loss": 2.1, "val_energy_score": 11.0},
    {"step": 10, "loss": 1.0},
    {"step": 20, "loss": 0.5, "val_score": 10.0, "val_loss": 1.2, "val_energy_score": 10.0},
    {"step": 40, "loss": 0.4, "val_score": 10.5, "val_loss": 1.4, "val_energy_score": 10.5},
]


@pytest.fixture
def model():
    return SimpleNamespace(method="hisdiff", history=[dict(row) for row in ROWS])


def curves(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.lines}


def test_each_value_has_a_panel_with_training_and_held_out_tissue_together(model):
    loss, score = hd.pl.training(model).axes
    assert loss.get_ylabel() == "training loss"
    assert curves(loss)["training"] == [[0, 2.0], [10, 1.0], [20, 0.5], [40, 0.4]]
    assert curves(loss)["held-out tissue"] == [[0, 2.1], [20, 1.2], [40, 1.4]]
    assert score.get_ylabel() == "energy score"
    assert curves(score)["held-out tissue"] == [[0, 11.0], [20, 10.0], [40, 10.5]]


def test_a_score_that_is_no_other_value_is_shown_as_such(model):
    for row in model.history:
        row.pop("val_energy_score", None)
    assert [ax.get_ylabel() for ax in hd.pl.training(model).axes] == [
        "training loss",
        "score on held-out tissue\n(lower is better)",
    ]


def test_best_step_on_held_out_tissue_is_marked_in_every_panel(model):
    for ax in hd.pl.training(model).axes:
        assert [x for x, _ in curves(ax)["best: step 20"]] == [20, 20]
        assert "best: step 20" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_nothing_is_marked_where_nothing_was_held_out(model):
    model.history = [{"step": 0, "loss": 1.0}, {"step": 5, "loss": np.nan}, {"step": 9, "loss": 0.4}]
    ax = hd.pl.training(model)
    assert isinstance(ax, plt.Axes)
    assert curves(ax) == {"training": [[0, 1.0], [9, 0.4]]}


def test_one_value_is_drawn_into_given_axes(model):
    ax = plt.subplots()[1]
    assert hd.pl.training(model, names="loss", ax=ax) is ax
    assert len(ax.lines) == 3


def test_mistakes_are_said(model):
    with pytest.raises(KeyError, match="energy_score"):
        hd.pl.training(model, names="energy_scor")
    with pytest.raises(ValueError, match="one panel"):
        hd.pl.training(model, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="names is empty"):
        hd.pl.training(model, names=[])
    with pytest.raises(ValueError, match="'ridge' is not trained in steps"):
        hd.pl.training(SimpleNamespace(method="ridge", history=[]))
