import numpy as np
import pytest

from hisdiff._stats._spatial import Layout, knn_weights, moran, moran_mae, similarity_windows, ssim


@pytest.fixture
def cloud() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, (40, 2))


def test_weights_are_the_nearest_neighbours_by_brute_force(cloud):
    weights = knn_weights(cloud, k=6).toarray()
    distance = np.linalg.norm(cloud[:, None] - cloud, axis=2)
    np.fill_diagonal(distance, np.inf)
    for i in range(len(cloud)):
        expected = np.zeros(len(cloud))
        expected[np.argsort(distance[i])[:6]] = 1 / 6
        np.testing.assert_allclose(weights[i], expected)


def test_ties_on_a_lattice_are_all_taken_so_order_decides_nothing():
    xy = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    weights = knn_weights(xy, k=6).toarray()
    assert (weights[12] > 0).sum() == 8
    order = np.random.default_rng(0).permutation(25)
    np.testing.assert_allclose(knn_weights(xy[order], k=6).toarray(), weights[np.ix_(order, order)])


def test_duplicate_few_and_single_points_are_handled():
    weights = knn_weights(np.zeros((4, 2)), k=2).toarray()
    assert not np.diag(weights).any()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(knn_weights(np.array([[0.0, 0], [1, 0]]), k=6).toarray(), [[0, 1], [1, 0]])
    assert knn_weights(np.zeros((1, 2))).nnz == 0


def test_moran_is_that_of_the_double_sum(cloud):
    values = np.random.default_rng(1).normal(size=(40, 3))
    weights = knn_weights(cloud)
    w = weights.toarray()
    for gene, found in zip(values.T, moran(values, weights)):
        z = gene - gene.mean()
        expected = len(z) / w.sum() * sum(w[i, j] * z[i] * z[j] for i in range(40) for j in range(40)) / (z**2).sum()
        assert found == pytest.approx(expected)


def test_moran_of_a_gradient_is_high_of_a_chequerboard_low_of_a_constant_nan():
    x, y = np.meshgrid(np.arange(12.0), np.arange(12.0))
    xy = np.stack([x, y], -1).reshape(-1, 2)
    values = np.stack([x, (x + y) % 2, np.ones_like(x)], -1).reshape(-1, 3)
    gradient, board, flat = moran(values, knn_weights(xy, k=2))
    assert gradient > 0.8
    assert board == pytest.approx(-1)
    assert np.isnan(flat)


def test_moran_distance_leaves_out_constant_genes(cloud):
    weights = knn_weights(cloud)
    measured = np.random.default_rng(1).normal(size=(40, 2))
    predicted = measured[:, ::-1].copy()
    a, b = moran(measured, weights)
    assert moran_mae(measured, predicted, weights) == pytest.approx(abs(a - b))
    predicted[:, 0] = 1
    assert moran_mae(measured, predicted, weights) == pytest.approx(abs(a - b))
    assert np.isnan(moran_mae(measured, np.ones_like(measured), weights))


def test_structural_similarity_is_that_of_images_and_one_for_equal_maps():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    ij = np.argwhere(np.ones((40, 40)))
    one, other = rng.random((40, 40)), rng.random((40, 40))
    one[10:25, 10:25] += 1
    other[10:25, 12:27] += 1
    expected = structural_similarity(one, other, data_range=np.ptp(one), gaussian_weights=True, use_sample_covariance=False)  # fmt: skip
    windows = similarity_windows(ij * 100.0)
    inside = np.flatnonzero((np.abs(ij - 19.5) < 15).all(axis=1))  # where the window of images is whole
    found = ssim(one.reshape(-1, 1), other.reshape(-1, 1), windows[inside])
    assert found[0] == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(ssim(one.reshape(-1, 1), one.reshape(-1, 1), windows), 1)
    assert np.isnan(ssim(np.ones((1600, 1)), other.reshape(-1, 1), windows)).all()


def test_locations_of_different_sections_are_no_neighbors():
    xy, section = np.array([[0.0, 0], [5, 0], [0, 1], [5, 1], [1, 0], [0, 0]]), np.array(list("babaab"))
    layout = Layout.of(xy, section)
    same = section[:, None] == section
    for weights in (layout.neighbors, layout.windows):
        assert not (weights.toarray() * ~same).any()
        np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert Layout.of(np.zeros((0, 2))).windows.shape == (0, 0)
