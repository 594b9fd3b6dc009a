"""Grids of bins finer than spots, with their dense embedding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np

from hisdiff import _stream, encoders
from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._geometry._grid import bins_within
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._bound import Bound, by_object
from hisdiff._sdata._dense import DenseFeatures
from hisdiff._sdata._grid import Window, embedding_element, embedding_key, embedding_note, grid_key, labels_element
from hisdiff._sdata._provenance import check_free
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._store import check_room, put, working_folder
from hisdiff._sdata._tissue import tissue_key, write_tissue
from hisdiff._section import needed
from hisdiff._workers import check_stores, spread
from hisdiff.encoders._base import dense_spec_of, precision_of
from hisdiff.encoders._patch import PatchEncoder
from hisdiff.encoders._registry import require_dense
from hisdiff.pp._embed import DEFAULT_ENCODER
from hisdiff.pp._tissue import outline_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from shapely import MultiPolygon, Polygon
    from spatialdata import SpatialData

    from hisdiff.encoders import DenseEncoder, Encoder

# Values of a chunk of the embedding: some 10 MB.
_CHUNK_VALUES = 2**21
_REGION_UM = 1000.0
"""Least side of what is embedded at once: what lies around it is read and filtered as well."""
_MAX_CHUNKS = 4
_TILE_FACTOR = 3
"""Memory that a tile takes while it is embedded, in sizes of its result."""
# Vectors longer than this are kept in half precision; networks that give such run in bfloat16 anyway.
_LONGEST_IN_FLOAT32 = 256


@documented
@checked
def grid(
    data: SpatialData | Sequence[SpatialData],
    resolution_um: float,
    *,
    encoder: str | Encoder | Sequence[str | Encoder] | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    device: str | None = None,
    progress: bool | None = None,
) -> None:
    """Lay a grid of square bins over the tissue and embed every bin.

    Bins are anchored at the origin of the coordinate system ``um``, so that cropping a section does not move them.
    The surroundings that a vector describes have a fixed size in um, independent of the side of the bins. Each part of the
    image is encoded once, not once for every bin. If the object is backed by a zarr store, the embedding is written
    tile by tile: memory does not grow with the slide, and the same call resumes an interrupted one.

    Parameters
    ----------
    data
        One SpatialData or a sequence of them, with an H&E image each.
    resolution_um
        Side of a bin in um.
    encoder
        Name of an encoder that has a dense form, or an object (:class:`hisdiff.encoders.DenseEncoder`); None for that of
        the section's embedding (where it has no dense form, every bin is embedded with the patch around it), or
        ``"texture"`` where there is no embedding.
    %(place)s
    %(mpp)s
    key_added
        Name of the labels; by default ``grid_{resolution_um:g}um``, followed by ``_<image>`` where the object has several
        images.
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets the labels element ``key_added`` (int32, 1 to n for the bins whose centre lies in the tissue, 0 for no
    bin), the image element ``{key_added}_embedding`` (float32, or float16 where vectors are longer than 256; D x rows x
    columns, NaN where nothing was embedded) of the same pixels, and the shapes element ``tissue_<image>`` where there is none.
    Those of an earlier call are replaced.

    Raises
    ------
    ValueError
        If the resolution is finer than a pixel or larger than the tissue, no bin lies in the tissue, no tissue is found,
        the encoder has no dense form, a name is taken by something that hisdiff did not write, or an object without a
        zarr store would have to hold more than 2 GB.
    OSError
        If the disk is full; the object is unchanged, and the same call resumes.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.pp.grid(sdata, 20)
    >>> sdata.labels["grid_20um"].shape == sdata.images["grid_20um_embedding"].shape[1:]
    True
    """
    resolution_um = positive(resolution_um, "resolution_um")
    selection = Selection(table_key, image_key, shapes_key, mpp=mpp)
    runtime = Runtime.of(device=device, progress=progress)
    able = None if encoder is None else require_dense(encoders.get(encoder))
    jobs = []
    for group in by_object(open_sections(data, selection, needs=("image",))):  # checked before anything is computed
        bounds = {bound.place.image_name: bound for bound in group}
        if key_added is not None and len(bounds) > 1:
            raise ValueError(
                f"key_added={key_added!r} names one grid, but the sections have images {sorted(bounds)}; name one with image_key=."
            )
        jobs += [_prepare(bound, resolution_um, able, key_added) for bound in bounds.values()]
    check_stores("hd.pp.grid", {job.bound.place.sdata.path for job in jobs})
    for job in jobs:
        if runtime.device is not None and hasattr(job.encoder, "to"):
            job.encoder.to(runtime.device)
        _run(job, runtime)


@dataclass(frozen=True)
class _Job:
    """A grid that has passed all checks."""

    bound: Bound
    key: str
    tissue: Polygon | MultiPolygon
    encoder: DenseEncoder
    ij: np.ndarray
    window: Window

    @property
    def name(self) -> str:
        return self.bound.place.image_name

    @property
    def output(self) -> _stream.Output:
        dim = needed(dense_spec_of(self.encoder)).dim
        dtype = "float32" if dim <= _LONGEST_IN_FLOAT32 else "float16"
        # A power of two, so that chunks of different encoders and windows compare.
        side = 2 ** int(np.log2(max(np.sqrt(_CHUNK_VALUES / dim), 16)))
        return _stream.Output((dim, *self.window.shape), (dim, side, side), dtype, float("nan"))


def _prepare(bound: Bound, resolution_um: float, encoder: DenseEncoder | None, key_added: str | None) -> _Job:
    section, place = bound.section, bound.place
    if resolution_um < place.mpp:
        raise ValueError(
            f"resolution_um={resolution_um:g} is finer than a pixel of image {place.image_key!r}, which has {place.mpp:.4g} um per pixel."
        )
    key = key_added or grid_key(place, resolution_um)
    for name in (key, embedding_key(key)):
        check_free(place.sdata, name)
    if section.tissue is None:
        check_free(place.sdata, tissue_key(place))
    able = _encoder_of(bound) if encoder is None else encoder
    tissue = section.tissue if section.tissue is not None else outline_of(needed(section.image), place.image_name)
    x0, y0, x1, y1 = tissue.bounds
    if resolution_um > max(x1 - x0, y1 - y0):
        raise ValueError(
            f"resolution_um={resolution_um:g} is larger than the tissue of {place.name!r}, which spans {x1 - x0:.0f} x {y1 - y0:.0f} um."
        )
    ij = bins_within(tissue, resolution_um)
    if not len(ij):
        raise ValueError(
            f"No bin of a grid of {resolution_um:g} um has its centre inside the tissue of {place.name!r} ({tissue.area:.0f} um2)."
        )
    if len(ij) > np.iinfo(np.int32).max:
        raise ValueError(f"A grid of {len(ij)} bins is too fine: labels number up to {np.iinfo(np.int32).max}.")
    job = _Job(bound, key, tissue, able, ij, Window.around(ij, resolution_um))
    what = f"The embedding of {len(ij)} bins of {resolution_um:g} um by encoder {able.spec.name!r}"
    check_room(place.sdata, job.output.nbytes, what)
    return job


def _encoder_of(bound: Bound) -> DenseEncoder:
    """Return the encoder of a section's embedding; one without a dense form embeds the patch around every bin."""
    if bound.encoder is None:
        return require_dense(encoders.get(DEFAULT_ENCODER))
    bound.encoder.check(f"The grid of {bound.place.name!r}")
    encoder = bound.encoder.encoder
    if dense_spec_of(encoder) is not None:
        return require_dense(encoder)
    logger.info("encoder %r has no dense form: every bin has the embedding of the patch around it", encoder.spec.name)
    return PatchEncoder(encoder, bound.encoder.spec)


