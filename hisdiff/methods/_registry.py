"""Methods by name: those of this package, and those that a user registers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from hisdiff._check import listing, one_of

if TYPE_CHECKING:
    from hisdiff.methods._protocols import Method

    M = TypeVar("M", bound="Method | type[Method]")

BUILTIN = {
    "hisdiff": "hisdiff.methods.hisdiff:HisDiff",
    "istar": "hisdiff.methods.istar:IStar",
    "ridge": "hisdiff.methods.ridge:Ridge",
    "stage": "hisdiff.methods.stage:Stage",
    "tesla": "hisdiff.methods.tesla:Tesla",
    "xfuse": "hisdiff.methods.xfuse:XFuse",
}
"""Name -> ``module:class``; a module is imported when its method is requested, so that torch is not loaded before."""
_REGISTERED: dict[str, Method] = {}
_PARTS = ("name", "needs", "needs_to_predict", "config_type", "fitted_type", "fit")
_FITTED_PARTS = ("predict", "state", "from_state")
_NEEDS = frozenset({"counts", "image", "features", "lattice"})


def names() -> list[str]:
    """Return the names of the methods that :func:`get` knows, sorted.

    Examples
    --------
    >>> import hisdiff as hd
    >>> "ridge" in hd.methods.list()
    True
    """
    return sorted(BUILTIN | _REGISTERED)


def get(method: str | Method) -> Method:
    """Return a method by its name, or an object that is one, which is registered for the life of the process.

    Parameters
    ----------
    method
        One of :func:`list`, or an object that meets :class:`Method`.

    Returns
    -------
    The method.

    Raises
    ------
    ValueError
        If there is no method of that name, or another one has the name of the object.
    TypeError
        If the object lacks a part of a method.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sorted(hd.methods.get("ridge").needs)
    ['counts', 'features']
    """
    if not isinstance(method, str):
        return _take(method)
    one_of(method, names(), "method")
    if method in _REGISTERED:
        return _REGISTERED[method]
    module, attribute = BUILTIN[method].split(":")
    return getattr(import_module(module), attribute)()


def register(method: M) -> M:
    """Give a method of your own its name, so that ``hd.tl.fit(method=name)`` and saved models find it.

    It is known for the life of the process: a script that loads a model of it registers it first. The class of a cell
    that is run again replaces the one before.

    Parameters
    ----------
    method
        Object that meets :class:`Method`, or its class, which is called without arguments.

    Returns
    -------
    What was given, so that this serves as a decorator.

    Raises
    ------
    ValueError
        If another method has that name.
    TypeError
        If a part of a method is missing.

    Examples
    --------
    >>> import hisdiff as hd
    >>> from hisdiff.methods.ridge import Ridge
    >>> @hd.methods.register
    ... class Mine(Ridge):
    ...     name = "mine"
    >>> hd.tl.fit(hd.datasets.toy(size_um=400), method="mine").method
    'mine'
    """
    _take(method() if isinstance(method, type) else method)
    return method


def _take(method: Any) -> Method:
    """Check an object of the user's and remember it under its name."""
    _check(method)
    known = _REGISTERED.get(method.name)
    builtin = BUILTIN.get(method.name)
    if builtin is not None:
        if _path(method) != builtin:
            raise ValueError(f"Method {method.name!r} is one of this package; give yours another name.")
        return method
    if known is not None and _path(known) != _path(method):
        raise ValueError(
            f"Another method is registered as {method.name!r}: {_path(known)}; give one of them another name."
        )
    _REGISTERED[method.name] = method
    return method


def _check(method: Any) -> None:
    if isinstance(method, type) or any(not hasattr(method, part) for part in _PARTS):
        given = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        lacks = [part for part in _PARTS if not hasattr(method, part)]
        why = f"it lacks {listing(lacks)}" if lacks else "give an object of it"
        raise TypeError(f"method is a name or an object that meets hd.methods.Method, not {given}: {why}.")
    if not isinstance(method.name, str) or not method.name.isidentifier():
        raise TypeError(f"The name of a method is a word such as 'mine', not {method.name!r}.")
    lacks = [part for part in _FITTED_PARTS if not hasattr(method.fitted_type, part)]
    if lacks:
        raise TypeError(f"fitted_type of method {method.name!r} lacks {listing(lacks)}; see hd.methods.Fitted.")
    for part in ("needs", "needs_to_predict"):
        for need in getattr(method, part):
            one_of(need, sorted(_NEEDS), f"{part} of method {method.name!r}")


def _path(method: object) -> str:
    return f"{type(method).__module__}:{type(method).__qualname__}"
