"""One level of an image as RGB pixels, of which the chunks read last are kept."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._sdata._lazy import in_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

WHITE = 255
# Neighbouring patches lie in the same chunks: to find these again is faster than a graph and a decoder for each patch.
_KEPT_BYTES = 64 * 2**20
_LARGEST_KEPT = _KEPT_BYTES // 8


class Pixels:
    """Read boxes of an array ``(c, y, x)`` as uint8 ``(3, y, x)``.

    Parameters
    ----------
    data
        Dask or numpy array: uint8, uint16 (full range) or float in 0 to 1; three channels, or four with alpha, which is
        laid over white.
    name
        For messages.
    """

    def __init__(self, data: Any, name: str) -> None:
        self._data, self._name = data, name
        self.height, self.width = data.shape[1:]
        chunks = getattr(data, "chunks", None) or [(size,) for size in data.shape]
        self._edges = [np.cumsum((0, *sizes)) for sizes in chunks[1:]]
        largest = data.shape[0] * max(chunks[1]) * max(chunks[2]) * data.dtype.itemsize
        self._n_kept = _KEPT_BYTES // largest if hasattr(data, "compute") and largest <= _LARGEST_KEPT else 0
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._decoding: dict[tuple[int, int], Lock] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Pixels, (self._data, self._name)

    def box(self, y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
        """Return a box of pixels, white where the array has none."""
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, self.height), min(x1, self.width)
        out = np.empty((3, y1 - y0, x1 - x0), dtype=np.uint8)
        if (top, left, bottom, right) != (y0, x0, y1, x1):
            out[:] = WHITE
        if top < bottom and left < right:
            for (y, x), part in self._parts(top, left, bottom, right):
                out[:, y - y0 : y - y0 + part.shape[1], x - x0 : x - x0 + part.shape[2]] = self._rgb(part)
        return out

    def _parts(self, top: int, left: int, bottom: int, right: int) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yield the pieces ``(c, y, x)`` of a box that lie in one chunk each, with the position of the first pixel."""
        if not self._n_kept:
            yield (top, left), _load(self._data[:, top:bottom, left:right], self._name)
            return
        rows, columns = self._edges
        for i in range(np.searchsorted(rows, top, "right") - 1, np.searchsorted(rows, bottom)):
            for j in range(np.searchsorted(columns, left, "right") - 1, np.searchsorted(columns, right)):
                y, x = max(top, rows[i]), max(left, columns[j])
                yield (y, x), self._chunk(i, j)[:, y - rows[i] : bottom - rows[i], x - columns[j] : right - columns[j]]

    def _chunk(self, i: int, j: int) -> np.ndarray:
        with self._lock:
            chunk = self._kept.pop((i, j), None)
            if chunk is not None:
                self._kept[i, j] = chunk  # now the last to go
                return chunk
            decoding = self._decoding.setdefault((i, j), Lock())
        with decoding:  # others that need it wait for the first
            chunk = self._kept.get((i, j))
            if chunk is None:
                chunk = _load(self._data.blocks[:, i, j], self._name)
                with self._lock:
                    self._kept[i, j] = chunk
                    self._decoding.pop((i, j), None)
                    if len(self._kept) > self._n_kept:
                        del self._kept[next(iter(self._kept))]
        return chunk

    def _rgb(self, part: np.ndarray) -> np.ndarray:
        """Turn (c, y, x) of any accepted type into uint8 (3, y, x)."""
        if part.dtype == np.uint8 and len(part) == 3:
            return part
        full = {"uint8": 255.0, "uint16": 65535.0}.get(part.dtype.name, 1.0)
        unit = part.astype(np.float32) / full
        if part.dtype.kind == "f" and (not np.isfinite(unit).all() or unit.min() < -1e-3 or unit.max() > 1.001):
            raise ValueError(
                f"Image {self._name!r} is of type float with values outside 0 to 1; rescale it to 0 to 1 or to uint8."
            )
        if len(part) == 4:
            alpha = unit[3]
            unit = unit[:3] * alpha + (1 - alpha)
        return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def _load(part: Any, name: str) -> np.ndarray:
    # Callers read from threads of their own; dask's pool on top of them only costs.
    return in_memory(part, f"Image {name!r}", scheduler="synchronous")