def _run(job: _Job, runtime: Runtime) -> None:
    with working_folder(job.bound.place.sdata, embedding_key(job.key)) as folder:
        _run_in(folder, job, runtime)


def _run_in(folder: Path | None, job: _Job, runtime: Runtime) -> None:
    section, place = job.bound.section, job.bound.place
    sdata, window = place.sdata, job.window
    labels = labels_element(place, window, job.ij)
    source = DenseFeatures(job.encoder, needed(section.image), job.tissue)
    regions = _regions(window, job.ij, job.output)
    known_by = job.bound.fingerprint

    def work(k: int) -> dict[str, np.ndarray]:
        _, rows, columns = regions[k]["embedding"]
        return {"embedding": np.moveaxis(source.raster(window.box_um(rows, columns), window.resolution_um), -1, 0)}

    precision = precision_of(job.encoder)
    plan = {
        "image": job.name,
        "mpp": place.mpp,
        "fingerprint": known_by,
        "precision": precision,
        "window": [window.row, window.column],
        "resolution_um": window.resolution_um,
        "encoder": source.spec.to_dict(),
    }
    needs = _TILE_FACTOR * max(_nbytes(job.output, region["embedding"]) for region in regions)
    arrays = _stream.run(
        folder,
        plan,
        {"embedding": job.output},
        regions,
        work,
        desc=f"embedding a grid with {source.spec.encoder!r}",
        progress=runtime.progress,
        each=partial(spread, needs_bytes=needs, threads=source.reentrant),
    )
    names = [f"{source.spec.encoder}_{i}" for i in range(source.spec.dim)]
    values = arrays["embedding"]
    if isinstance(values, np.ndarray):
        values = da.from_array(values, chunks=job.output.chunks)
    elements = {job.key: labels, embedding_key(job.key): embedding_element(place, window, values, names)}
    known = {"fingerprint": known_by, "precision": precision}
    note = embedding_note(place, window, source.spec, **known, mean=source.mean, std=source.std)
    notes = {job.key: {"resolution_um": window.resolution_um}, embedding_key(job.key): note}
    put(sdata, elements, notes)
    if section.tissue is None:
        write_tissue(place, tissue_key(place), job.tissue)
    logger.info(
        "wrote labels %r and image %r: %d bins x %d, encoder %r, precision %s",
        *elements, len(job.ij), source.spec.dim, source.spec.encoder, precision,
    )  # fmt: skip


def _nbytes(output: _stream.Output, region: _stream.Region) -> int:
    return int(np.prod([part.stop - part.start for part in region])) * np.dtype(output.dtype).itemsize


def _regions(window: Window, ij: np.ndarray, output: _stream.Output) -> list[dict[str, _stream.Region]]:
    """Cut a window into squares of whole chunks; those without a bin are left out."""
    chunk = output.chunks[1]
    side = chunk * int(np.clip(np.ceil(_REGION_UM / (chunk * window.resolution_um)), 1, _MAX_CHUNKS))
    rows, columns = window.shape
    across = -(-columns // side)
    taken = np.unique((ij - [window.row, window.column]) // side @ [across, 1])
    return [
        {
            "embedding": (
                slice(0, output.shape[0]),
                slice(i * side, min((i + 1) * side, rows)),
                slice(j * side, min((j + 1) * side, columns)),
            )
        }
        for i, j in (divmod(square, across) for square in taken.tolist())
    ]
