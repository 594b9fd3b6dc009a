"""The seam between SpatialData and the methods: one tissue section as plain arrays in micrometres.

Everything above this module knows SpatialData; nothing below it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_matrix
    from shapely import MultiPolygon, Polygon

    from hisdiff._json import Plain

_Part = TypeVar("_Part")
Names = Sequence[str] | np.ndarray
"""Names of genes."""
Box = tuple[float, float, float, float]
"""``(x0, y0, x1, y1)`` in micrometres."""


@dataclass(frozen=True)
class Locations:
    """Places at which expression is measured or predicted.

    Attributes
    ----------
    xy_um
        ``(n, 2)`` float64, centres as (x, y) in micrometres.
    footprint
        A radius in um for all, ``(n,)`` radii, or ``(n,)`` shapely polygons in um.
    array_ij
        ``(n, 2)`` integer (row, col) on the capture array, where there is one.
    z_um
        ``(n,)`` height, where sections are stacked.
    bin_um
        Side of the bins of a grid, with rows and columns in ``array_ij``; None for other locations.
    """

    xy_um: np.ndarray
    footprint: float | np.ndarray
    array_ij: np.ndarray | None = None
    z_um: np.ndarray | None = None
    bin_um: float | None = None

    @classmethod
    def bins(cls, ij: np.ndarray, resolution_um: float) -> Locations:
        """Return bins ``(n, 2)``, (row, column), of the grid anchored at the origin of um."""
        xy = (np.asarray(ij)[:, ::-1] + 0.5) * resolution_um
        return cls(xy, resolution_um / np.sqrt(np.pi), np.asarray(ij, dtype=np.int64), bin_um=float(resolution_um))

    def __len__(self) -> int:
        return len(self.xy_um)

    @property
    def radius_um(self) -> np.ndarray:
        """``(n,)`` radius of the disc of each footprint's area, in um."""
        if isinstance(self.footprint, np.ndarray) and self.footprint.dtype == object:
            return np.sqrt(shapely.area(self.footprint) / np.pi)
        return np.broadcast_to(np.asarray(self.footprint, dtype=float), len(self))

    def take(self, rows: np.ndarray | slice) -> Locations:
        """Return the given rows (integers, a slice or a mask)."""
        pick = lambda a: None if a is None else a[rows]  # noqa: E731
        footprint = self.footprint[rows] if isinstance(self.footprint, np.ndarray) else self.footprint
        return Locations(self.xy_um[rows], footprint, pick(self.array_ij), pick(self.z_um), self.bin_um)

    def scaled(self, factor: float) -> Locations:
        """Return the same places with footprints scaled about their centres."""
        if factor == 1:
            return self
        if isinstance(self.footprint, np.ndarray) and self.footprint.dtype == object:
            scaled = [
                shapely.transform(outline, lambda points, at=at: at + factor * (points - at))
                for outline, at in zip(self.footprint, self.xy_um)
            ]
            return replace(self, footprint=np.array(scaled, dtype=object))
        return replace(self, footprint=self.footprint * factor)

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> Locations:
        """Return places that a rigid motion of points ``(n, 2)`` has moved."""
        footprint = self.footprint
        if isinstance(footprint, np.ndarray) and footprint.dtype == object:
            footprint = shapely.transform(footprint, move)
        return Locations(move(self.xy_um), footprint, z_um=self.z_um)


@runtime_checkable
class ImageSource(Protocol):
    """A lazily read image with a physical scale."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the full-resolution image."""

    @property
    def bounds_um(self) -> Box:
        """Extent of the image."""

    def read(self, box_um: Box, mpp: float) -> np.ndarray:
        """Read a box at a resolution.

        Returns uint8 ``(y, x, 3)`` with ``round(side / mpp)`` pixels a side, antialiased; white outside the image.
        """


@dataclass(frozen=True)
class FeatureSpec:
    """What decides the values of an embedding; two embeddings are comparable if and only if their specs are equal."""

    encoder: str
    revision: str
    dim: int
    mpp: float
    patch_um: float

    def to_dict(self) -> Plain:
        return {
            "encoder": self.encoder,
            "revision": self.revision,
            "dim": int(self.dim),
            "mpp": float(self.mpp),
            "patch_um": float(self.patch_um),
        }


@runtime_checkable
class FeatureSource(Protocol):
    """Raw embeddings of one section, with the section's own mean and standard deviation over a 200 um lattice."""

    spec: FeatureSpec
    mean: np.ndarray  # (D,)
    std: np.ndarray  # (D,)

    def at(self, locations: Locations) -> np.ndarray:
        """Return raw embeddings, float32 ``(n, D)``; those stored at spots are not computed again."""


