"""Determine micrometres per pixel and the size of spots by comparing all available sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._check import listing, positive
from hisdiff._geometry import fit_array, pitch_of
from hisdiff._keys import ARRAY_COL, ARRAY_ROW
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

VISIUM_PITCH_UM = 100.0
VISIUM_DIAMETER_UM = 55.0
VISIUM_REPORTED_UM = (40.0, 80.0)
"""Space Ranger's ``spot_diameter_fullres`` is that of a spot of some 65 um, not of the 55 um that capture."""
FIT_TOLERANCE = 0.1
"""Share of the pitch that may be left where spots are fitted to an array."""
MPP_RANGE = (0.01, 20.0)
COARSE_MPP = 2.0
FINEST_MPP = 0.05
IMPLAUSIBLE_MPP = 6.0
"""No encoder takes coarser images; a figure like this mostly comes from the dots per inch of a flatbed scanner."""
CLOSE = 0.05


@dataclass(frozen=True)
class Source:
    """One source of the micrometres per pixel.

    Attributes
    ----------
    name
        For messages, such as ``"the pitch of the spots"``.
    mpp
        Its value.
    low, high
        Relative deviations that are plausible. Two sources contradict each other if their ranges
        do not overlap.
    of_spots
        Whether the source is the spots themselves, which a given value cannot overrule.
    mirrored
        Whether the array of the spots is mirrored against the image, which no microscope does.
    """

    name: str
    mpp: float
    low: float = 1 - CLOSE
    high: float = 1 + CLOSE
    of_spots: bool = False
    mirrored: bool = False

    def contradicts(self, other: Source) -> bool:
        """Whether both values cannot be true."""
        return max(self.mpp * self.low, other.mpp * other.low) > min(self.mpp * self.high, other.mpp * other.high)


def check_mpp(mpp: float, what: str) -> float:
    """Return a pixel size in um that a microscope image can have, else raise."""
    mpp = positive(mpp, f"mpp of {what}")
    low, high = MPP_RANGE
    if not low <= mpp <= high:
        raise ValueError(
            f"mpp of {what} is {mpp:g} um per pixel; between {low:g} and {high:g} is expected. Is it in another unit?"
        )
    return mpp


def settle_mpp(sources: Sequence[Source | None], what: str, mpp: float | None = None) -> float:
    """Return micrometres per pixel of the full-resolution image, after comparing all sources.

    Parameters
    ----------
    sources
        The sources, the most exact first; that one is used. None stands for a missing source.
    what
        The section or file, for messages.
    mpp
        The value given by the user. It takes precedence over all sources except the spots, whose contradiction is an error;
        other sources that contradict it are named in a warning.

    Raises
    ------
    ValueError
        If there is no source, or sources contradict each other.
    """
    found = [source for source in sources if source is not None]
    if mpp is None:
        if not found:
            raise ValueError(
                f"{what} does not say how many micrometres a pixel has; pass mpp=, such as mpp=0.5 for 20x."
            )
        _check_agreement(found, what)
        known = check_mpp(found[0].mpp, what)
        source = f" by {found[0].name}"
    else:
        known, source = check_mpp(mpp, what), ""
        _check_given(Source(f"mpp={known:g}", known), found, what)
    if any(source.mirrored for source in found):
        logger.warning(
            "%s: the array of its spots (obs[%r], obs[%r]) is mirrored against their positions: are x and y swapped, or was the image "
            "mirrored?",
            what, ARRAY_ROW, ARRAY_COL,
        )  # fmt: skip
    if known > IMPLAUSIBLE_MPP:
        logger.warning(
            "%s has %.3g um per pixel%s, coarser than any microscope's image: is that the resolution of a flatbed scanner or a "
            "printer? Pass mpp= if so.",
            what, known, source,
        )  # fmt: skip
    elif known < FINEST_MPP:
        logger.warning(
            "%s has %.3g um per pixel%s, finer than any light microscope's image; pass mpp= if that is wrong.",
            what, known, source,
        )  # fmt: skip
    elif known > COARSE_MPP:
        logger.info("%s: at %.3g um per pixel single cells cannot be seen; is there a finer image?", what, known)
    return known


def _check_agreement(found: Sequence[Source], what: str) -> None:
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            if one.contradicts(other):
                raise ValueError(
                    f"Values of the pixel size of {what} contradict each other, per pixel: {_values_of(found)}. {_remedy(found)}"
                )


def _check_given(given: Source, found: Sequence[Source], what: str) -> None:
    against = [source for source in found if source.contradicts(given)]
    # The most reliable source from the spots decides; where it agrees with the user, the others may be wrong.
    spots = next((source for source in found if source.of_spots), None)
    if spots in against:
        raise ValueError(
            f"{given.name} contradicts the spots of {what}, per pixel: {_values_of(found)}. {_remedy(found)}"
        )
    for source in against:
        logger.warning(
            "%s: %s says %.4g um per pixel; the given %.4g is used.", what, source.name, source.mpp, given.mpp
        )


def _values_of(found: Sequence[Source]) -> str:
    return ", ".join(f"{source.mpp:.4g} um by {source.name}" for source in found)


