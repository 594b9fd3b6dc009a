"""Sections that STAGE was fitted on, and their coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from hisdiff._check import listing
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hisdiff._section import Locations, Section

_SAME_PLACE_UM = 1.0
_SAME_COUNT = 0.5
# Part of a section's spots that has to be known, so that one can be cropped or filtered after the fit.
_SHARE = 0.5


@dataclass(frozen=True)
class Known:
    """One section as it was trained on.

    Attributes
    ----------
    name
        Of the section.
    xy_um
        ``(n, 2)`` its spots.
    totals
        ``(n,)`` their total counts over the panel.
    trained
        ``(n,)`` which spots were trained on; the others were held out, or had no counts.
    z_um
        Height of the section.
    """

    name: str
    xy_um: np.ndarray
    totals: np.ndarray
    trained: np.ndarray
    z_um: float

    def shows(self, section: Section, genes: np.ndarray) -> bool:
        """Whether a section is this one: at least half of its spots stand where known ones do, with the same counts."""
        if section.spots is None or section.name != self.name:
            return False
        distance, row = cKDTree(self.xy_um).query(section.spots.xy_um)
        same = distance <= _SAME_PLACE_UM
        if section.counts is not None and np.array_equal(section.genes, genes):
            totals = np.asarray(section.counts.sum(axis=1)).ravel()
            same &= np.abs(totals - self.totals[row]) < _SAME_COUNT
        return bool(same.mean() >= _SHARE)


@dataclass(frozen=True)
class Frame:
    """The sections and the scale of their coordinates, which are 0 to 1 for the spots.

    Attributes
    ----------
    sections
        In the order of the fit.
    origin_um, scale_um
        ``(d,)``; coordinates are ``(position - origin) / scale``. x and y have one scale, height its own.
    """

    sections: tuple[Known, ...]
    origin_um: np.ndarray
    scale_um: np.ndarray

    @classmethod
    def of(cls, sections: Sequence[Section], trained: Sequence[np.ndarray], spacing_um: float | None) -> Frame:
        """Read origin and scale from the spots of sections."""
        levels = levels_of(sections, spacing_um)
        known = tuple(
            Known(s.name, needed(s.spots).xy_um, np.asarray(needed(s.counts).sum(axis=1)).ravel(), mask, z)
            for s, mask, z in zip(sections, trained, levels)
        )
        xy = np.concatenate([one.xy_um for one in known])
        low, side = xy.min(axis=0), float(np.ptp(xy, axis=0).max()) or 1.0
        if len(known) == 1:
            return cls(known, low, np.array([side, side]))
        return cls(known, np.append(low, min(levels)), np.array([side, side, float(np.ptp(levels))]))

    @property
    def n_dims(self) -> int:
        """2 for one section, 3 for a stack."""
        return len(self.origin_um)

    def scaled(self, xy_um: np.ndarray, z_um: float | np.ndarray) -> np.ndarray:
        """Return coordinates ``(n, d)``, float32."""
        position = xy_um if self.n_dims == 2 else np.column_stack([xy_um, np.broadcast_to(z_um, len(xy_um))])
        return ((position - self.origin_um) / self.scale_um).astype(np.float32)

    def of_locations(self, known: Known, locations: Locations) -> np.ndarray:
        """Return the coordinates of locations of a section, at heights of their own where they have any."""
        return self.scaled(locations.xy_um, known.z_um if locations.z_um is None else locations.z_um)

    def find(self, section: Section, genes: np.ndarray) -> Known:
        """Return what is known of a section; a ``ValueError`` where that is nothing, or could be several."""
        found = [known for known in self.sections if known.shows(section, genes)]
        if len(found) == 1:
            return found[0]
        names = listing([known.name for known in self.sections])
        if not found:
            raise ValueError(
                f"STAGE uses coordinates and no image, so it predicts only the sections that it was fitted on: {names}; "
                f"{section.name!r} is none of them (name, places and counts of the spots are compared). Fit it on this section."
            )
        raise ValueError(
            f"Section {section.name!r} could be any of {len(found)} sections that STAGE was fitted on: {names}."
        )

    def state(self) -> dict[str, np.ndarray]:
        """Return named arrays; names and heights of the sections are plain values."""
        arrays = {"frame.origin_um": self.origin_um, "frame.scale_um": self.scale_um}
        for i, known in enumerate(self.sections):
            arrays |= {f"frame.{i}.{key}": getattr(known, key) for key in ("xy_um", "totals", "trained")}
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], names: Sequence[str], levels: Sequence[float]) -> Frame:
        """Rebuild what ``state`` described."""
        sections = tuple(
            Known(name, **{key: arrays[f"frame.{i}.{key}"] for key in ("xy_um", "totals", "trained")}, z_um=z)
            for i, (name, z) in enumerate(zip(names, levels))
        )
        return cls(sections, arrays["frame.origin_um"], arrays["frame.scale_um"])


def levels_of(sections: Sequence[Section], spacing_um: float | None) -> list[float]:
    """Return the height of each section: stated with the spots, or by a stated spacing in the order given."""
    if len(sections) == 1:
        return [0.0]
    if spacing_um is not None:
        return [i * spacing_um for i in range(len(sections))]
    levels = [needed(s.spots).z_um for s in sections]
    heights = [None if z is None or np.ptp(z) > 0 else float(z[0]) for z in levels]
    known = [z for z in heights if z is not None]
    if len(known) < len(sections) or len(set(known)) < len(known):
        raise ValueError(
            f"STAGE places {len(sections)} sections above each other, and their heights are not known. If their coordinates are aligned "
            f"and they are given from bottom to top, say how far apart they are: config={{'section_spacing_um': 10}}. Otherwise fit "
            f"one model for each."
        )
    return known
