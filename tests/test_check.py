from __future__ import annotations

import numpy as np
import pytest

from hisdiff._check import listing, one_of, positive, present, seed_of


def test_one_of_names_the_value_the_options_and_the_nearest() -> None:
    assert one_of("ridge", ("ridge", "hisdiff"), "method") == "ridge"
    with pytest.raises(ValueError, match=r"method is one of \['ridge', 'hisdiff'\], not 'rigde'. Did you mean 'ridge'"):
        one_of("rigde", ("ridge", "hisdiff"), "method")


def test_present_is_a_key_error_that_lists_what_there_is() -> None:
    with pytest.raises(KeyError, match="no layer 'raw'; available: \\['counts'\\]"):
        present("raw", ["counts"], "layer")


def test_listing_cuts_long_lists_and_says_how_long_they_are() -> None:
    assert listing(range(30), max_names=2) == "[0, 1, ... (30 in all)]"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_refuses_what_is_not_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        positive(value, "n")


@pytest.mark.parametrize("value", ["3", True, None, 2.5])
def test_positive_integer_refuses_other_types(value: object) -> None:
    with pytest.raises(TypeError, match="positive integer"):
        positive(value, "n", integer=True)


def test_a_generator_is_drained_once_and_an_integer_is_kept() -> None:
    generator = np.random.default_rng(3)
    first, second = seed_of(generator), seed_of(generator)
    assert first == seed_of(np.random.default_rng(3))
    assert first != second
    assert seed_of(np.int64(7)) == 7


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)])
def test_seeds_that_are_none_are_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="rng"):
        seed_of(value)
