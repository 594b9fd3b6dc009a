"""Embeddings stored in a table as a :class:`~hisdiff._section.FeatureSource`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from hisdiff import _keys
from hisdiff._geometry._patches import is_wide
from hisdiff._kept import Kept
from hisdiff._section import FeatureSpec, Locations, needed
from hisdiff.encoders._base import is_reentrant
from hisdiff.encoders._embed import embed_footprints
from hisdiff.encoders._known import KnownEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from hisdiff._json import Plain
    from hisdiff._sdata._locate import Place
    from hisdiff._section import ImageSource
    from hisdiff.encoders import Encoder

# Locations closer than this (um) are the same place.
_SAME_PLACE_UM = 1e-3
# Sets of new locations whose embeddings are remembered: those that some threads work on, and the anchors around them.
_RECENT = 12
_RECENT_BYTES = 2**30


class StoredFeatures:
    """Embeddings that ``hd.pp.embed`` stored at spots; those of other locations are computed when they are asked for.

    Parameters
    ----------
    spec, mean, std
        See :class:`~hisdiff._section.FeatureSource`.
    spots, values
        Where embeddings are stored, and the ``(n, D)`` embeddings.
    image
        Source of the patches of other locations, or None.
    fingerprint
        Digest of the image that was embedded.
    encoder
        What embeds other locations; None to find it by ``spec``.
    precision
        In which it was computed.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        mean: np.ndarray,
        std: np.ndarray,
        spots: Locations | None = None,
        values: np.ndarray | None = None,
        image: ImageSource | None = None,
        fingerprint: str = "",
        encoder: KnownEncoder | None = None,
        precision: str = "unknown",
    ) -> None:
        self.spec, self.mean, self.std, self.fingerprint, self.precision = spec, mean, std, fingerprint, precision
        self.encoder = KnownEncoder(spec) if encoder is None else encoder
        self._spots, self._values, self._image = spots, values, image
        self._recent = Kept(_RECENT_BYTES, _RECENT)

    @property
    def reentrant(self) -> bool:
        """Whether several threads may ask at once."""
        return is_reentrant(self.encoder.encoder)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(needed(self._spots).xy_um)

    def at(self, locations: Locations) -> np.ndarray:
        """Return raw embeddings, float32 ``(n, D)``."""
        if locations is self._spots and self._values is not None:
            return self._values
        out = np.empty((len(locations), self.spec.dim), dtype=np.float32)
        todo = np.ones(len(locations), dtype=bool)
        if self._values is not None and self._spots is not None and len(self._spots):
            distance, row = self._tree.query(locations.xy_um)
            todo = distance > _SAME_PLACE_UM
            # The embedding of a wide footprint is the mean over several patches, so it is not determined by the centre alone.
            wide, spot_is_wide = is_wide(locations), is_wide(self._spots)
            todo |= (wide | spot_is_wide[row]) & ~np.isclose(locations.radius_um, self._spots.radius_um[row])
            out[~todo] = self._values[row[~todo]]
        if todo.any():
            out[todo] = self._recently(locations.take(todo))
        return out

    def _recently(self, locations: Locations) -> np.ndarray:
        """Return embeddings of new locations; the members of a model ask for the same ones, and for the same anchors."""
        key = locations.xy_um.tobytes() + locations.radius_um.tobytes()
        return self._recent.get(key, lambda: self._compute(locations))

    def _compute(self, locations: Locations) -> np.ndarray:
        if self._image is None:
            raise ValueError("Embeddings of new locations need the image, which this section does not have.")
        return embed_footprints(
            self.encoder.encoder,
            self._image,
            locations,
            patch_um=self.spec.patch_um,
            desc="embedding the tissue between the spots",
        )


def section_record(place: Place) -> Plain | None:
    """Return what ``hd.pp.embed`` recorded of a section, None where there is nothing, or only parts of it.

    ``spatialdata.concatenate`` of named objects adds ``-name`` to each element; the record still has the old names. Of
    sections that had the same name, merging keeps what they have in common, which describes neither.
    """
    record = None if place.table is None else embedding_record(place.table)
    for name, section in {} if record is None else record["sections"].items():
        region = str(place.region)
        added = region.removeprefix(name)
        renamed = (
            region == name + added and added.startswith("-") and place.image_key == f"{section.get('image')}{added}"
        )
        if (region == name or renamed) and {"image", "fingerprint", "mean", "std"} <= set(section):
            return {**section, "image": f"{section['image']}{added if renamed else ''}"}
    return None


def stored_features(
    place: Place, spots: Locations | None, image: ImageSource | None, given: Encoder | None = None
) -> StoredFeatures | None:
    """Return the embedding of a place that ``hd.pp.embed`` recorded, or None where there is no record of it.

    Parameters
    ----------
    given
        An encoder that the caller offers for places that are not embedded yet.
    """
    table = place.table
    if table is None or spots is None or _keys.EMBEDDING not in table.obsm:
        return None
    section = section_record(place)
    if section is None:
        return None
    spec = spec_of(needed(embedding_record(table)))
    values = place.of_rows(np.asarray(table.obsm[_keys.EMBEDDING], dtype=np.float32))
    mean, std = np.asarray(section["mean"]), np.asarray(section["std"])
    known_by, precision = str(section["fingerprint"]), str(section.get("precision", "unknown"))
    return StoredFeatures(spec, mean, std, spots, values, image, known_by, KnownEncoder(spec, given), precision)


def spec_of(record: Mapping[str, Any]) -> FeatureSpec:
    """Return what an embedding is of, from its record."""
    return FeatureSpec(**{key: record[key] for key in FeatureSpec.__dataclass_fields__})


def embedding_record(table: AnnData | None) -> Plain | None:
    """Return what ``hd.pp.embed`` recorded in a table, or None."""
    return None if table is None else table.uns.get(_keys.STEM, {}).get(_keys.EMBEDDING_RECORD)
