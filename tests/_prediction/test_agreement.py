import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import ndtri

from hisdiff._geometry._grid import bins_touching
from hisdiff._prediction._agreement import Agreement
from hisdiff._prediction._field import SmoothNoise
from hisdiff._prediction._following import Following
from hisdiff._section import Locations
from hisdiff._training._calibration import Dispersion

BIN_UM = 10.0
SPOTS = Locations(np.array([[100.0, 100.0], [300.0, 100.0]]), 50.0)


def agreement(counts, *, gene=1.0, spot=1e9, exact=False) -> Agreement:
    counts = np.asarray(counts, dtype=float)
    dispersion = Dispersion(np.full(counts.shape[1], float(gene)), np.asarray(float(spot)))
    return Agreement(SPOTS, counts, dispersion, exact=exact)


def test_without_a_shared_factor_counts_are_followed_by_the_posterior_mean_of_a_gamma_factor():
    found = agreement([[9.0, 0.0], [4.0, 2.0]], gene=3.0).factors(np.full((2, 2), 5.0))
    np.testing.assert_allclose(found.inside, [[12 / 8, 3 / 8], [7 / 8, 5 / 8]], rtol=1e-5)
    np.testing.assert_array_equal(found.inside, found.between)


def test_a_spot_of_twice_the_molecules_has_its_shallow_genes_doubled_as_well():
    predicted = np.tile(np.r_[np.full(40, 50.0), 0.5], (2, 1))
    counts = predicted * [[2.0], [1.0]]
    together = agreement(counts, gene=2.0, spot=1.0).factors(predicted).inside
    alone = agreement(counts, gene=2.0).factors(predicted).inside
    np.testing.assert_allclose(together[0], 2, rtol=0.03)
    assert alone[0, -1] < 1.3
    np.testing.assert_allclose(together[1], 1, rtol=0.03)


def test_a_gene_that_was_not_measured_has_the_shared_factor_only():
    predicted = np.full((2, 41), 50.0)
    counts = predicted * [[2.0], [1.0]]
    counts[:, -1] = np.nan
    for exact in (False, True):
        found = agreement(counts, gene=2.0, spot=1.0, exact=exact).factors(predicted).inside
        np.testing.assert_allclose(found[:, -1], [2, 1], rtol=0.03)


def test_drawn_factors_have_the_mean_factor_for_mean_and_less_spread_the_more_was_counted():
    normal = ndtri((np.arange(2000) + 0.5) / 2000)
    rng = np.random.default_rng(0)
    made = agreement([[4.0, 400.0], [4.0, 400.0]], gene=2.0, spot=5.0)
    predicted = np.array([[2.0, 200.0]] * 2)
    columns = np.stack([rng.permutation(normal) for _ in range(6)]).reshape(2, 3, -1)
    drawn = np.stack([made.factors(predicted, columns[..., i]).inside for i in range(columns.shape[-1])])
    np.testing.assert_allclose(drawn.mean(axis=0), made.factors(predicted).inside, rtol=0.05)
    spread = drawn.std(axis=0)[0] / drawn.mean(axis=0)[0]
    assert spread[1] < 0.5 * spread[0]


def test_exact_agreement_adds_up_and_spreads_what_was_not_predicted_by_area():
    bins = Locations.bins(bins_touching(SPOTS, BIN_UM), BIN_UM)
    made = agreement([[9.0, 4.0], [3.0, 0.0]], exact=True)
    rates = np.random.default_rng(0).gamma(1, 1, (len(bins), 2)) * [1, 0]
    share = made.footprints(bins, np.arange(2))
    agreed = made.blend(bins)(rates, made.factors(share @ rates))
    np.testing.assert_allclose(share @ agreed, [[9, 4], [3, 0]], rtol=1e-5)


def test_between_spots_the_noise_of_a_draw_is_undone_close_to_them_only():
    made = agreement([[1000.0], [1000.0]], gene=1.0)
    mean = made.factors(np.full((2, 1), 1000.0))
    lower = made.factors(
        np.full((2, 1), 500.0), of_mean=mean
    )  # a draw with half of what is expected in both footprints
    along = Locations.bins(np.array([[10, column] for column in range(10, 31)]), BIN_UM)
    factor = made.blend(along)(np.ones((len(along), 1)), lower)[:, 0]
    np.testing.assert_allclose(factor[[0, 20]], 2, rtol=0.01)
    assert factor[10] < 1.5
    assert (np.diff(factor[:11]) < 1e-6).all()
    np.testing.assert_allclose(made.blend(along)(np.ones((len(along), 1)), mean), 1, rtol=1e-3)


@pytest.mark.parametrize(("distance_um", "rows"), [(90.0, []), (110.0, [0, 1])])
def test_spots_that_share_bins_are_found(distance_um, rows):
    assert agreement([[1.0], [1.0]]).closer_than(distance_um).tolist() == rows


def test_sparse_counts_of_some_genes_are_those_of_an_array_with_gaps():
    rng = np.random.default_rng(0)
    counts, predicted = rng.poisson(0.5, (2, 6)).astype(float), rng.uniform(0.1, 2, (2, 6))
    lacking = np.arange(6) == 2
    dispersion = Dispersion(np.full(6, 2.0), np.asarray(5.0))
    sparse = Agreement(SPOTS, csr_matrix(counts * ~lacking), dispersion, exact=False, lacking=lacking)
    whole = Agreement(SPOTS, np.where(lacking, np.nan, counts), dispersion, exact=False)
    np.testing.assert_array_equal(sparse.factors(predicted).inside, whole.factors(predicted).inside)
    bins = Locations.bins(np.array([[10, column] for column in range(8, 33)]), BIN_UM)
    told = [of.certainty(predicted, of.pooled(predicted), bins, of.blend(bins)) for of in (sparse, whole)]
    for part, same in zip(*told):
        np.testing.assert_array_equal(*(of if isinstance(of, np.ndarray) else of.toarray() for of in (part, same)))


def test_what_counts_leave_of_the_noise_of_draws_is_its_variance_in_many_of_them():
    rng = np.random.default_rng(0)
    loadings, followed, spacing_um = rng.normal(size=(2, 3)), np.array([0.0, 0.4, 0.95]), 60.0
    bins = Locations.bins(np.array([[10, column] for column in range(8, 33)]), BIN_UM)
    made = agreement([[9.0, 4.0, 2.0], [3.0, 0.0, 5.0]])
    known = made.certainty(np.full((2, 3), 3.0), np.array([0.5, 0.3, 0.1]), bins, made.blend(bins))
    known = known._replace(followed=np.tile(followed, (2, 1)))
    blend = SmoothNoise(0, np.concatenate([bins.xy_um, known.xy_um]), spacing_um).blend
    noise = blend @ rng.standard_normal((blend.shape[1], 2 * 4000))
    scores, of_spots = noise[: len(bins)].reshape(-1, 4000, 2), (known.under @ noise[len(bins) :]).reshape(2, 4000, 2)
    pooled = (of_spots @ (loadings @ known.pooled))[..., None]
    undone = followed * (of_spots @ loadings) + (1 - followed) * pooled
    left = scores @ loadings - np.tensordot(known.acts.toarray(), undone, axes=1)
    shapes = csr_matrix(np.repeat(np.eye(5) / 5, 5, axis=1))
    for weights, values in ((None, left), (shapes, np.tensordot(shapes.toarray(), left, axes=1))):
        view = Following(bins.xy_um, known, weights)
        told = view.noise(spacing_um).variance_of(loadings, view.followed, known.pooled)
        np.testing.assert_allclose(told, values.var(axis=1), rtol=0.12, atol=0.01)
