import numpy as np

from hisdiff._stats._pca import column_scale, principal_axes


def test_axes_are_those_of_largest_variance_with_its_root():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 3)) * [1, 5, 2]
    axes, spread = principal_axes(values, 2)
    np.testing.assert_allclose(np.abs(axes), [[0, 0], [1, 0], [0, 1]], atol=0.05)
    np.testing.assert_allclose(spread, [5, 2], rtol=0.05)


def test_equal_rows_and_few_rows_have_axes_too():
    axes, spread = principal_axes(np.ones((9, 4)), 2)
    assert axes.shape == (4, 2)
    np.testing.assert_array_equal(spread, 0)
    assert principal_axes(np.eye(3, 8), 5)[0].shape == (8, 2)
    assert principal_axes(np.ones((1, 4)), 5)[0].shape == (4, 1)


def test_flat_columns_keep_their_scale():
    values = np.stack([np.full(50, 1e4, dtype=np.float32), np.linspace(-1, 1, 50, dtype=np.float32)], axis=1)
    center, scale = column_scale(values)
    np.testing.assert_allclose(center, [1e4, 0], atol=1e-6)
    assert scale[0] == 1
    assert 0.5 < scale[1] < 0.7
