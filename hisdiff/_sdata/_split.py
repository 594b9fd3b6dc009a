"""Groups of sections, such as patients, that are left out of a cohort together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from hisdiff._check import listing

if TYPE_CHECKING:
    from anndata import AnnData


def group_of(table: AnnData, column: str, name: str, remedy: str) -> str:
    """Return the one value that a section's table has in a column of ``obs``, as text; ``remedy`` is what else can be done.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it is missing somewhere, or has several values.
    """
    if column not in table.obs:
        raise KeyError(
            f"Section {name!r} has no column obs[{column!r}]; it has {listing(table.obs)}. Set it, one value for each section, or "
            f"{remedy}."
        )
    values = table.obs[column]
    if values.isna().any():
        raise ValueError(
            f"obs[{column!r}] of section {name!r} is missing at {int(values.isna().sum())} of {len(values)} spots."
        )
    found = pd.unique(values.astype(str))
    if len(found) != 1:
        raise ValueError(
            f"obs[{column!r}] has {len(found)} values in section {name!r}, {listing(found, 4)}; sections are left out whole, so "
            f"that each needs one value."
        )
    return str(found[0])
