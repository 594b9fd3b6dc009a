"""Training data of the networks: spots, the superpixels under them, and their embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._log import logger
from hisdiff._prediction._superpixels import Footprints, Inputs, inside, scaled_under
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Locations, Section
    from hisdiff.methods.istar.config import IStarConfig

_MIN_SPOTS = 2
# Superpixels that are projected at a time.
_ROWS = 4096


def gather(
    sections: Sequence[Section], spots: Sequence[Locations], config: IStarConfig
) -> tuple[Inputs, np.ndarray, np.ndarray, np.ndarray]:
    """Return the inputs, and what the loss needs of all sections: rows of superpixels, their shares, their features."""
    whole = config.reference_compat
    inputs = Inputs(standardize=not whole)
    footprints = [Footprints.of(part, config.superpixel_um, whole_discs=whole and are_discs(part)) for part in spots]
    scaled = [scaled_under(needed(s.dense), f, config.superpixel_um, inputs) for s, f in zip(sections, footprints)]
    inputs = Inputs.fit(scaled, config.n_components, standardize=not whole)
    padded = [f.padded() for f in footprints]
    longest = max(bins.shape[1] for bins, _ in padded)
    offsets = np.cumsum([0, *(len(part) for part in scaled)])
    wide = [np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a, _ in padded]
    share = [np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for _, a in padded]
    bins = np.concatenate([a + offset for a, offset in zip(wide, offsets)])
    projected = [
        inputs.projected(part[start : start + _ROWS]) for part in scaled for start in range(0, len(part), _ROWS)
    ]
    return inputs, bins, np.concatenate(share), np.concatenate(projected)


def kept_rows(section: Section) -> np.ndarray:
    """Return the rows of spots that can be trained on, and log which are left out."""
    whole = inside(needed(section.spots), section.image)
    if not whole.all():
        logger.warning(
            "istar: %d of %d spots of %r reach over the edge of the image and are left out",
            int((~whole).sum()), len(whole), section.name,
        )  # fmt: skip
    rows = np.flatnonzero(whole)
    if len(rows) < _MIN_SPOTS:
        raise ValueError(
            f"iStar needs at least {_MIN_SPOTS} spots whose footprint lies inside the image; "
            f"section {section.name!r} has {len(rows)} of {len(whole)}."
        )
    return rows


def check_dense(section: Section) -> None:
    if section.dense is None:
        encoder = "none" if section.features is None else repr(section.features.spec.encoder)
        raise ValueError(
            f"iStar needs a dense embedding, which the encoder of section {section.name!r} ({encoder}) does not give; embed "
            f'it with one that does, such as hd.pp.embed(sdata, "texture").'
        )


def are_discs(locations: Locations) -> bool:
    outlines = isinstance(locations.footprint, np.ndarray) and locations.footprint.dtype == object
    return locations.bin_um is None and not outlines
