"""Which training tissue is left out together: whole sections, or contiguous blocks of a single one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_FOLDS = 10
MANY_FOLDS = 6
"""Pieces of left-out tissue from which a choice among more alternatives can be told from chance."""


def folds_of(xy_um: Sequence[np.ndarray], n_blocks: int = 5, patients: Sequence[str | None] = ()) -> np.ndarray:
    """Assign spots to folds.

    Several sections are left out one at a time (in groups, beyond ten), which is what predicting a new section is like.
    One section is cut into blocks: neighbouring spots share tissue, so leaving out single spots would flatter.

    Parameters
    ----------
    xy_um
        For each section ``(n_i, 2)``, in micrometres.
    n_blocks
        How many blocks one section is cut into, at most one for every two spots.
    patients
        Of each section, where known: where there are several, all sections of one are left out together.

    Returns
    -------
    int64 ``(sum n_i,)``, numbered from zero, each fold with at least one spot.
    """
    if len(set(patients) - {None}) > 1:
        number = np.unique([str(patient) for patient in patients], return_inverse=True)[1]
        fold = np.repeat(number % MAX_FOLDS, [len(xy) for xy in xy_um])
        return np.unique(fold, return_inverse=True)[1]
    if len(xy_um) > 1:
        fold = np.repeat(np.arange(len(xy_um)) % MAX_FOLDS, [len(xy) for xy in xy_um])
        return np.unique(fold, return_inverse=True)[1]
    (xy,) = xy_um
    return tissue_blocks(xy, max(1, min(n_blocks, len(xy) // 2)))


def tissue_blocks(xy_um: np.ndarray, n_blocks: int) -> np.ndarray:
    """Cut locations ``(n, 2)`` into contiguous blocks of about equal size, int64 ``(n,)``.

    The longer side is cut in two again and again, in proportion to the number of blocks on either side.
    """
    block = np.zeros(len(xy_um), dtype=np.int64)

    def cut(rows: np.ndarray, first: int, count: int) -> None:
        if count == 1 or len(rows) < 2:
            block[rows] = first
            return
        xy = xy_um[rows]
        axis = int(np.argmax(np.ptp(xy, axis=0)))
        order = rows[np.lexsort((xy[:, 1 - axis], xy[:, axis]))]
        left = count // 2
        where = round(len(rows) * left / count)
        cut(order[:where], first, left)
        cut(order[where:], first + left, count - left)

    cut(np.arange(len(xy_um)), 0, n_blocks)
    return block
