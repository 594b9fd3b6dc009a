"""Draws in chunks of locations: what one draw finds out about a device, the next ones know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._device import Chunks
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from hisdiff._device import Products


class Drawing:
    """Makes draws. Where memory runs out chunks are halved, and where fp16 overflows it is left: both are logged and stay so.

    Parameters
    ----------
    at_once
        Locations on the device, at most.
    products
        How networks multiply.
    """

    def __init__(self, at_once: int, products: Products) -> None:
        self._at_once, self._products = at_once, products

    def __call__(self, n_rows: int, sample: Callable[[Products, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return one draw at ``n_rows`` locations, ``sample(products, rows)`` of each chunk."""
        with self._products.allowed():
            made = self._whole(n_rows, sample)
            if self._products.half is torch.float16 and not np.isfinite(made).all():
                logger.warning("draws overflow in fp16; going on in float32")
                self._products = replace(self._products, half=None)
                made = self._whole(n_rows, sample)
        return made

    def _whole(self, n_rows: int, sample: Callable[[Products, np.ndarray], np.ndarray]) -> np.ndarray:
        chunks = Chunks(n_rows, self._at_once)
        made = np.concatenate(list(chunks.each(lambda rows: sample(self._products, rows))))
        self._at_once = chunks.at_once
        return made
