"""Argument checks: every message names the value seen and the available choices."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


# What systems allow.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095


def listing(names: Iterable[Any], max_names: int = 12) -> str:
    """Write names as a list that fits into a message."""
    # numpy's scalars would show as np.str_('x').
    names = [repr(name.item() if isinstance(name, np.generic) else name) for name in names]
    more = f", ... ({len(names)} in all)" if len(names) > max_names else ""
    return "[" + ", ".join(names[:max_names]) + more + "]"


@overload
def names_of(given: None) -> None: ...
@overload
def names_of(given: str | Iterable[Any]) -> list[Any]: ...
@overload
def names_of(given: str | Iterable[Any] | None) -> list[Any] | None: ...
def names_of(given: str | Iterable[Any] | None) -> list[Any] | None:
    """Return the names that an argument gives: a string is one name; None for the usual ones."""
    return None if given is None else [given] if isinstance(given, str) else list(given)


def _hint(value: Any, options: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(value), [str(option) for option in options], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def one_of(value: Any, options: Collection[Any], what: str) -> Any:
    """Return ``value`` if it is one of ``options``, else raise ``ValueError``."""
    if value not in options:
        raise ValueError(f"{what} is one of {listing(options)}, not {value!r}.{_hint(value, options)}")
    return value


def present(key: Any, options: Collection[Any], what: str) -> Any:
    """Return ``key`` if it is among ``options``, else raise ``KeyError``."""
    if key not in options:
        raise KeyError(f"There is no {what} {key!r}; available: {listing(options)}.{_hint(key, options)}")
    return key


def positive(value: Any, what: str, *, integer: bool = False) -> Any:
    """Return ``value`` if it is a finite number above zero (and whole, if ``integer``), else raise."""
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(
            f"{what} is a positive {'integer' if integer else 'number'}, not {type(value).__name__} {value!r}."
        )
    if not np.isfinite(value) or value <= 0:
        raise ValueError(f"{what} has to be above zero, not {value!r}.")
    return int(value) if integer else float(value)


def check_radii(radius: np.ndarray, what: str) -> np.ndarray:
    """Return the radii of shapes if all of them are finite and above zero, else raise."""
    radius = np.asarray(radius, dtype=float)
    wrong = ~(np.isfinite(radius) & (radius > 0))
    if wrong.any():
        value = "NaN" if np.isnan(radius[wrong][0]) else f"{radius[wrong][0]:g}"
        raise ValueError(
            f"{int(wrong.sum())} of {len(radius)} shapes of {what} have a radius that is NaN, infinite or not above zero, such as "
            f"{value}; give them one, or leave them out."
        )
    return radius


def in_range(value: Any, low: float, high: float, what: str) -> Any:
    """Return a number that is from ``low`` to ``high``, both included, else raise ``ValueError``."""
    if low <= value <= high:
        return value
    if value <= 0 < low:
        raise ValueError(f"{what} has to be above zero, not {value!r}.")
    raise ValueError(f"{what} is from {low:g} to {high:g}, not {value!r}.")


def storable(name: str, what: str) -> str:
    """Return a name that SpatialData and zarr can store and that can be reached in a table, else raise ``ValueError``."""
    if not re.fullmatch(r"(?!__|\.+$)[A-Za-z0-9_.-]{1,200}", name) or name == "X":
        raise ValueError(
            f"{what}={name!r} is not a valid name: names have up to 200 letters, digits, '_', '-' and '.' and do not begin "
            f"with '__' (what SpatialData can store), and 'X' is the matrix of a table."
        )
    return name


def seed_of(rng: int | np.random.Generator) -> int:
    """Return the seed that ``rng`` stands for; a Generator is drained once to one integer."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng is an integer or a numpy Generator, not {type(rng).__name__} {rng!r}.")
    if rng < 0:
        raise ValueError(f"rng has to be zero or above, not {rng}.")
    return int(rng)


def path_of(value: Any, what: str) -> Path:
    """Return a path that a string or a path object names; ``~`` is the home folder."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{what} is a path, not {type(value).__name__} {value!r}.")
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise ValueError(f"{what}={text!r} is not a path.")
    if (
        any(len(os.fsencode(part)) > _LONGEST_NAME for part in Path(text).parts)
        or len(os.fsencode(text)) > _LONGEST_PATH
    ):
        raise ValueError(f"{what}={reprlib.repr(text)} is not a path: it is too long.")
    return Path(text).expanduser()
