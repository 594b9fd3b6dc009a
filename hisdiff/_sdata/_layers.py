"""The layers of a table by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def layer_names(table: AnnData) -> list[str]:
    """Return the names of the layers of a table, in their order.

    From anndata 0.13 on the mapping itself also yields None, which stands for X.
    """
    return [name for name in table.layers if name is not None]
