"""Products, solutions and eigenvectors of large dense matrices, on a CUDA card where a method runs on one.

On a card all is computed in float64; what comes back has the precision of what was given, as on the CPU. What is small stays with
numpy: to send it to the card takes longer. Small solutions and eigenvectors stay on one core as well, since several wait for each other.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, get_blas_funcs, get_lapack_funcs

from hisdiff._cores import one_core
from hisdiff._device import resolve_device
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

_LEAST_FLOP = 2e10  # a second of one core
_DEVICE: ContextVar[str | None] = ContextVar("device of dense algebra", default="cpu")


@contextmanager
def dense_on(device: str | None) -> Iterator[None]:
    """Name the device for large matrices; None for the package's setting. Without this it is the CPU."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``a @ b`` of matrices."""
    flop = 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
    return _run(flop, lambda x, y: x @ y, lambda x, y: (x @ y,), a, b)


def solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the solution x of ``a @ x = b`` for symmetric, positive definite a."""
    flop = 1 / 3 * len(a) ** 3 + 2.0 * len(a) ** 2 * b.shape[1]
    here = _solve if flop > _LEAST_FLOP else one_core()(_solve)
    return _run(flop, here, lambda x, y: (_torch().linalg.solve(x, y),), a, b)


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    try:
        # The transpose of a symmetric matrix is laid out as LAPACK wants it.
        return cho_solve(cho_factor(a.T, check_finite=False), b, check_finite=False)
    except LinAlgError:  # definite but for rounding
        return np.linalg.solve(a, b)


def times_upper(a: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return ``a @ upper`` of an upper triangular matrix, which takes half of the work of other products; ``a`` may be overwritten."""
    trmm = get_blas_funcs("trmm", (a, upper))
    if upper.flags.c_contiguous:  # its transpose is laid out as BLAS wants it
        return trmm(1.0, upper.T, a.T, lower=1, overwrite_b=1).T
    return trmm(1.0, upper, a.T, trans_a=1, overwrite_b=1).T


def upper_inverse(upper: np.ndarray) -> np.ndarray:
    """Return the inverse of an upper triangular matrix, a third of the work of solving for it."""
    return get_lapack_funcs("trtri", (upper,))(upper)[0]


def eigh(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues of a symmetric matrix, increasing, and its eigenvectors as columns."""
    flop = 9.0 * len(a) ** 3
    here = np.linalg.eigh if flop > _LEAST_FLOP else one_core()(np.linalg.eigh)
    return _run(flop, here, lambda x: tuple(_torch().linalg.eigh(x)), a)


def _run(flop: float, here: Callable[..., Any], there: Callable[..., Any], *matrices: np.ndarray) -> Any:
    place = _place(flop)
    if place is not None:
        torch = _torch()
        try:
            on_card = [torch.from_numpy(np.ascontiguousarray(m, dtype=np.float64)).to(place) for m in matrices]
            given = np.result_type(*matrices)
            found = tuple(part.cpu().numpy().astype(given, copy=False) for part in there(*on_card))
        except torch.OutOfMemoryError:
            logger.warning("out of memory on the device: a matrix of %s is worked on by the CPU", matrices[0].shape)
        else:
            return found[0] if len(found) == 1 else found
    return here(*matrices)


def _place(flop: float) -> torch.device | None:
    """Return the card for work of a size, or None for the CPU."""
    name = _DEVICE.get()
    if flop < _LEAST_FLOP or name == "cpu":
        return None
    place = resolve_device(name)
    return place if place.type == "cuda" else None


def _torch() -> Any:
    import torch

    return torch
