import numpy as np
import pytest

from hisdiff._prediction._draws import DrawAccumulator

GENES = np.array(["A", "B", "C"])


@pytest.fixture
def draws() -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (16, 20, 3)).astype(np.float32)


def collect(draws: np.ndarray, **kw):
    accumulator = DrawAccumulator(**kw)
    for draw in draws:
        accumulator.add(draw)
    return accumulator.result(GENES)


def test_mean_and_spread_are_those_of_the_clipped_draws(draws):
    before = draws.copy()
    prediction = collect(draws)
    clipped = np.maximum(draws, 0)
    np.testing.assert_allclose(prediction.mean, clipped.mean(0), rtol=1e-5)
    np.testing.assert_allclose(prediction.std, clipped.std(0, ddof=1), rtol=1e-4)
    assert prediction.mean.dtype == prediction.std.dtype == np.float32
    assert prediction.draws is None
    np.testing.assert_array_equal(draws, before)


def test_counts_are_averaged_as_counts(draws):
    prediction = collect(draws, units="counts", keep=1)
    counts = np.exp2(np.maximum(draws, 0)) - 1
    np.testing.assert_allclose(prediction.mean, counts.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.draws[0], counts[0], rtol=1e-5, atol=1e-5)
    assert prediction.units == "counts"


def test_spread_survives_a_large_offset(draws):
    prediction = collect(draws + 1000)
    np.testing.assert_allclose(prediction.std, draws.std(0, ddof=1), rtol=1e-3)


def test_keeps_the_first_draws_untouched_by_later_ones(draws):
    prediction = collect(draws, keep=2)
    np.testing.assert_array_equal(prediction.draws, np.maximum(draws[:2], 0))


def test_one_draw_has_no_spread(draws):
    prediction = collect(draws[:1])
    assert np.isnan(prediction.std).all()
    np.testing.assert_array_equal(prediction.mean, np.maximum(draws[0], 0))


def test_no_draw_and_unknown_units_are_errors():
    with pytest.raises(ValueError, match="No draw"):
        DrawAccumulator().result(GENES)
    with pytest.raises(ValueError, match="tpm"):
        DrawAccumulator("tpm")
