"""Physical scale: from array positions and from affine transformations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ArrayFit(NamedTuple):
    """How spots lie on a capture array: micrometres per pixel, and the root mean square of what is left, in um."""

    mpp: float
    residual_um: float
    mirrored: bool = False


def fit_array(pixels: np.ndarray, array_units: np.ndarray, pitch_um: float, *, trim: float = 0.0) -> ArrayFit:
    """Fit the similarity (scale, rotation, shift, mirror) that maps array units to pixels by least squares.

    Jitter of single spots, which nearest-neighbour distances follow, averages out.

    Parameters
    ----------
    pixels
        ``(n, 2)`` centres in full-resolution pixels.
    array_units
        ``(n, 2)`` positions in array units.
    pitch_um
        Micrometres per array unit.
    trim
        Share of the spots, those that fit worst, that is left out of a second fit and of what is left.
    """
    if len(pixels) < 3:
        raise ValueError(f"At least 3 spots are needed to fit the scale, not {len(pixels)}.")
    p, a = (np.asarray(points, dtype=float) @ np.array([1, 1j]) for points in (pixels, array_units))
    px_per_unit, error, mirrored = _similarity(p, a)
    if trim:
        kept = np.argsort(error)[: max(len(p) - int(trim * len(p)), 3)]
        if np.ptp(a[kept].real) + np.ptp(a[kept].imag) > 0:
            px_per_unit, error, mirrored = _similarity(p[kept], a[kept])
    left = float(np.sqrt(np.mean(error**2)) / px_per_unit * pitch_um)
    return ArrayFit(float(pitch_um / px_per_unit), left, mirrored)


def _similarity(p: np.ndarray, a: np.ndarray) -> tuple[float, np.ndarray, bool]:
    """Return the scale of the similarity from complex ``a`` to ``p``, how far each point of ``p`` is off, and whether it is a mirror."""
    p, a = p - p.mean(), a - a.mean()
    spread = np.sum(np.abs(a) ** 2)
    if spread == 0:
        raise ValueError("All spots have the same array position; the scale cannot be fitted.")
    # A mirrored array (y up) is fitted by the conjugate; the better of the two explains more of the variance.
    mirrored = bool(abs(np.vdot(a.conj(), p)) > abs(np.vdot(a, p)) * (1 + 1e-9))  # points on a line fit both ways
    a = a.conj() if mirrored else a
    turn = np.vdot(a, p) / spread
    if turn == 0:
        raise ValueError("All spots are at one place; the scale cannot be fitted.")
    return float(abs(turn)), np.abs(p - turn * a), mirrored


def array_mpp(pixels: np.ndarray, array_units: np.ndarray, pitch_um: float) -> float:
    """Return micrometres per pixel from spots whose position on the capture array is known; see :func:`fit_array`."""
    return fit_array(pixels, array_units, pitch_um).mpp


def similarity_scale(matrix: np.ndarray, what: str, *, tolerance: float = 0.01) -> float:
    """Return the scale of a 2-D affine ``(3, 3)`` matrix that is a similarity; a stretch or shear is a ``ValueError``."""
    singular = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if singular[1] <= 0 or singular[0] / singular[1] > 1 + tolerance:
        raise ValueError(
            f"{what} is stretched or sheared (scales {singular[0]:.4g} and {singular[1]:.4g}); one scale is needed."
        )
    return float(np.sqrt(singular[0] * singular[1]))