def _remedy(found: Sequence[Source]) -> str:
    if any(source.of_spots for source in found):
        return (
            "Either the coordinates are not those of the full-resolution image but were scaled (hires, lowres), or a figure is wrong: "
            "pass mpp= of the image that the coordinates are of."
        )
    return "Pass mpp= with the right one."


# Sources


def visium_source(obs: pd.DataFrame, xy_px: np.ndarray) -> Source | None:
    """Return the scale from the pitch of a Visium array, which is hexagonal with 100 um; None for other arrays."""
    array = _array_positions(obs, len(xy_px))
    if array is None:
        return None
    row, col = array
    if ((row + col) % 2).any():
        return None
    array_um = np.stack([col / 2, row * np.sqrt(0.75)], axis=1) * VISIUM_PITCH_UM
    return _pitch_source(xy_px, array_um, VISIUM_PITCH_UM, "the pitch of the spots (Visium's 100 um)")


def bin_source(obs: pd.DataFrame, xy_px: np.ndarray, bin_um: float) -> Source | None:
    """Return the scale from the pitch of square bins."""
    array = _array_positions(obs, len(xy_px))
    if array is None:
        return None
    return _pitch_source(
        xy_px, np.stack(array[::-1], axis=1) * bin_um, bin_um, f"the pitch of the bins ({bin_um:g} um)"
    )


def _array_positions(obs: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    if ARRAY_ROW not in obs or ARRAY_COL not in obs or n < 3:
        return None
    try:
        row, col = (obs[key].to_numpy(dtype=float) for key in (ARRAY_ROW, ARRAY_COL))
    except (TypeError, ValueError):
        return None
    return (row, col) if np.isfinite([row, col]).all() else None


def _pitch_source(xy_px: np.ndarray, array_um: np.ndarray, pitch_um: float, name: str) -> Source | None:
    finite = np.isfinite(xy_px).all(axis=1)
    xy_px, array_um = xy_px[finite], array_um[finite]
    if len(xy_px) < 3 or np.ptp(array_um, axis=0).max() == 0 or np.ptp(xy_px, axis=0).max() == 0:
        return None
    # One misplaced spot must not hide the pitch of the others.
    fit = fit_array(xy_px, array_um, 1.0, trim=0.1)
    # Other arrays have even positions too: an interleaved legacy array leaves 1.5 times the pitch, Visium's a few um.
    if fit.residual_um >= FIT_TOLERANCE * pitch_um:
        return None
    return Source(name, fit.mpp, of_spots=True, mirrored=fit.mirrored)


def spacing_source(xy_px: np.ndarray, spacing_um: float | None) -> Source | None:
    """Return the scale from the stated distance of neighbouring spots, which may be larger where spots are missing."""
    pitch_px = pitch_of(xy_px)
    if not spacing_um or not np.isfinite(pitch_px) or pitch_px <= 0:
        return None
    return Source(f"the spots, stated to be {spacing_um:g} um apart", spacing_um / pitch_px, 0.7, 1.3, of_spots=True)


def diameter_source(diameter_px: float | None, diameter_um: float | None, *, on_visium: bool) -> Source | None:
    """Return the scale from the width of a spot, reported in pixels."""
    if not diameter_px:
        return None
    if on_visium:
        low, high = (um / VISIUM_DIAMETER_UM for um in VISIUM_REPORTED_UM)
        name = f"the diameter of a spot ({diameter_px:.1f} px for Visium's 55 um)"
        return Source(name, VISIUM_DIAMETER_UM / diameter_px, low, high, of_spots=True)
    if diameter_um is None:
        return None
    # Readers of the field take a captured width of 55 um for the 65 um that are reported, and the reverse.
    name = f"the diameter of a spot ({diameter_px:.1f} px for {diameter_um:g} um)"
    return Source(name, diameter_um / diameter_px, 0.8, 1.25, of_spots=True)


def reported_diameter(adata: AnnData) -> float | None:
    """Return the diameter of spots in pixels that ``uns["spatial"]`` has."""
    found = library_of(adata)
    return None if found is None else number_or_none(found.get("scalefactors", {}).get("spot_diameter_fullres"))


def library_of(adata: AnnData) -> Mapping[str, Any] | None:
    """Return the only library in ``uns["spatial"]``, or None; several are a ``ValueError``."""
    spatial = adata.uns.get("spatial")
    if not hasattr(spatial, "items"):
        return None
    # The schema of CELLxGENE keeps a flag, is_single, beside the library.
    libraries = {key: value for key, value in spatial.items() if hasattr(value, "get")}
    if len(libraries) > 1:
        raise ValueError(
            f"The table holds several sections ({listing(libraries)} in uns['spatial']); take the rows of one, and remove "
            "the others from uns['spatial']."
        )
    return next(iter(libraries.values()), None)


def number_or_none(value: Any) -> float | None:
    """Return a number above zero; what is missing, null, NaN or no number is None."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def resolve_radius(
    mpp: float, what: str, *, given_um: float | None, on_visium: bool, diameter_px: float | None
) -> float:
    """Return the radius of spots in um: what is given, else Visium's, else what was reported in pixels."""
    if given_um is not None:
        return given_um / 2
    if on_visium:
        return VISIUM_DIAMETER_UM / 2
    if diameter_px is not None:
        return diameter_px * mpp / 2
    raise ValueError(f"{what} does not say how wide its spots are; pass spot_diameter_um=, 55 for Visium.")
