"""Checks of the arguments of public functions, by their annotations and names.

The annotation tells the kind (a number is finite, a path names a regular file or a folder, a string is not empty), the
name tells the range, the same for every function. What depends on data is checked by the functions themselves.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import reprlib
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hisdiff._check import in_range, one_of, path_of, storable

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Ranges by name, both ends included: what is wrong by far is refused, not what is unusual.
_MOST = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "alpha": (0, 1),
    "image_alpha": (0, 1),
    "threshold": (0, 1),
    "min_score": (0, 1),
    "dropout": (0, 1),
    "continuity": (0, 1e9),
    "min_count": (0, 1e12),
    "smooth_um": (0, 1e6),
    "z_um": (-1e9, 1e9),
    "keep_draws": (0, 10_000),
    "n_draws": (1, 10_000),
    "n_steps": (1, 100_000),
    "n_seeds": (1, 1000),
    "n_sections": (1, 1000),
    "n_perms": (0, 10**7),
    "n_resamples": (1, 10**6),
    "n_edges": (1, 10**6),
    "n_labels": (1, 1000),
    "working_px": (8, 20_000),
    "batch_size": (1, 10**6),
    "coarsen": (1, 1000),
    "seed": (0, 2**63),
    "size_um": (300, 100_000),
    "density": (1e-6, 1e6),
    "resolution": (1e-9, 1e6),
    "limit": (1e-12, 1e12),
    "library_size": (1e-6, 1e12),
    "mpp": (1e-3, 1000),
    "spot_scale": (1e-3, 1000),
}
_UM, _UM2 = (1e-3, 1e6), (0, 1e12)
_NUMBERS = (int, float, np.integer, np.floating)


@dataclass(frozen=True)
class Kind:
    """A member of a union of types: its name, and what it is made of."""

    name: str
    of: tuple[tuple[Kind, ...], ...] = ()


def checked(function: _Function) -> _Function:
    """Check the arguments of every call of a public function; see the module."""
    signature = inspect.signature(function)
    rules = {
        parameter.name: (kinds_of(str(parameter.annotation)), parameter.default)
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    }

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as err:
            raise TypeError(f"{function.__name__}: {err}") from None
        for name, value in given.items():
            kinds, default = rules.get(name, ((), value))
            if value is not default:
                check(value, kinds, name)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@functools.cache
def kinds_of(annotation: str) -> tuple[Kind, ...]:
    """Return the members of a union that an annotation spells; none where any value will do."""
    members = []
    for member in _split(annotation.replace("'", "").replace('"', ""), "|"):
        name, _, inside = member.partition("[")
        parts = _split(inside[:-1], ",") if inside else []
        if name == "Literal":
            members.append(Kind(name, tuple((Kind(part),) for part in parts)))
        elif name == "Names":  # an alias of the seam
            members.append(Kind("Sequence", ((Kind("str"),),)))
        else:
            members.append(
                Kind(name if name == "..." else name.rpartition(".")[2], tuple(kinds_of(part) for part in parts))
            )
    return tuple(members) if all(kind.name in _KNOWN for kind in members) else ()


def _split(text: str, at: str) -> list[str]:
    """Split at the top level only, not inside brackets."""
    parts, level = [""], 0
    for letter in text:
        level += (letter == "[") - (letter == "]")
        if letter == at and not level:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def check(value: Any, kinds: tuple[Kind, ...], what: str) -> None:
    """Raise where a value is of none of the kinds (``TypeError``), or out of what its name allows (``ValueError``)."""
    if not kinds:
        return
    fitting = [kind for kind in kinds if _KNOWN[kind.name](value)]
    if not fitting:
        wanted = " or ".join(
            dict.fromkeys(_IN_WORDS.get(kind.name, kind.name) for kind in kinds if kind.name != "None")
        )
        hint = " Bring an AnnData and its image together with hd.io.from_anndata." if _named(value, "AnnData") else ""
        raise TypeError(f"{what} is {wanted}, not {type(value).__name__} {reprlib.repr(value)}.{hint}")
    kind = fitting[0]
    if kind.name in ("str", "Path") and any(other.name == "Path" for other in kinds):
        _check_path(value, what)
    elif kind.name == "str":
        _check_string(value, what)
    elif kind.name in ("int", "float"):
        check_number(value, what, integer=all(other.name != "float" for other in kinds))
    elif kind.name == "Literal":
        one_of(value, [part[0].name for part in kind.of], what)
    elif kind.name in ("Sequence", "Iterable", "tuple", "list"):
        _check_items(value, kind, what)
    elif kind.name in ("Mapping", "dict") and len(kind.of) == 2:
        for key, item in value.items():
            check(key, kind.of[0], f"A key of {what}")
            check(item, kind.of[1], f"{what}[{key!r}]")


def check_number(value: Any, what: str, *, integer: bool) -> None:
    """Raise where a number is not finite, or outside the range that its name asks for."""
    if not math.isfinite(value):
        raise ValueError(f"{what} is a finite number, not {value!r}.")
    low, high = _range_of(what, integer=integer)
    in_range(value, low, high, what)


def _range_of(name: str, *, integer: bool) -> tuple[float, float]:
    if name in _RANGES:
        return _RANGES[name]
    if name.endswith("_um2"):
        return _UM2
    if name.endswith("_um"):
        return _UM
    if integer:
        return (1 if name.startswith("n_") else 0), _MOST
    return -math.inf, math.inf


def _check_string(value: str, what: str) -> None:
    if not value.strip():
        raise ValueError(f"{what} is a name, not the empty string {value!r}.")
    if not value.isprintable():
        raise ValueError(f"{what}={value!r} has characters that cannot be printed.")
    if what == "key_added":
        storable(value, what)
    if what.endswith("cmap"):
        from matplotlib import colormaps  # whoever draws has it already

        one_of(value, list(colormaps), what)


def _check_path(value: Any, what: str) -> None:
    path = path_of(value, what)
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # missing, or too long for a path: the reader raises, and names what it needs
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{what}={os.fspath(value)!r} is neither a file nor a folder.")


def _check_items(value: Any, kind: Kind, what: str) -> None:
    if not kind.of:
        return
    if kind.of == ((Kind("str"),),) and not len(value):
        raise ValueError(f"{what} is empty; give at least one name, or None where that is a default.")
    fixed = kind.name == "tuple" and len(kind.of) > 1 and kind.of[1] != (Kind("..."),)
    if fixed and len(value) != len(kind.of):
        raise ValueError(f"{what} has {len(kind.of)} values, not {len(value)}: {reprlib.repr(value)}.")
    for number, item in enumerate(value):
        check(item, kind.of[number] if fixed else kind.of[0], f"{what}[{number}]")


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and not isinstance(value, (bool, np.bool_))


def _is_sequence(value: Any) -> bool:
    """Whether something has items in an order, or at least items: a string is one name, not several."""
    if isinstance(value, (str, bytes, Mapping)) or _named(value, "SpatialData", "AnnData", "DataFrame"):
        return False
    return isinstance(value, Iterable) and hasattr(value, "__len__") and getattr(value, "ndim", 1) == 1


def _named(value: Any, *names: str) -> bool:
    """Whether a value is of a class of one of these names: the classes themselves would be slow to import."""
    return any(cls.__name__ in names for cls in type(value).__mro__)


def _of_class(name: str) -> Callable[[Any], bool]:
    return lambda value: _named(value, name)


_KNOWN: dict[str, Callable[[Any], bool]] = {
    "None": lambda value: value is None,
    "bool": lambda value: isinstance(value, (bool, np.bool_)),
    "int": _is_integer,
    "float": _is_number,
    "str": _is_string,
    "Path": lambda value: isinstance(value, os.PathLike),
    "Literal": lambda value: isinstance(value, str),
    "...": lambda value: True,
    "Callable": callable,
    **dict.fromkeys(("Sequence", "Iterable", "tuple", "list"), _is_sequence),
    **dict.fromkeys(("Mapping", "dict"), lambda value: isinstance(value, Mapping)),
    **{name: _of_class(name) for name in ("SpatialData", "AnnData", "DataFrame", "Series", "Axes")},
    "Model": lambda value: _named(value, "Model") or all(hasattr(value, name) for name in ("method", "history")),
    **{name: _of_class(name) for name in ("ndarray", "Array", "Generator")},
}
_IN_WORDS = {
    "ndarray": "an array",
    "Array": "an array",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "Path": "a path",
    "Callable": "a function",
    "Literal": "a string",
    **dict.fromkeys(("Sequence", "Iterable", "tuple", "list"), "a sequence"),
    **dict.fromkeys(("Mapping", "dict"), "a mapping"),
    **{name: f"a{'n' if name[0] in 'AEIOU' else ''} {name}" for name in ("SpatialData", "AnnData", "Model", "Axes")},
}
