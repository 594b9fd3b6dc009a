"""From the embeddings of a section to the features of the ridge baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from hisdiff._geometry import Nearest, pitch_of
from hisdiff._section import library_size_of, needed
from hisdiff._stats._pca import column_scale, principal_axes
from hisdiff._training._context import N_GLOBAL, N_NEIGHBORS, Context, Scaling, anchors_of, scaled
from hisdiff._training._folds import folds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import FeatureSource, Locations, Section

_MIN_SPOTS = 4
# Spots from which principal axes are found; more do not move a hundred of them.
_MAX_ROWS = 10_000
_CHUNK = 4096
# Anchors with their components by section and projection, for as long as both live.
_ANCHORS: WeakKeyDictionary[FeatureSource, WeakKeyDictionary[Projection, _Anchors]] = WeakKeyDictionary()


class _Anchors(NamedTuple):
    """Anchors of the spots and tissue of a section at a pitch, what finds those nearest to a place, and their components ``(m, k)``."""

    spots: Locations | None
    tissue: Any
    pitch_um: float | None
    anchors: Locations
    near: Nearest
    around: np.ndarray

    def are_of(self, section: Section, pitch_um: float | None) -> bool:
        """Whether they are those of a section at a pitch."""
        return self.spots is section.spots and self.tissue is section.tissue and self.pitch_um == pitch_um


@dataclass(frozen=True, eq=False)
class Projection:
    """Embeddings to features: principal components of a location's own embedding and of the means around it.

    Attributes
    ----------
    scaling, pitch_um
        How embeddings are scaled, and the distance between anchors.
    center, scale
        ``(D,)`` mean and sd of the training embeddings, each column scaled alone since units may differ.
    axes
        ``(D, k)`` principal axes of the standardised embeddings.
    """

    scaling: Scaling
    pitch_um: float | None
    center: np.ndarray
    scale: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, sections: Sequence[Section], scaling: Scaling, pitch_um: float | None, k: int) -> Projection:
        """Find the principal axes of the embeddings at the spots of training sections."""
        own = np.concatenate([_some_embedded(section, scaling, len(sections)) for section in sections])
        center, scale = column_scale(own)
        axes, _ = principal_axes((own - center) / scale, k)
        return cls(scaling, pitch_um, center, scale, axes)

    def features(self, section: Section, locations: Locations) -> np.ndarray:
        """Return float64 ``(n, 3 k)``: components of the own embedding, of the mean over 9 anchors and over 49."""
        anchors, near, around = self._anchors(section)
        own = (
            around
            if anchors is locations
            else self._project(needed(section.features).at(locations), needed(section.features))
        )
        wide = near(locations.xy_um, N_GLOBAL)
        # The mean of projections is the projection of the mean, and far smaller to take.
        context = Context(own, around, wide[:, :N_NEIGHBORS], wide)
        return np.concatenate([own, context.mean_over(context.near), context.mean_over(context.wide)], axis=1)

    def take(self, k: int) -> Projection:
        """Keep the first ``k`` components."""
        return replace(self, axes=self.axes[:, :k])

    def _anchors(self, section: Section) -> tuple[Locations, Nearest, np.ndarray]:
        """Return the anchors of a section and their components ``(m, k)``; a slide has many, and every tile asks for them."""
        known = _ANCHORS.setdefault(needed(section.features), WeakKeyDictionary())
        if self not in known or not known[self].are_of(section, self.pitch_um):
            # Other projections have the same anchors.
            same = next((other for other in list(known.values()) if other.are_of(section, self.pitch_um)), None)
            anchors = anchors_of(section, self.pitch_um) if same is None else same.anchors
            near = Nearest(anchors.xy_um) if same is None else same.near
            around = self._project(needed(section.features).at(anchors), needed(section.features))
            known[self] = _Anchors(section.spots, section.tissue, self.pitch_um, anchors, near, around)
        return known[self][3:]

    def _project(self, embeddings: np.ndarray, source: FeatureSource) -> np.ndarray:
        out = np.empty((len(embeddings), self.axes.shape[1]))
        for start in range(0, len(embeddings), _CHUNK):  # long embeddings, scaled and in float64, are large
            rows = slice(start, start + _CHUNK)
            out[rows] = ((scaled(embeddings[rows], source, self.scaling) - self.center) / self.scale) @ self.axes
        return out


def _some_embedded(section: Section, scaling: Scaling, n_sections: int) -> np.ndarray:
    """Return scaled embeddings of evenly spaced spots, as many as the section's share of those that principal axes are found from."""
    source = needed(section.features)
    values = source.at(needed(section.spots))
    return scaled(values[:: max(1, len(values) * n_sections // _MAX_ROWS)], source, scaling)


@dataclass(frozen=True)
class TrainingSpots:
    """The spots of some sections that have any count, one below the other.

    Attributes
    ----------
    sections
        The sections, with all of their spots.
    kept
        For each section, rows of its spots that have any count.
    section, fold
        ``(n,)`` which section a spot is of, and with which spots it is left out.
    area
        ``(n,)`` of each footprint over that of the median one of its section.
    measured
        float32 ``(n, G)``, log2(1 + count), where counts are brought to the median footprint: a merged spot on the rim that lacks a
        member has less of everything.
    targets
        The same with the counts of each section scaled to ``log2_size``.
    centered
        ``targets`` with the mean of each section moved to the mean of all: what a section has more or less of as a
        whole is mostly how it was handled, and slopes fitted to it mislead elsewhere.
    weight
        ``(n,)`` 1 in a section of this library size, less in shallower ones and in small footprints: the relative variance of a
        count is one over it.
    log2_sizes
        log2 of the median total count over the panel, one for each section.
    log2_size
        That of the deepest section unless given: noise can be added to deep sections, not taken from shallow ones.
    pitch_um
        Median distance between spots; None where no section has two.
    radius_um
        Median radius of the disc of a footprint's area.
    """

    sections: tuple[Section, ...]
    kept: tuple[np.ndarray, ...]
    section: np.ndarray
    fold: np.ndarray
    area: np.ndarray
    measured: np.ndarray
    targets: np.ndarray
    centered: np.ndarray
    weight: np.ndarray
    log2_sizes: tuple[float, ...]
    log2_size: float
    pitch_um: float | None
    radius_um: float

    @classmethod
    def of(cls, sections: Sequence[Section], *, log2_size: float | None = None, n_blocks: int = 5) -> TrainingSpots:
        """Gather the spots of sections that share one panel; sections without any count are left out."""
        counted = [(s, np.flatnonzero(np.asarray(needed(s.counts).sum(axis=1)).ravel() > 0)) for s in sections]
        counted = [(s, rows) for s, rows in counted if len(rows)]
        n = sum(len(rows) for _, rows in counted)
        if n < _MIN_SPOTS:
            raise ValueError(
                f"To learn from, at least {_MIN_SPOTS} spots with counts of the panel are needed; "
                f"section(s) {[s.name for s in sections]} have {n}."
            )
        log2_sizes = tuple(float(np.log2(needed(library_size_of(needed(s.counts)[rows])))) for s, rows in counted)
        log2_size = max(log2_sizes) if log2_size is None else log2_size
        areas = [_relative_area(needed(s.spots))[rows] for s, rows in counted]
        weights = [min(1.0, 2.0 ** (own - log2_size)) for own in log2_sizes]
        n_spots = [len(rows) for _, rows in counted]
        measured, targets, centered = np.empty((3, n, needed(counted[0][0].counts).shape[1]), dtype=np.float32)
        means = []
        for (s, rows), area, own, end in zip(counted, areas, log2_sizes, np.cumsum(n_spots)):
            part = slice(end - len(rows), end)
            counts = needed(s.counts)[rows].toarray().astype(np.float64) / area[:, None]
            measured[part] = np.log2(1 + counts)
            counts *= 2.0 ** (log2_size - own)
            of_section = np.log2(1 + counts)
            targets[part] = of_section
            means.append(of_section.mean(axis=0))
            centered[part] = of_section - means[-1]
        centered += np.average(means, axis=0, weights=weights)
        xy = [needed(s.spots).xy_um[rows] for s, rows in counted]
        pitches = [pitch_of(p) for p in xy if len(p) > 1]
        return cls(
            sections=tuple(s for s, _ in counted),
            kept=tuple(rows for _, rows in counted),
            section=np.repeat(np.arange(len(counted)), n_spots),
            fold=folds_of(xy, n_blocks, [s.patient for s, _ in counted]),
            area=np.concatenate(areas),
            measured=measured,
            targets=targets,
            centered=centered,
            weight=np.repeat(weights, n_spots) * np.minimum(1.0, np.concatenate(areas)),
            log2_sizes=log2_sizes,
            log2_size=log2_size,
            pitch_um=float(np.median(pitches)) if pitches else None,
            radius_um=float(np.median(np.concatenate([needed(s.spots).radius_um for s, _ in counted]))),
        )

    @property
    def xy_um(self) -> np.ndarray:
        """``(n, 2)`` places of the spots, each in its own section."""
        return np.concatenate([needed(s.spots).xy_um[rows] for s, rows in zip(self.sections, self.kept)])

    def features(self, projection: Projection) -> np.ndarray:
        """Return the features of the spots, ``(n, 3 k)``."""
        return np.concatenate(
            [projection.features(s, needed(s.spots))[rows] for s, rows in zip(self.sections, self.kept)]
        )


def _relative_area(spots: Locations) -> np.ndarray:
    """Return the area of each footprint over that of the median one, ``(n,)``."""
    area = np.square(spots.radius_um)
    return area / np.median(area)
