from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from hisdiff._prediction._agreement import Certainty
from hisdiff._prediction._following import Following


@pytest.mark.parametrize("per_bin", [1, 3, 7])
def test_spots_inside_one_bin_that_follow_their_counts_wholly_leave_nothing_of_the_noise(per_bin) -> None:
    rng = np.random.default_rng(0)
    n_bins, n_genes = 60, 5
    xy_um = rng.uniform(0, 2000, (n_bins, 2))
    n = n_bins * per_bin
    bin_of = np.repeat(np.arange(n_bins), per_bin)
    acts = sparse.csr_matrix((np.full(n, 1 / per_bin), (bin_of, np.arange(n))), shape=(n_bins, n))
    under = sparse.csr_matrix((np.ones(n), (np.arange(n), bin_of)), shape=(n, n_bins))
    ones, zeros = np.ones((n, n_genes), np.float32), np.zeros((n, n_genes), np.float32)
    known = Certainty(ones, zeros, np.zeros(n_genes), acts, xy_um, under)
    at = Following(xy_um, known)
    noise, loadings = at.noise(80.0), rng.normal(size=(3, n_genes))
    for left in (noise.variance(at.followed), noise.variance_of(loadings, at.followed, known.pooled)):
        assert (left >= 0).all()  # a negative variance has no root
        np.testing.assert_allclose(left, 0, atol=1e-12)
