"""One rule for the spots of all readers: where they may lie, and which are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from hisdiff._check import listing
from hisdiff._keys import ARRAY_COL, ARRAY_ROW
from hisdiff._log import logger

if TYPE_CHECKING:
    from anndata import AnnData

MAX_OFF_IMAGE = 0.1
"""Share of spots that may lie beyond the border of the image; they are left out."""
LIBRARY = "library_id"
LABELS = ("sample", "sample_id", "section", "section_id", "slide", "slide_id", "batch", "orig.ident")
"""Columns in which objects of several sections name them; those after the first one also name parts of one section."""
MAX_SHARED = 0.5


def check_finite(xy_px: np.ndarray, what: str) -> None:
    """Raise if a spot has no position, or none of them differs from the others."""
    if not len(xy_px):
        raise ValueError(f"There is no spot in {what}.")
    lost = int((~np.isfinite(xy_px)).any(axis=1).sum())
    if lost:
        raise ValueError(f"{lost} of {len(xy_px)} spots of {what} have no position (NaN).")
    if len(xy_px) > 1 and np.ptp(xy_px, axis=0).max() == 0:
        x, y = xy_px[0]
        raise ValueError(
            f"All {len(xy_px)} spots of {what} are at one place, ({x:g}, {y:g}); their positions are missing."
        )


def on_image(xy_px: np.ndarray, size: tuple[float, float], what: str) -> np.ndarray:
    """Return which spots have their centre on an image of ``(height, width)`` full-resolution pixels, bool ``(n,)``.

    A few beyond the border are left out with a warning; more than a tenth is a ``ValueError``, since coordinates and image
    then do not belong together.
    """
    check_finite(xy_px, what)
    height, width = size
    shared = int(pd.DataFrame(xy_px).duplicated().sum())
    if shared > MAX_OFF_IMAGE * len(xy_px):
        raise ValueError(
            f"{shared} of {len(xy_px)} spots of {what} lie where another one does: they are of several sections; take the rows of one."
        )
    if shared:
        logger.warning("%s: %d of %d spots lie where another one does.", what, shared, len(xy_px))
    inside = _within(xy_px, size)
    n_outside = int((~inside).sum())
    if n_outside > MAX_OFF_IMAGE * len(xy_px):
        x, y = xy_px.max(axis=0)
        raise ValueError(
            f"{n_outside} of {len(xy_px)} spots of {what} lie outside the image, which is {width:.0f} x {height:.0f} px; they "
            f"reach to ({x:.0f}, {y:.0f}). {_reason(xy_px, size)}"
        )
    if n_outside:
        beyond = np.maximum(-xy_px, xy_px - (width, height)).max(axis=1)
        swapped = " With x and y swapped all of them would lie on it." if _within(xy_px[:, ::-1], size).all() else ""
        logger.warning(
            "%s: left out %d of %d spots, which lie up to %.0f px beyond the image.%s",
            what, n_outside, len(xy_px), beyond.max(), swapped,
        )  # fmt: skip
    return inside


def _within(xy_px: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    return np.all((xy_px >= 0) & (xy_px <= (size[1], size[0])), axis=1)


def _reason(xy_px: np.ndarray, size: tuple[float, float]) -> str:
    if _within(xy_px[:, ::-1], size).mean() >= 1 - MAX_OFF_IMAGE:
        return "With x and y swapped they lie on it: positions are (x, y), which is (column, row)."
    return (
        "Is the image at a lower resolution than the coordinates (a 'hires' image taken for the full-resolution one), or are x "
        "and y swapped?"
    )


def check_one_section(adata: AnnData, what: str, xy_px: np.ndarray) -> None:
    """Raise where a table holds the spots of several sections: by its columns, or as they lie over each other."""
    if LIBRARY in adata.obs and adata.obs[LIBRARY].nunique() > 1:
        raise ValueError(
            f"{what} holds several sections ({listing(adata.obs[LIBRARY].unique())} in obs[{LIBRARY!r}]); take the rows of one."
        )
    for column in LABELS:
        if column in adata.obs and _lie_over_each_other(adata.obs[column], xy_px):
            raise ValueError(
                f"{what} holds several sections ({listing(adata.obs[column].unique(), 4)} in obs[{column!r}]) that lie over each other; "
                "take the rows of one."
            )
    if ARRAY_ROW in adata.obs and ARRAY_COL in adata.obs:
        repeated = int(adata.obs.duplicated([ARRAY_ROW, ARRAY_COL]).sum())
        if repeated > MAX_OFF_IMAGE * adata.n_obs:
            raise ValueError(
                f"{repeated} of {adata.n_obs} spots of {what} have an array position (obs[{ARRAY_ROW!r}], obs[{ARRAY_COL!r}]) that "
                "another one has: it holds several sections; take the rows of one."
            )


def _lie_over_each_other(labels: pd.Series, xy_px: np.ndarray) -> bool:
    """Whether spots of one label lie among those of others, and not beside them."""
    names = labels.astype(str).to_numpy()
    there = np.isfinite(xy_px).all(axis=1)
    groups = [xy_px[there & (names == name)] for name in np.unique(names)[:20]]
    hulls = [shapely.convex_hull(shapely.MultiPoint(group)) for group in groups if len(group) > 2]
    return any(
        shapely.intersection(one, other).area > MAX_SHARED * min(one.area, other.area) > 0
        for i, one in enumerate(hulls)
        for other in hulls[i + 1 :]
    )
