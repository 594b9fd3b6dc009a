import numpy as np
import pytest

from hisdiff._training._ood import EmbeddingDistribution


def embeddings(n: int, seed: int, dim: int = 50) -> np.ndarray:
    """A five-dimensional cloud in ``dim`` dimensions, of columns with very different units."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(99).normal(size=(5, dim))
    units = np.geomspace(1e-3, 1e3, dim)
    return ((rng.normal(size=(n, 5)) @ axes + 0.1 * rng.normal(size=(n, dim)) + 3) * units).astype(np.float32)


@pytest.fixture(scope="module")
def known() -> EmbeddingDistribution:
    return EmbeddingDistribution.fit(embeddings(600, 0))


def test_new_tissue_of_the_same_kind_is_not_flagged(known):
    assert known.flag(embeddings(600, 1)).mean() < 0.005
    assert np.median(known.distance(embeddings(600, 1))) == pytest.approx(1, abs=0.15)


def test_a_slight_shift_passes_and_a_large_one_is_flagged(known):
    center, scale = known.center, known.scale
    along = known.components[0] * known.spread[0] * scale
    assert not known.flag((center + 2 * along)[None])[0]
    assert known.flag((center + 30 * along)[None])[0]


def test_a_look_the_training_does_not_vary_in_is_flagged(known):
    values = embeddings(5, 1).astype(float)
    direction = np.random.default_rng(5).normal(size=values.shape[1])
    direction -= known.components.T @ (known.components @ direction)
    assert known.flag(values + 2 * direction * known.scale).all()


def test_nan_is_flagged(known):
    values = embeddings(3, 1)
    values[1, 4] = np.nan
    np.testing.assert_array_equal(known.flag(values), [False, True, False])


def test_arrays_rebuild_the_same_object(known):
    again = EmbeddingDistribution.from_arrays(known.arrays())
    values = embeddings(10, 2)
    np.testing.assert_array_equal(again.distance(values), known.distance(values))
    assert again.threshold == known.threshold


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_few_or_equal_rows_are_handled(n):
    values = embeddings(n, 0)
    assert not EmbeddingDistribution.fit(values).flag(values).any()
    assert not EmbeddingDistribution.fit(np.ones((n, 4))).flag(np.ones((n, 4))).any()
