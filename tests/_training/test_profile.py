"""Expression of spots as profiles."""

import numpy as np
from planted import planted_cohort

from hisdiff._training._profile import at_level, profiles
from hisdiff._training._spots import TrainingSpots


def test_profiles_do_not_depend_on_how_much_of_a_spot_was_read():
    spots = TrainingSpots.of(planted_cohort(0, 2))
    found = profiles(spots)
    factor = np.exp2(np.random.default_rng(0).uniform(-1, 1, size=(len(spots.targets), 1)))
    scaled = TrainingSpots(**{**vars(spots), "targets": np.log2(1 + (np.exp2(spots.targets) - 1) * factor)})
    for s in (0, 1):
        apart = (profiles(scaled).targets - found.targets)[spots.section == s]
        assert np.abs(apart - np.median(apart)).mean() < 0.03  # but for the median total, and ones and zeros
    means = [found.centered[found.section == s].mean(axis=0) for s in (0, 1)]
    np.testing.assert_allclose(means[0], means[1], atol=1e-5)


def test_a_profile_is_brought_to_the_level_of_each_spot():
    rng = np.random.default_rng(1)
    profile = np.abs(rng.normal(3, 2, size=(40, 600)))
    whole = np.abs(profile + rng.normal(0, 1.5, size=(40, 1)) + rng.normal(0, 0.1, size=profile.shape))
    made = at_level(profile, whole)
    np.testing.assert_allclose(made.mean(axis=1), whole.mean(axis=1), atol=0.15)  # told by some of the genes
    order = np.argsort(profile[0])
    assert (np.diff(made[0, order]) >= -1e-9).all()  # genes keep their order
    np.testing.assert_allclose(at_level(profile, profile), profile, atol=0.02)
