"""Weights of predictions that are averaged: learned where left-out tissue tells clearly, else as given."""

import numpy as np
import pytest

from hisdiff._training._folds import MANY_FOLDS
from hisdiff.methods.hisdiff.factor._stacking import stacked_weights

N_FOLDS, PER_FOLD, N_COMPONENTS = 8, 60, 4


def _weights(noise, n_folds=N_FOLDS, usual=(0.5, 0.5)):
    """Weights of predictions that are the truth with noise of some sd, and a level of each section that no image tells."""
    rng = np.random.default_rng(0)
    fold = np.repeat(np.arange(n_folds), PER_FOLD)
    truth = rng.standard_normal((len(fold), N_COMPONENTS))
    level = rng.normal(0, 5, (n_folds, N_COMPONENTS))[fold]
    held_out = [truth + sd * rng.standard_normal(truth.shape) for sd in noise]
    targets = truth + level + 0.5 * rng.standard_normal(truth.shape)
    usual = np.array(usual)
    return usual, stacked_weights(held_out, targets, fold, fold, np.ones(len(fold)), usual)


def test_the_better_prediction_gets_the_weight_and_noise_is_shrunk():
    # The best weights of independent estimates of one thing go with their precision, against a prior of precision 1.
    _, weights = _weights((0.3, 2.0))
    precision = 1 / np.square([0.3, 2.0])
    assert weights == pytest.approx(precision / (1 + precision.sum()), abs=0.05)


def test_a_prediction_without_a_usual_weight_may_be_taken():
    _, weights = _weights((2.0, 0.1), usual=(1.0, 0.0))
    assert weights[1] > 0.9


@pytest.mark.parametrize(("noise", "n_folds"), [((0.3, 2.0), MANY_FOLDS - 1), ((0.05, 0.05), N_FOLDS)])
def test_usual_weights_stay_with_too_few_folds_and_where_others_are_no_better(noise, n_folds):
    usual, weights = _weights(noise, n_folds)
    assert weights is usual
