"""Transformations: the one place where they are looked up, inverted and applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata.transformations import get_transformation

from hisdiff import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata.transformations import BaseTransformation

_XY = ("x", "y")


class Frame:
    """The coordinate systems of one element, and the way to each of them.

    Parameters
    ----------
    transformations
        From the element's own coordinates, by the name of the system.
    """

    def __init__(self, transformations: Mapping[str, BaseTransformation]) -> None:
        self.transformations = dict(transformations)
        # SpatialData renames the systems of objects that it puts together to um-A, um-B, ...
        renamed = [name for name in self.transformations if name.startswith(f"{_keys.UM}-")]
        self._um = renamed[0] if _keys.UM not in self.transformations and len(renamed) == 1 else _keys.UM
        self._matrices: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, element: Any) -> Frame:
        """Return the frame of an element; of an image in several scales, that of one level."""
        return cls(get_transformation(element, get_all=True))

    @property
    def systems(self) -> list[str]:
        """Names of the coordinate systems; ``um`` also where it was renamed."""
        return [*self.transformations, *([_keys.UM] if self._um != _keys.UM else [])]

    def matrix(self, system: str) -> np.ndarray:
        """Return the ``(3, 3)`` matrix from the element's own (x, y) to a system."""
        if system not in self._matrices:
            own = self._um if system == _keys.UM else system
            self._matrices[system] = self.transformations[own].to_affine_matrix(_XY, _XY)
        return self._matrices[system]

    def shared(self, other: Frame) -> list[str]:
        """Return the coordinate systems that two elements share."""
        return [name for name in self.transformations if name in other.transformations]

    def to(self, other: Frame) -> np.ndarray | None:
        """Return the matrix to another element's own coordinates, by the first system they share; None without one."""
        for name in self.shared(other):
            return inverse(other.matrix(name)) @ self.matrix(name)
        return None


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix of the way back; a ``ValueError`` where there is none."""
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"A transformation has no inverse: it maps the plane to a line or a point ({matrix})."
        ) from error


def scaling(factor: float) -> np.ndarray:
    """Return the matrix that multiplies x and y."""
    return np.diag([factor, factor, 1.0])


def area_of(matrix: np.ndarray) -> float:
    """Return the factor by which areas grow."""
    return float(abs(np.linalg.det(matrix[:2, :2])))


def scale_of(matrix: np.ndarray) -> float:
    """Return the factor by which lengths grow: the root of that of areas."""
    return float(np.sqrt(area_of(matrix)))


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points ``(n, 2)``, (x, y), moved by a matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]
