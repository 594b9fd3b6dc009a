import numpy as np
import pytest
import torch

from hisdiff.methods.tesla._regions import find_targets, programme, together, unit_range
from hisdiff.methods.tesla._segment import RegionNetwork, continuity, merge_small, segment


def test_the_network_has_as_many_parameters_as_the_published_one() -> None:
    assert sum(p.numel() for p in RegionNetwork().parameters()) == 265_900


def test_continuity_of_a_constant_response_is_zero_and_of_a_step_its_height_over_the_side() -> None:
    assert continuity(torch.ones(1, 5, 8, 8)) == 0
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 3.0
    assert float(continuity(step)) == pytest.approx(3 / 7)


def test_small_labels_take_the_most_frequent_large_one_around_them() -> None:
    labels = np.zeros((20, 20), dtype=int)
    labels[:, 10:] = 1
    labels[5:7, 2:4] = 2
    labels[12:14, 15:17] = 3
    merged = merge_small(labels, 10)
    assert merged[5, 2] == 0
    assert merged[12, 15] == 1
    assert set(np.unique(merged)) == {0, 1}
    np.testing.assert_array_equal(merge_small(labels, 1000), labels)


def two_blobs(side: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two blobs of one colour; the gene is in the first only."""
    y, x = np.mgrid[:side, :side]
    first, second = (np.hypot(y - c, x - c) < 13 for c in (17, 46))
    noise = np.random.default_rng(0).normal(0, 0.02, (2, side, side))
    gray = np.where(first | second, 0.3, 0.8) + noise[0]
    gene = np.where(first, 0.9, 0.05) + noise[1]
    return np.clip(np.stack([gray, gene]), 0, 1), first, second


def test_two_blobs_with_one_marker_give_the_blob_of_the_marker() -> None:
    bands, first, second = two_blobs()
    labels = segment(bands, n_labels=30, continuity_weight=5.0, min_px=4, n_steps=30, seed=0, device="cpu")
    found = find_targets(labels, bands[1], np.ones_like(first), "small")
    region = found.target[labels]
    # The network sees four pixels around each, so that the outline is not sharp.
    assert (region & first).sum() / (region | first).sum() > 0.7
    assert not (region & second).any()
    size = np.bincount(labels.ravel())
    assert (np.diff(size) <= 0).all()
    again = segment(bands, n_labels=30, continuity_weight=5.0, min_px=4, n_steps=30, seed=0, device="cpu")
    np.testing.assert_array_equal(again, labels)


def test_a_programme_asks_for_several_markers_at_once() -> None:
    values = np.array([[0.0, 0, 0], [5, 0, 0], [5, 2, 0], [5, 2, 9]])
    np.testing.assert_allclose(programme(values, 1, "min"), [0, 1, 1, 1])
    np.testing.assert_allclose(programme(values, 3, "min"), [0, 0, 0, 1])
    np.testing.assert_allclose(programme(values, 2, "mean"), [0, 0.5, 1, 1])
    assert not programme(np.full((4, 2), 3.0), 1, "min").any()


def test_targets_are_labels_above_a_part_of_the_highest_mean() -> None:
    labels = np.repeat([0, 1, 2, 3], 5).reshape(4, 5)
    band = np.repeat([0.1, 0.4, 1.0, 0.9], 5).reshape(4, 5)
    inside = labels != 3
    assert find_targets(labels, band, inside, "small").target.tolist() == [False, False, True, False]
    assert find_targets(labels, band, inside, "large").target.tolist() == [False, True, True, False]
    assert not find_targets(labels, np.zeros_like(band), inside, "small").target.any()


def test_several_programmes_have_to_meet() -> None:
    scores = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0.8, 0.6, 0.4, 0.2], [0.0, 0, 0, 0]])
    np.testing.assert_allclose(together(scores, 3, 0.5), [1, 0, 0, 0])
    np.testing.assert_allclose(together(scores, 2, 0.5), [1, 1, 0.6, 0])
    np.testing.assert_allclose(unit_range(np.array([2.0, 4, 3])), [0, 1, 0.5])
