import numpy as np
import pytest

from hisdiff._stats._pca import column_scale, leading, principal_axes


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


@pytest.mark.parametrize(("n", "width", "by_one"), [(50, 20, False), (20, 50, False), (80, 120, True)])
def test_leading_directions_are_those_of_a_full_decomposition(n, width, by_one, monkeypatch):
    if by_one:
        monkeypatch.setattr("hisdiff._stats._pca._LANCZOS", 10)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, 6)) * [9, 7, 5, 4, 3, 2] @ rng.normal(size=(6, width)) + rng.normal(size=(n, width))
    squares, axes = leading(values, 5)
    _, s, vt = np.linalg.svd(values, full_matrices=False)
    np.testing.assert_allclose(squares, np.square(s[:5]), rtol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(axes * vt[:5], axis=1)), 1, atol=1e-7)
    assert (axes.sum(axis=1) >= 0).all()