@runtime_checkable
class DenseSource(Protocol):
    """Dense embedding of one section: a raw vector for every bin of a grid, computed once per tile of image.

    What a bin's vector describes has a fixed size in um (``spec.patch_um``), whatever the bins' size; it depends on the
    place alone, not on the box that is asked for.
    """

    @property
    def spec(self) -> FeatureSpec:
        """What decides the values."""

    @property
    def mean(self) -> np.ndarray:
        """Mean ``(D,)`` over a 200 um lattice inside the tissue."""

    @property
    def std(self) -> np.ndarray:
        """Standard deviation ``(D,)`` over the lattice."""

    def raster(self, box_um: Box, resolution_um: float) -> np.ndarray:
        """Return float32 ``(rows, columns, D)``, one vector for each bin of a box whose sides are whole bins."""


@dataclass(frozen=True)
class Section:
    """One tissue section.

    Attributes
    ----------
    name
        For messages and records.
    genes
        ``(G,)`` names of the columns of ``counts``.
    counts
        csr ``(n, G)`` of raw counts at ``spots``, or None.
    spots
        Measured locations, or the lattice of a section that has only an image.
    image, features
        Sources, or None where the section has none.
    tissue
        Polygons in um, or None.
    library_size
        Median total count of a spot over the panel, or None where that is not known.
    dense
        Dense embedding, or None where the encoder has none.
    patient
        Whom it is of, or None where that is not known.
    source
        Name of the tissue, whichever locations of it are asked for: as ``name``, or that of the image where it was not measured.
    """

    name: str
    genes: np.ndarray
    counts: csr_matrix | None = None
    spots: Locations | None = None
    image: ImageSource | None = None
    features: FeatureSource | None = None
    tissue: Polygon | MultiPolygon | None = None
    library_size: float | None = None
    dense: DenseSource | None = None
    patient: str | None = None
    source: str | None = None

    def seed(self, seed: int) -> int:
        """Return the seed of the noise in this section: with one for all, what is open would be the same in each section of a draw."""
        return int(np.random.SeedSequence([seed, *(self.source or self.name).encode()]).generate_state(1)[0])

    @property
    def log2_size(self) -> float:
        """log2 of the library size; NaN where that is not known."""
        return math.nan if self.library_size is None else math.log2(self.library_size)

    def renamed(self, genes: np.ndarray) -> Section:
        """Return the section with other names for the same columns of ``counts``."""
        return replace(self, genes=genes)

    def in_order_of_place(self) -> Section:
        """Return the section with its spots sorted from above and from the left, so that a fit does not depend on their rows."""
        if self.spots is None:
            return self
        return self.take(np.lexsort(self.spots.xy_um.T))

    def take(self, rows: np.ndarray) -> Section:
        """Return the section with the given rows of its spots (integers or a mask)."""
        counts = None if self.counts is None else self.counts[rows]
        return replace(self, spots=None if self.spots is None else self.spots.take(rows), counts=counts)

    def with_panel(self, panel: Names) -> Section:
        """Return the section with its counts on the genes of a panel, in the panel's order; the library size is taken over them.

        Genes that the section lacks are a ``KeyError``.
        """
        genes = np.asarray(panel, dtype=str)
        if self.counts is None:
            return replace(self, genes=genes, library_size=None)
        where = {gene: i for i, gene in enumerate(self.genes)}
        missing = [gene for gene in panel if gene not in where]
        if missing:
            raise KeyError(
                f"Section {self.name!r} lacks {len(missing)} of {len(panel)} genes of the panel, such as {missing[:5]}."
            )
        counts = self.counts[:, [where[gene] for gene in panel]].tocsr()
        return replace(self, genes=genes, counts=counts, library_size=library_size_of(counts))


def needed(part: _Part | None) -> _Part:
    """Return a part that may be missing in other sections, after it was checked that it is there."""
    assert part is not None
    return part


def library_size_of(counts: csr_matrix) -> float | None:
    """Return the median total count over the panel of the spots that have any count; None where no spot has."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    totals = totals[totals > 0]
    return float(np.median(totals)) if len(totals) else None


@dataclass(frozen=True)
class Prediction:
    """Predicted expression at locations; arrays are lazy (dask) where a prediction was streamed to disk.

    Attributes
    ----------
    mean, std
        float32 ``(n, G)``, mean and standard deviation over draws on the scale ``units``.
    genes
        ``(G,)`` names.
    units
        ``"log2"``: log2(1 + count); ``"counts"``: expected counts.
    draws
        The first ``k`` draws, float32 ``(n, G)`` each, or None.
    obs
        ``(n,)`` arrays by name that go beside the result, such as an out-of-distribution flag.
    n_draws
        How many draws were made; 1 for methods that give one value only.
    """

    mean: np.ndarray
    std: np.ndarray
    genes: np.ndarray
    units: str
    draws: np.ndarray | Sequence[np.ndarray] | None = None
    obs: dict[str, np.ndarray] = field(default_factory=dict)
    n_draws: int = 1
