"""A section together with the place in a SpatialData that it was read from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from hisdiff._sdata._features import StoredFeatures
from hisdiff._sdata._image import fingerprint
from hisdiff._section import Section, needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff.encoders._known import KnownEncoder


@dataclass(frozen=True)
class Bound:
    """A section and the place it was read from, to which results go back."""

    section: Section
    place: Place

    @property
    def table(self) -> AnnData:
        """The table, of a section that has one."""
        return needed(self.place.table)

    @property
    def embedding(self) -> StoredFeatures | None:
        """The section's embedding, as it is stored."""
        features = self.section.features
        return features if isinstance(features, StoredFeatures) else None

    @property
    def encoder(self) -> KnownEncoder | None:
        """The encoder that made the section's embedding."""
        return None if self.embedding is None else self.embedding.encoder

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the image, by which it is recognised."""
        return fingerprint(needed(self.section.image))

    def with_section(self, section: Section) -> Bound:
        """Return another reading of the same place."""
        return replace(self, section=section)


def as_list(data: SpatialData | Sequence[SpatialData]) -> list[SpatialData]:
    """Return one SpatialData or a sequence of them as a list."""
    items = [data] if not isinstance(data, (list, tuple)) else list(data)
    if not items:
        raise ValueError("There is no section: the sequence of SpatialData is empty.")
    repeated = len({id(item) for item in items}) < len(items)
    if repeated:
        raise ValueError("The same SpatialData object is given twice.")
    return items


def by_object(bounds: Sequence[Bound]) -> list[list[Bound]]:
    """Return sections in groups of those that live in one object, in their order."""
    groups: dict[int, list[Bound]] = {}
    for bound in bounds:
        groups.setdefault(id(bound.place.sdata), []).append(bound)
    return list(groups.values())
