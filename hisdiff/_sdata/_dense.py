"""Dense embeddings of a section as a :class:`~hisdiff._section.DenseSource`: stored ones are read, others computed."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely

from hisdiff._cores import on_cores
from hisdiff._kept import Kept
from hisdiff._sdata._grid import stored_embedding, stored_statistics
from hisdiff._sdata._image import fingerprint
from hisdiff._sdata._lazy import in_memory
from hisdiff._section import needed
from hisdiff.encoders._anchored import anchored
from hisdiff.encoders._base import dense_spec_of, is_reentrant
from hisdiff.encoders._embed import tissue_lattice
from hisdiff.encoders._known import KnownEncoder
from hisdiff.encoders._registry import is_named, require_dense

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

    from hisdiff._sdata._locate import Place
    from hisdiff._section import Box, FeatureSpec, ImageSource
    from hisdiff.encoders import DenseEncoder, Encoder

# The bin around a point of the lattice: about a token of a vision transformer.
_POINT_UM = 8.0
_STATISTICS = Kept(64 * 1024**2)


class DenseFeatures:
    """Dense embedding of a section; nothing is computed, and no encoder looked up, before it is asked for.

    Parameters
    ----------
    encoder
        An encoder, or what is known of it.
    image
        What is embedded.
    tissue
        Outline in um, inside which the statistics are taken; None for the whole image.
    place
        Where grids that ``hd.pp.grid`` stored are looked for, or None to compute everything.
    """

    def __init__(
        self,
        encoder: Encoder | KnownEncoder,
        image: ImageSource,
        tissue: Polygon | MultiPolygon | None,
        place: Place | None = None,
    ) -> None:
        self._known, self._image, self._tissue, self._place = encoder, image, tissue, place

    @cached_property
    def encoder(self) -> DenseEncoder:
        """The encoder, loaded."""
        return require_dense(self._known.encoder if isinstance(self._known, KnownEncoder) else self._known)

    @cached_property
    def spec(self) -> FeatureSpec:
        """What decides the values."""
        return needed(dense_spec_of(self.encoder))

    @property
    def mean(self) -> np.ndarray:
        """Mean over a 200 um lattice inside the tissue, float32 ``(D,)``."""
        return self._statistics[0]

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over the lattice, float32 ``(D,)``."""
        return self._statistics[1]

    @property
    def reentrant(self) -> bool:
        """Whether several threads may ask at once."""
        return is_reentrant(self.encoder)

    def raster(self, box_um: Box, resolution_um: float) -> np.ndarray:
        """Return float32 ``(rows, columns, D)``, one vector for each bin of a box whose sides are whole bins."""
        stored = None
        if self._place is not None:
            stored = stored_embedding(self._place, self.spec, self._known_by, resolution_um)
        if stored is None:
            return self._compute(box_um, resolution_um)
        window, array = stored
        rows, columns = window.parts(box_um)
        out = np.full((rows.stop - rows.start, columns.stop - columns.start, self.spec.dim), np.nan, dtype=np.float32)
        inside = [slice(max(s.start, 0), max(min(s.stop, n), 0)) for s, n in zip((rows, columns), window.shape)]
        if all(s.start < s.stop for s in inside):
            part = in_memory(array[:, inside[0], inside[1]], "A stored embedding of a grid")
            y, x = (slice(s.start - t.start, s.stop - t.start) for s, t in zip(inside, (rows, columns)))
            out[y, x] = np.moveaxis(part, 0, -1)
        return self._completed(out, box_um, resolution_um)

    def _completed(self, out: np.ndarray, box_um: Box, resolution_um: float) -> np.ndarray:
        """Compute the smallest box around the bins that the stored grid does not hold."""
        missing = np.isnan(out[..., 0])
        if missing.any():
            (top, bottom), (left, right) = ((some.min(), some.max() + 1) for some in np.nonzero(missing))
            x0, y0 = box_um[:2]
            box = tuple(start + n * resolution_um for start, n in ((x0, left), (y0, top), (x0, right), (y0, bottom)))
            computed = self._compute(box, resolution_um)
            out[top:bottom, left:right][missing[top:bottom, left:right]] = computed[missing[top:bottom, left:right]]
        return out

    def _compute(self, box_um: Box, resolution_um: float) -> np.ndarray:
        return self.encoder.encode_dense(self._pixels, box_um, resolution_um)

    @cached_property
    def _known_by(self) -> str:
        return fingerprint(self._image)

    @cached_property
    def identity(self) -> str | None:
        """What decides all values: image, encoder and outline. None for an encoder without a name, which may change."""
        if not is_named(self.spec.encoder):
            return None
        outline = b"" if self._tissue is None else shapely.to_wkb(self._tissue)
        return f"{self._known_by} {self.spec} {hashlib.sha256(outline).hexdigest()}"

    @cached_property
    def _pixels(self) -> ImageSource:
        return anchored(self._image, self.spec.mpp)

    @cached_property
    def _statistics(self) -> np.ndarray:
        return _STATISTICS.get(self.identity, lambda: np.stack(self._over_lattice()))

    def _over_lattice(self) -> tuple[np.ndarray, np.ndarray]:
        if self._place is not None:
            stored = stored_statistics(self._place, self.spec, self._known_by)
            if stored is not None:
                return stored
        tissue = self._tissue if self._tissue is not None else shapely.box(*self._image.bounds_um)
        half = _POINT_UM / 2
        points = tissue_lattice(tissue)

        def at(point: np.ndarray) -> np.ndarray:
            return self._compute((*(point - half).tolist(), *(point + half).tolist()), _POINT_UM)[0, 0]

        vectors = np.stack(on_cores(at, list(points)) if self.reentrant else list(map(at, points))).astype(np.float64)
        std = vectors.std(axis=0) if len(points) > 1 else np.ones(vectors.shape[1])
        return vectors.mean(axis=0).astype(np.float32), std.astype(np.float32)


def dense_features(
    place: Place, image: ImageSource | None, encoder: KnownEncoder, tissue: Polygon | MultiPolygon | None
) -> DenseFeatures | None:
    """Return the dense embedding of a section, or None where there is no image or the encoder has no dense form."""
    if image is None or not encoder.may_be_dense:
        return None
    return DenseFeatures(encoder, image, tissue, place)
