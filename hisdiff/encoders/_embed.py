"""Embed the surroundings of points of an image."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._geometry import lattice_points
from hisdiff._geometry._patches import patch_centers
from hisdiff._log import progress as progress_bar
from hisdiff._workers import active_client, spread
from hisdiff.encoders._base import is_reentrant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shapely import MultiPolygon, Polygon

    from hisdiff._section import ImageSource, Locations
    from hisdiff.encoders._base import Encoder

LATTICE_UM = 200.0
_FEWEST_POINTS = 16
_READERS = 2
_BATCHES_AHEAD = 2
_PART = 64
"""Patches that a worker embeds at a time, at least; fewer than twice as many are not sent to workers."""


def embed_footprints(
    encoder: Encoder,
    image: ImageSource,
    locations: Locations,
    *,
    patch_um: float,
    batch_size: int | None = None,
    device: str | None = None,
    progress: bool | None = None,
    desc: str | None = None,
) -> np.ndarray:
    """Embed what lies under each footprint: the patch around it, or the mean of several patches where it is wide.

    Parameters
    ----------
    locations
        Places with their footprints.
    encoder, image, patch_um, batch_size, device, progress, desc
        See :func:`embed_locations`.

    Returns
    -------
    float32 ``(n, D)``.
    """
    points, share = patch_centers(locations)
    vectors = embed_locations(
        encoder, image, points, patch_um=patch_um, batch_size=batch_size, device=device, progress=progress, desc=desc
    )
    return vectors if len(points) == len(locations) else (share @ vectors).astype(np.float32)


@documented
def embed_locations(
    encoder: Encoder,
    image: ImageSource,
    xy_um: np.ndarray,
    *,
    patch_um: float | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    progress: bool | None = None,
    desc: str | None = None,
) -> np.ndarray:
    """Embed the patch of image around each location.

    Patches are read by threads while the encoder works on those before them. An encoder that several threads may call at once is
    called by as many as there are cores instead, each with patches that it has read.

    Parameters
    ----------
    encoder
        What embeds.
    image
        Where patches are read from; white outside.
    xy_um
        ``(n, 2)`` centres in um.
    patch_um
        Side of the patch in um; None for the encoder's own.
    batch_size
        Patches per call of the encoder, or None for its own choice.
    device
        Device of encoders that have one (a method ``to``); None leaves them where they are.
    %(progress)s
    desc
        What is embedded, for the bar; None for the name of the encoder.

    Returns
    -------
    float32 ``(n, D)``.

    Raises
    ------
    ValueError
        If an encoder's result has not the shape that its spec promises, or holds values that are not finite.
    """
    spec = encoder.spec
    side = spec.patch_um if patch_um is None else positive(patch_um, "patch_um")
    xy_um = np.asarray(xy_um, dtype=float).reshape(-1, 2)
    if device is not None and hasattr(encoder, "to"):
        encoder.to(device)
    size = (
        getattr(encoder, "batch_size", 32) if batch_size is None else positive(batch_size, "batch_size", integer=True)
    )
    embedded = np.empty((len(xy_um), spec.dim), dtype=np.float32)
    desc = f"embedding with {spec.name!r}" if desc is None else desc
    # Whole batches, so that a patch is in the same one wherever it is embedded.
    reentrant = is_reentrant(encoder)
    on_workers = len(xy_um) >= 2 * _PART and active_client() is not None
    at_once = _PART if on_workers else 1 if reentrant else len(xy_um)
    n_parts = -(-len(xy_um) // max(size, at_once))
    part = size * max(1, -(-len(xy_um) // (size * max(1, n_parts))))  # all of about one size
    parts = [slice(start, start + part) for start in range(0, len(xy_um), part)]
    with progress_bar(None, desc=desc, total=len(xy_um), enabled=progress, unit="patches") as bar:
        if len(parts) == 1 and not reentrant:
            for rows, vectors in _encoded(encoder, image, xy_um, side, size):
                embedded[rows] = vectors
                bar.update(len(vectors))
            return embedded
        work = partial(_encoded_part, encoder, image, side, size)
        items = [xy_um[rows] for rows in parts]
        for number, vectors in spread(work, items, desc, threads=reentrant, workers=on_workers):
            embedded[parts[number]] = vectors
            bar.update(len(vectors))
    return embedded


def _encoded(
    encoder: Encoder, image: ImageSource, xy_um: np.ndarray, side: float, size: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their embeddings, batch by batch."""
    spec = encoder.spec
    # Beside a thread for each core, more of them would only wait.
    batches = _batches if is_reentrant(encoder) else _batches_ahead
    for rows, patches in batches(partial(_patch, image, side, spec.input_px), xy_um, size):
        vectors = encoder.encode(patches)
        if vectors.shape != (len(patches), spec.dim):
            raise ValueError(
                f"Encoder {spec.name!r} promises embeddings of shape {(len(patches), spec.dim)} and returned {vectors.shape}."
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"Encoder {spec.name!r} returned values that are not finite.")
        yield rows, vectors


