"""Settle micrometres per pixel and the size of spots from what comes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import listing
from hisdiff._geometry import fit_array
from hisdiff._keys import ARRAY_COL, ARRAY_ROW
from hisdiff._log import logger

if TYPE_CHECKING:
    from anndata import AnnData

VISIUM_PITCH_UM = 100.0
VISIUM_DIAMETER_UM = 55.0
VISIUM_REPORTED_UM = (40.0, 80.0)
"""Space Ranger's ``spot_diameter_fullres`` is that of a spot of some 65 um, not of the 55 um that capture."""
TOLERANCE = 0.1
COARSE_MPP = 2.0


@dataclass(frozen=True)
class SpotScale:
    """What spots say of their own scale: pixel size if they are a Visium array, and the diameter that was reported."""

    mpp: float | None
    diameter_px: float | None


def spot_scale(adata: AnnData, xy_px: np.ndarray) -> SpotScale:
    """Return what the spots of a table say of their scale."""
    return SpotScale(visium_mpp(adata, xy_px), _reported_diameter(adata))


def visium_mpp(adata: AnnData, xy_px: np.ndarray) -> float | None:
    """Return micrometres per pixel if the spots lie on a Visium array, which is hexagonal with a pitch of 100 um."""
    if ARRAY_ROW not in adata.obs or ARRAY_COL not in adata.obs or len(xy_px) < 3:
        return None
    row, col = (adata.obs[key].to_numpy(dtype=float) for key in (ARRAY_ROW, ARRAY_COL))
    if not np.isfinite([row, col]).all() or ((row + col) % 2).any():
        return None
    array_um = np.stack([col / 2, row * np.sqrt(0.75)], axis=1) * VISIUM_PITCH_UM
    if np.ptp(array_um, axis=0).max() == 0:
        return None
    if np.ptp(xy_px, axis=0).max() == 0:
        return None
    fit = fit_array(xy_px, array_um, 1.0)
    # Other arrays have even positions too: an interleaved legacy array leaves 1.5 times the pitch, Visium's a few um.
    return fit.mpp if fit.residual_um < TOLERANCE * VISIUM_PITCH_UM else None


def _reported_diameter(adata: AnnData) -> float | None:
    libraries = adata.uns.get("spatial") or {}
    if len(libraries) > 1:
        raise ValueError(
            f"The table holds several sections ({listing(libraries)} in uns['spatial']); take the rows of one, and remove "
            "the others from uns['spatial']."
        )
    for library in libraries.values():
        diameter = library.get("scalefactors", {}).get("spot_diameter_fullres")
        return None if diameter is None else float(diameter)
    return None


def resolve_mpp(
    spots: SpotScale,
    *,
    mpp: float | None,
    image_mpp: float | None = None,
    spot_diameter_um: float | None = None,
    what: str,
) -> float:
    """Return micrometres per pixel.

    A pixel size that is given goes before that of a Visium array, that before the spot diameter in um and in pixels, and
    that before the image file's. Spots that contradict what is given are a ``ValueError``, since coordinates and
    image are then not of one resolution.
    """
    from_diameter = None
    if spot_diameter_um is not None and spots.diameter_px:
        from_diameter = spot_diameter_um / spots.diameter_px
    known = next((value for value in (mpp, spots.mpp, from_diameter, image_mpp) if value is not None), None)
    if known is None:
        raise ValueError(
            f"Neither {what} nor its image says how many micrometres a pixel has; pass mpp=, such as mpp=0.5 for 20x."
        )
    if spots.mpp is not None:
        if abs(known / spots.mpp - 1) > TOLERANCE:
            raise ValueError(
                f"mpp={known:g} contradicts the spots of {what}: Visium's are 100 um apart, which makes {spots.mpp:.4g} um "
                "per pixel. Are coordinates and image of different resolutions (hires, full)?"
            )
        low, high = VISIUM_REPORTED_UM
        if spots.diameter_px is not None and not low <= spots.diameter_px * spots.mpp <= high:
            raise ValueError(
                f"The spots of {what} are {spots.diameter_px:.1f} px wide by their scale factors, which is "
                f"{spots.diameter_px * spots.mpp:.0f} um where Visium has 55: the coordinates are not those of the "
                "full-resolution image but were scaled (hires, lowres)."
            )
    if image_mpp is not None and abs(image_mpp / known - 1) > TOLERANCE:
        logger.info("%s: the image file says %.4g um per pixel; %.4g is used.", what, image_mpp, known)
    if known > COARSE_MPP:
        logger.info("%s: at %.3g um per pixel single cells cannot be seen; is there a finer image?", what, known)
    return known


def resolve_radius(spots: SpotScale, mpp: float, spot_diameter_um: float | None, what: str) -> float:
    """Return the radius of spots in um: what is given, else Visium's, else what was reported in pixels."""
    if spot_diameter_um is not None:
        return spot_diameter_um / 2
    if spots.mpp is not None:
        return VISIUM_DIAMETER_UM / 2
    if spots.diameter_px is not None:
        return spots.diameter_px * mpp / 2
    raise ValueError(f"{what} does not say how wide its spots are; pass spot_diameter_um=, 55 for Visium.")
