"""Regression on expanded features, each component with the expansion and the penalty that predict it best."""

import numpy as np

from hisdiff._stats._ridge_path import Moments
from hisdiff.methods.hisdiff.factor._components import _held_out_errors, fit_components

RNG = np.random.default_rng(0)


def test_errors_on_left_out_spots_are_those_of_predictions_whichever_way_is_less_work():
    targets, weight, path = RNG.standard_normal((60, 3)), RNG.uniform(0.5, 2, 60), RNG.standard_normal((2, 40, 3))
    expanded = RNG.standard_normal((60, 40))
    for rows in (np.arange(50), np.arange(50, 60)):  # more spots than features, and fewer
        held_out = Moments.of(expanded[rows], targets[rows], weight[rows])
        found = _held_out_errors(path, held_out, expanded, rows, weight)
        for slopes, of_penalty in zip(path, found):
            left = targets[rows] - expanded[rows] @ slopes
            left -= np.average(left, axis=0, weights=weight[rows])
            np.testing.assert_allclose(of_penalty, weight[rows] @ np.square(left), rtol=1e-9)


def test_each_component_takes_the_expansion_that_shows_it_though_all_share_one_array():
    fold, weight = np.repeat(np.arange(5), 40), np.ones(200)
    shown = RNG.standard_normal((2, 200, 30))
    slopes = RNG.standard_normal((2, 30))
    targets = np.stack([own @ of for own, of in zip(shown, slopes)], axis=1)
    array = np.empty((200, 30))

    def expansions():
        for own in shown:
            array[:] = own
            yield array

    fit = fit_components(expansions(), targets, fold, weight, (1e-3, 10.0))
    assert fit.explained > 0.99
    np.testing.assert_allclose(fit.held_out, targets, atol=0.2)
    assert not fit.weights[0][:, 1].any()
    assert not fit.weights[1][:, 0].any()


def test_few_spots_average_penalties_that_predict_about_as_well_and_many_take_the_best():
    def shares(n: int) -> np.ndarray:
        penalties = 0.03 * n, 0.1 * n, 0.3 * n
        features = np.random.default_rng(1).standard_normal((n, 20))
        targets = features @ np.full((20, 1), 0.1) + np.random.default_rng(2).standard_normal((n, 1))
        fold = np.arange(n) % 4
        fit = fit_components([features], targets, fold, np.ones(n), penalties)
        alone = [np.linalg.solve(features.T @ features + p * np.eye(20), features.T @ targets) for p in penalties]
        return np.linalg.lstsq(np.hstack(alone), fit.weights[0], rcond=None)[0].ravel()

    few, many = shares(200), shares(20_000)
    assert few.max() < 0.5
    assert 0.8 < few.sum() <= 1
    assert many.max() > 0.9


def test_what_nothing_predicts_stays_near_zero():
    fold, weight = np.arange(400) % 4, np.ones(400)
    features, targets = RNG.standard_normal((400, 50)), RNG.standard_normal((400, 2))
    fit = fit_components([features], targets, fold, weight, (1.0, 10.0))
    assert np.square(fit.held_out).mean() < 0.02
    assert fit.explained < 0.01
