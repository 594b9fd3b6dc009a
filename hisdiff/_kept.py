"""Arrays that were computed before, kept for the life of the process as far as a limit of memory goes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import numpy as np


class Kept:
    """Arrays by key; those that were not used for longest go first.

    Parameters
    ----------
    most_bytes
        Of all arrays together. A larger one is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key, which is not to be changed; made where there is none. Nothing is kept under None."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
            return self._arrays[key]
        made = make()
        if key is not None and made.nbytes <= self.most_bytes:
            self._arrays[key] = made
            while sum(array.nbytes for array in self._arrays.values()) > self.most_bytes:
                self._arrays.popitem(last=False)
        return made
