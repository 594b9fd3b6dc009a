"""The accuracy to expect of a prediction, and whether it may be shown for a section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff import _keys
from hisdiff._sdata._annotation import regions_of
from hisdiff._sdata._provenance import records

if TYPE_CHECKING:
    from anndata import AnnData

UNKNOWN_ACCURACY = "\naccuracy unknown: unlike the training tissue"
"""Line of a title, of sections that are unlike the cohort."""


def is_unlike(table: AnnData, stem: str, section: str) -> bool:
    """Whether a section is unlike the cohort of the model, so that the accuracy on left-out training tissue does not hold for it.

    SpatialData keeps of concatenated tables only the records that they agree on. Without a record, sections of such a table count as unlike.
    """
    transfer = records(table, _keys.PREDICTIONS).get(stem, {}).get("transfer")
    if hasattr(transfer, "get"):
        transfer = transfer.get(section)
    return transfer == _keys.UNLIKE or (transfer is None and len(regions_of(table)) > 1)


def expected_accuracy(table: AnnData, stem: str, column: int) -> float:
    """Return the correlation of a gene on left-out training tissue, library size taken out; NaN where that is not known."""
    for name in (_keys.cv_pcc_norm(stem), _keys.cv_pcc(stem)):
        if name in table.var:
            return float(table.var[name].iloc[column])
    return float("nan")
