"""What is taken for a relation to the image, beside states that vary smoothly in space and that no image shows."""

import numpy as np
import pytest

from hisdiff._training._relation import fit_relation
from hisdiff._training._smooth import correlation, share_of_means

SIDE, N_SECTIONS = 8, 6
PLACES = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2).astype(float)
SPACING = 1.5
N = len(PLACES)


def smooth_fields(rng, n):
    """Fields of unit variance over the places, ``(N, n)``."""
    away = np.linalg.norm(PLACES[:, None] - PLACES, axis=2)
    return np.linalg.cholesky(correlation(away / SPACING) + 1e-6 * np.eye(N)) @ rng.standard_normal((N, n))


def cohort(own_slopes, states):
    """Features that vary smoothly, and residuals of three components: slopes of each section, smooth states, and noise."""
    rng = np.random.default_rng(0)
    features, residuals = [], []
    for _ in range(N_SECTIONS):
        values = smooth_fields(rng, 6) / np.sqrt(6)
        slopes = rng.standard_normal((6, 3))
        left = own_slopes * values @ slopes + states * smooth_fields(rng, 3) + 0.4 * rng.standard_normal((N, 3))
        features.append(values)
        residuals.append(left)
    section = np.repeat(np.arange(N_SECTIONS), N)
    places = np.tile(PLACES, (N_SECTIONS, 1))
    return np.concatenate(features), np.concatenate(residuals), section, places


def fitted(fold, **planted):
    features, residuals, section, places = cohort(**planted)
    return fit_relation(features, residuals, np.ones(3), fold(section), section, places, seed=0)


def test_smooth_states_are_not_taken_for_a_relation_where_many_sections_tell():
    states = {"own_slopes": 0.0, "states": 1.0}
    told = fitted(lambda section: section, **states)
    assert told.beside_smooth
    assert told.share.max() < 0.15
    assert not fitted(lambda section: section % 3, **states).beside_smooth


def test_a_relation_is_found_beside_smooth_states():
    told = fitted(lambda section: section, own_slopes=1.0, states=0.3)
    explained = 1 / (1 + 0.09 + 0.16)  # of the variance, less what a section's mean takes of each
    assert told.share.mean() == pytest.approx(explained, abs=0.25)


@pytest.mark.parametrize("own_slopes", [0.3, 0.6])
def test_the_part_of_the_relation_in_the_variance_is_the_planted_one(own_slopes):
    told = fitted(lambda section: section, own_slopes=own_slopes, states=0.0)
    assert told.share.mean() == pytest.approx(own_slopes**2 / (own_slopes**2 + 0.16), abs=0.12)


def test_the_mean_of_a_smooth_field_varies_as_is_said():
    rng = np.random.default_rng(0)
    means = smooth_fields(rng, 4000).mean(axis=0)
    two = np.tile(PLACES, (2, 1)) * 100
    share = share_of_means(two, np.repeat([0, 1], N), SPACING * 100)
    assert share + 1 / N == pytest.approx(means.var(), rel=0.08)
