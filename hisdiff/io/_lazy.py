"""Arrays that stand for a part of a file: opened when first read, closed with the last reference, sent by name."""

from __future__ import annotations

import abc
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hisdiff.io._build import CHUNK

if TYPE_CHECKING:
    from pathlib import Path


class Unreadable(ValueError):
    """A part of a file cannot be decoded."""


class FileArray(abc.ABC):
    """A ``(c, y, x)`` array in a file, for :func:`dask.array.from_array`."""

    ndim = 3

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._opened: Any = None
        self._lock = threading.Lock()

    @abc.abstractmethod
    def _open(self) -> tuple[Any, Any]:
        """Return what is read from, and the object to close after use (or None)."""

    @abc.abstractmethod
    def _read(self, opened: Any, key: tuple[slice, ...]) -> np.ndarray:
        """Return a box."""

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        try:
            with self._lock:
                if self._opened is None:
                    self._opened, closing = self._open()
                    if closing is not None:
                        weakref.finalize(self, closing.close)
            return self._read(self._opened, key)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything; the message names the file
            raise Unreadable(f"{self.path} cannot be decoded: {error}. Is the file complete?") from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def as_dask(self, tile: tuple[int, int] = (CHUNK, CHUNK)) -> da.Array:
        """Return a dask array whose chunks are whole numbers of the file's tiles, near the package's chunk size."""
        width = max(1, round(CHUNK / tile[1])) * tile[1]
        # Strips are as wide as the slide: fewer rows of them, so that a patch does not cost a megapixel-high band.
        rows = CHUNK if tile[1] <= CHUNK else CHUNK**2 / tile[1]
        sides = max(1, round(rows / tile[0])) * tile[0], width
        name = f"{type(self).__name__.strip('_').lower()}-{uuid.uuid4().hex}"
        return da.from_array(self, chunks=(self.shape[0], *sides), name=name, meta=np.empty((0, 0, 0), self.dtype))
