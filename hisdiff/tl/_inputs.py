"""What a prediction is made of, as digests: by these an unfinished run, and a finished one, is recognised."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import shapely

from hisdiff._sdata._image import fingerprint

if TYPE_CHECKING:
    from hisdiff._section import Section


def inputs_of(section: Section, *, image: bool = True) -> dict[str, str]:
    """Return what identifies counts, spots and embedding of a section, and ``image`` and outline, as far as it has them."""
    inputs = {}
    if image and section.image is not None:
        inputs["image"] = fingerprint(section.image)
    if image and section.tissue is not None:
        inputs["tissue"] = shapely.to_wkb(section.tissue, hex=True)
    if section.counts is not None:
        counts = section.counts.tocsr()
        inputs["counts"] = digest_of(counts.indptr, counts.indices, counts.data, np.asarray(section.genes, dtype="S"))
    if section.spots is not None:
        inputs["spots"] = digest_of(section.spots.xy_um, section.spots.radius_um)
        if section.features is not None:
            inputs["embedding"] = digest_of(
                section.features.at(section.spots), section.features.mean, section.features.std
            )
    return inputs


def digest_of(*arrays: np.ndarray) -> str:
    """Return a digest of the values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
