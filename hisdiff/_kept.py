"""Arrays that were computed before, kept for the life of the process as far as a limit of memory goes."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import numpy as np


class Kept:
    """Arrays by key; those that were not used for longest go first. Threads may share one.

    Parameters
    ----------
    most_bytes
        Of all arrays together. A larger one is not kept.
    most
        Arrays; None for no limit of their number.
    """

    def __init__(self, most_bytes: int, most: int | None = None) -> None:
        self.most_bytes, self.most = most_bytes, most
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, object]:
        with self._lock:
            return {**self.__dict__, "_lock": None, "_arrays": self._arrays.copy()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def get(self, key: Hashable | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key, which is not to be changed; made where there is none. Nothing is kept under None."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        made = make()
        if key is not None and made.nbytes <= self.most_bytes:
            with self._lock:
                self._arrays[key] = made
                while self._is_full():
                    self._arrays.popitem(last=False)
        return made

    def _is_full(self) -> bool:
        if self.most is not None and len(self._arrays) > self.most:
            return True
        return sum(array.nbytes for array in self._arrays.values()) > self.most_bytes