def _encoded_part(encoder: Encoder, image: ImageSource, side: float, size: int, xy_um: np.ndarray) -> np.ndarray:
    return np.concatenate([vectors for _, vectors in _encoded(encoder, image, xy_um, side, size)], dtype=np.float32)


def lattice_statistics(
    encoder: Encoder,
    image: ImageSource,
    tissue: Polygon | MultiPolygon,
    *,
    patch_um: float | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    progress: bool | None = None,
    desc: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of embeddings over a 200 um lattice inside the tissue, float32 ``(D,)`` each.

    The lattice does not depend on spots, so that statistics of sections compare. In a tissue too small for it the
    pitch is halved until enough points lie inside; one that still holds a single point has a deviation of 1.

    Parameters
    ----------
    encoder, image, patch_um, batch_size, device, progress, desc
        See :func:`embed_locations`.
    tissue
        Outline in um.
    """
    points = tissue_lattice(tissue)
    embedded = embed_locations(
        encoder, image, points, patch_um=patch_um, batch_size=batch_size, device=device, progress=progress, desc=desc
    ).astype(np.float64)
    std = embedded.std(axis=0) if len(points) > 1 else np.ones(embedded.shape[1])
    return embedded.mean(axis=0).astype(np.float32), std.astype(np.float32)


def tissue_lattice(tissue: Polygon | MultiPolygon) -> np.ndarray:
    """Return the points, ``(n, 2)`` in um, over which the statistics of a section are taken; at least one."""
    pitch = LATTICE_UM
    points = lattice_points(tissue, pitch)
    while len(points) < _FEWEST_POINTS and pitch > LATTICE_UM / 16:
        pitch /= 2
        points = lattice_points(tissue, pitch)
    if len(points) == 0:
        inside = tissue.representative_point()
        points = np.array([[inside.x, inside.y]])
    return points


def _patch(image: ImageSource, side: float, pixels: int, x: float, y: float) -> np.ndarray:
    return image.read((x - side / 2, y - side / 2, x + side / 2, y + side / 2), side / pixels)


def _batches(
    read: Callable[[float, float], np.ndarray], xy_um: np.ndarray, size: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their patches in order."""
    for start in range(0, len(xy_um), size):
        rows = slice(start, min(start + size, len(xy_um)))
        yield rows, np.stack([read(x, y) for x, y in xy_um[rows]])


def _batches_ahead(
    read: Callable[[float, float], np.ndarray], xy_um: np.ndarray, size: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their patches in order; those of the next batches are read meanwhile."""
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: deque = deque()
        try:
            for start in range(0, len(xy_um), size):
                rows = slice(start, min(start + size, len(xy_um)))
                waiting.append((rows, [pool.submit(read, x, y) for x, y in xy_um[rows]]))
                if len(waiting) > _BATCHES_AHEAD:
                    yield _collect(*waiting.popleft())
            while waiting:
                yield _collect(*waiting.popleft())
        finally:  # an error or an interruption does not wait for what nobody needs
            for _, futures in waiting:
                for future in futures:
                    future.cancel()


def _collect(rows: slice, futures: list) -> tuple[slice, np.ndarray]:
    return rows, np.stack([future.result() for future in futures])
