"""Which rows a step of training takes: epochs of shuffled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Epochs:
    """Rows in batches: every row once per epoch.

    Batches of an epoch are of equal size to one row, so that none is so small that its gradient is mostly noise.

    Parameters
    ----------
    order
        Of an epoch: ``order(epoch)`` is a permutation of all rows.
    n_batches
        Steps of an epoch.
    device
        Where the indices are needed. An epoch's are moved there at once, not step by step.
    """

    def __init__(self, order: Callable[[int], Tensor], n_batches: int, device: torch.device) -> None:
        self.order, self.n_batches, self.device = order, n_batches, device
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def rows(self, step: int, process: int = 0, n_processes: int = 1) -> Tensor:
        """Return the rows of a step that a process works on, an index tensor.

        Processes have equal shares, for which some rows may be taken twice.
        """
        epoch, place = divmod(step, self.n_batches)
        if epoch != self._epoch:
            self._batches = self.order(epoch).to(self.device).tensor_split(self.n_batches)
            self._epoch = epoch
        batch = self._batches[place]
        if n_processes == 1:
            return batch
        share = torch.arange(-(-len(batch) // n_processes), device=self.device)
        return batch[(process + n_processes * share) % len(batch)]
