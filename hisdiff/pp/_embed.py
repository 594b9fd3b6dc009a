"""Embedding of the patches around spots."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import MultiPolygon

from hisdiff import encoders
from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._geometry import lattice_points
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._bound import Bound, by_object
from hisdiff._sdata._embedding import Embedded, write_embedding
from hisdiff._sdata._features import embedding_record, spec_of
from hisdiff._sdata._locate import require_image
from hisdiff._sdata._out_of_date import out_of_date
from hisdiff._sdata._provenance import check_free
from hisdiff._sdata._read import open_sections, read_spots, with_features
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._tissue import outline_on, tissue_key, write_tissue
from hisdiff._sdata._write import check_lattice_writable, write_lattice
from hisdiff._section import FeatureSpec, Locations, needed
from hisdiff._settings import settings
from hisdiff._workers import check_stores
from hisdiff.encoders._base import precision_of
from hisdiff.encoders._embed import embed_footprints, lattice_statistics
from hisdiff.encoders._known import KnownEncoder
from hisdiff.encoders._registry import get_for
from hisdiff.pp._tissue import outline_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shapely import Polygon
    from spatialdata import SpatialData

    from hisdiff.encoders import Encoder

DEFAULT_ENCODER = "texture"
# Lattice of a section without spots: that of Visium.
LATTICE_SPACING_UM = 100.0
LATTICE_RADIUS_UM = 27.5
PUBLISHED_PX = 224


@documented
@checked
def embed(
    data: SpatialData | Sequence[SpatialData],
    encoder: str | Encoder | Sequence[str | Encoder] = DEFAULT_ENCODER,
    *,
    patch_um: float | None = None,
    batch_size: int | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    device: str | None = None,
    progress: bool | None = None,
    inplace: bool = True,
) -> np.ndarray | list[np.ndarray] | None:
    """Embed the patch of image around every spot.

    Patches have a fixed side in micrometres and are resampled to the pixel size of the encoder. The embedding of a
    spot wider than 150 um (merged spots, a region) is the mean over patches 100 um apart, or over one patch for each of its
    parts. Embeddings are stored raw, with their mean and standard deviation over a 200 um lattice inside the tissue,
    which models use to remove effects of stain and scanner. A section that has only an image gets a lattice of locations
    first. Existing embeddings with the same encoder, patch and image are not computed again.

    Parameters
    ----------
    data
        One SpatialData or a sequence of them, with an H&E image each.
    encoder
        Name of an encoder (``hd.encoders.list()``), ``"local-dir:FOLDER"`` with a timm model, or an object with ``spec``
        and ``encode`` (:class:`hisdiff.encoders.Encoder`). ``"texture"`` needs no weights; where an image is coarser than
        1.05 um per pixel, all sections of the call are embedded with ``"texture-2um"`` (up to 3 um) or ``"texture-4um"`` (up to
        6 um) instead, and this is logged. A tuple of these is joined into one encoder that gives the vectors of all.
    patch_um
        Side of the patch in um; None for the default of the encoder.
    batch_size
        Number of patches per call of the encoder; it does not change the result.
    %(place)s
    %(mpp)s
    %(device)s
    %(progress)s
    %(inplace)s

    Returns
    -------
    None, and sets in every section ``tables[table_key].obsm["hisdiff_embedding"]`` (float32, n_obs x D, raw) and
    ``uns["hisdiff"]["embedding"]``; in a section without spots also the shapes element ``hisdiff_lattice`` and the
    table ``lattice``; and the shapes element ``tissue_<image>`` where there is none. Or the embeddings, one array per section.

    Raises
    ------
    ValueError
        If there is no image, spots lie outside it, its micrometres per pixel are unknown or too many for the encoder, or no
        tissue is found; or if the machine lacks the device.
    PermissionError
        If the encoder's weights are gated and cannot be read.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.pp.embed(sdata, "texture")
    >>> sdata.tables["table"].obsm["hisdiff_embedding"].shape[0] == sdata.tables["table"].n_obs
    True
    """
    if patch_um is not None:
        positive(patch_um, "patch_um")
    selection = Selection(table_key, image_key, shapes_key, mpp=mpp)
    runtime = Runtime.of(device=device, batch_size=batch_size, progress=progress)
    bounds = open_sections(data, selection, needs=("image",))  # everything is checked before anything is computed
    if inplace:
        embed_on(bounds, encoder, runtime, patch_um)
        return None
    encoder = _encoder_for(encoder, bounds)
    check_stores("hd.pp.embed", {bound.place.sdata.path for bound in bounds})
    arrays = [
        np.concatenate([one.values for one in _computed(group, encoder, patch_um, runtime)])
        for group in by_object(bounds)
    ]
    return arrays if isinstance(data, (list, tuple)) else arrays[0]


def embed_on(
    bounds: Sequence[Bound],
    encoder: str | Encoder | Sequence[str | Encoder],
    runtime: Runtime,
    patch_um: float | None = None,
) -> list[Bound]:
    """Embed opened sections and write what :func:`embed` writes; return the sections with their embedding."""
    used = _encoder_for(encoder, bounds)
    _check_writable(bounds)
    return [
        bound
        for group in by_object(bounds)
        for bound in _write(_computed(group, used, patch_um, runtime), used, LATTICE_RADIUS_UM)
    ]


def is_embedded(
    bounds: Sequence[Bound], encoder: str | Encoder | Sequence[str | Encoder], patch_um: float | None = None
) -> bool:
    """Whether opened sections have all that :func:`embed_on` would write."""
    used = _encoder_for(encoder, bounds)
    spec = _spec_of(used, patch_um)
    return all(bound.section.tissue is not None and _kept(bound, spec, used) is not None for bound in bounds)


def _encoder_for(encoder: str | Encoder | Sequence[str | Encoder], bounds: Sequence[Bound]) -> Encoder:
    """Return an encoder that all sections can be embedded with."""
    places = [bound.place for bound in bounds if bound.place.image_key is not None]
    if not places:
        return encoders.get(encoder)
    coarsest = max(places, key=lambda place: place.mpp)
    return get_for(encoder, coarsest.mpp, f"image {coarsest.image_key!r}")


def ensure_embedding(
    bounds: Sequence[Bound],
    spec: FeatureSpec | None,
    runtime: Runtime,
    encoder: str | Encoder | None = None,
    lattice: tuple[float, float] = (LATTICE_SPACING_UM, LATTICE_RADIUS_UM),
    patch_um: float | None = None,
) -> list[Bound]:
    """Embed the sections whose embedding is missing or out of date, all with one encoder; return all with an embedding.

    Parameters
    ----------
    spec
        The embedding that is wanted, such as that of a model; None for the first that any of the sections has.
    encoder
        What the caller gave: the object that made that embedding, or, where there is none yet, what is to make it.
    lattice
        Spacing and radius, in um, of the locations of a section that has only an image.
    patch_um
        Side of the patch where no section has an embedding yet; None for that of the encoder.
    """
    reasons = {id(bound): why for bound in bounds if (why := out_of_date(bound)) is not None}
    if not reasons:
        return list(bounds)
    stale = [bound for bound in bounds if id(bound) in reasons]
    for bound in stale:
        require_image(bound.place)
    why_stale = "; ".join(f"{bound.place.name}: {reasons[id(bound)]}" for bound in stale)
    spec = spec or next((spec_of(record) for bound in bounds if (record := embedding_record(bound.place.table))), None)
    if spec is not None:
        known = KnownEncoder(spec, None if isinstance(encoder, str) else encoder)
        known.check(f"The embedding ({why_stale})")
        encoder = known.encoder
    used = _encoder_for(DEFAULT_ENCODER if encoder is None else encoder, stale)
    logger.info("embedding (%s): running hd.pp.embed with encoder %r", why_stale, used.spec.name)
    _check_writable(stale)
    result: list[Bound] = []
    for group in by_object(bounds):
        if any(id(bound) in reasons for bound in group):
            done = _computed(group, used, patch_um if spec is None else spec.patch_um, runtime, lattice)
            result += _write(done, used, lattice[1])
        else:
            result += group
    return result


def published_patch_um(bounds: Sequence[Bound]) -> float:
    """Return the side of the published patch: 224 pixels, or twice the half of a wider spot.

    Sections of one model have patches of one side in um; where their pixels differ in size it is the median.
    """
    sides = []
    for bound in bounds:
        mpp, spots = bound.place.mpp, bound.section.spots
        width = 0.0 if spots is None else 2 * float(np.median(spots.radius_um)) / mpp
        sides.append(mpp * max(PUBLISHED_PX, 2 * int(width / 2)))
    return float(np.median(sides))


def ensure_lattice(bounds: Sequence[Bound], lattice: tuple[float, float]) -> list[Bound]:
    """Give sections that have only an image a lattice, (spacing, radius) in um, for methods that need no embedding."""
    return [bound if bound.place.table is not None else _with_lattice(bound, lattice) for bound in bounds]


def _with_lattice(bound: Bound, lattice: tuple[float, float]) -> Bound:
    _check_writable([bound])
    tissue = bound.section.tissue if bound.section.tissue is not None else _tissue(bound)
    points = _points(tissue, lattice[0], bound.place.name)
    return _on_lattice(_outlined(bound, tissue), points, lattice[1])


def _points(tissue: MultiPolygon | Polygon, spacing_um: float, name: str) -> np.ndarray:
    points = lattice_points(tissue, spacing_um)
    if not len(points):
        raise ValueError(f"No point of a lattice of {spacing_um:g} um lies inside the tissue of {name!r}.")
    return points


def _check_writable(bounds: Sequence[Bound]) -> None:
    """Raise where what goes with an embedding, outline and lattice, would replace what hisdiff did not write."""
    for bound in bounds:
        if bound.place.table is None:
            check_lattice_writable(bound.place.sdata)
        if bound.section.tissue is None:
            check_free(bound.place.sdata, tissue_key(bound.place))


def _computed(
    bounds: Sequence[Bound],
    encoder: Encoder,
    patch_um: float | None,
    runtime: Runtime,
    lattice: tuple[float, float] = (LATTICE_SPACING_UM, LATTICE_RADIUS_UM),
) -> list[Embedded]:
    """Embed the sections of one object; nothing is written."""
    spec = _spec_of(encoder, patch_um)
    return [_embed_section(bound, encoder, spec, runtime, lattice) for bound in bounds]


def _spec_of(encoder: Encoder, patch_um: float | None) -> FeatureSpec:
    own = encoder.spec
    side = own.patch_um if patch_um is None else patch_um
    return FeatureSpec(own.name, own.revision, own.dim, side / own.input_px, side)


def _embed_section(
    bound: Bound, encoder: Encoder, spec: FeatureSpec, runtime: Runtime, lattice: tuple[float, float]
) -> Embedded:
    section, place, image = bound.section, bound.place, needed(bound.section.image)
    tissue = section.tissue if section.tissue is not None else _tissue(bound)
    locations = section.spots
    if locations is None:
        locations = Locations(_points(tissue, lattice[0], place.name), lattice[1])
    kept = _kept(bound, spec, encoder)
    if kept is not None:
        stored = needed(bound.embedding)
        logger.info(
            "%s: embedding of encoder %r, precision %s, already exists", place.name, spec.encoder, stored.precision
        )
        return Embedded(bound, spec, tissue, locations, kept, stored.mean, stored.std, stored.precision)
    run: Any = {"batch_size": runtime.batch_size, "device": runtime.device, "progress": runtime.progress}
    step = f"embedding {place.name!r} with {spec.encoder!r}"
    values = embed_footprints(encoder, image, locations, patch_um=spec.patch_um, desc=f"{step}, locations", **run)
    mean, std = lattice_statistics(
        encoder, image, tissue, patch_um=spec.patch_um, desc=f"{step}, stain of the section", **run
    )
    return Embedded(bound, spec, tissue, locations, values, mean, std, precision_of(encoder))


def _kept(bound: Bound, spec: FeatureSpec, encoder: Encoder) -> np.ndarray | None:
    """Return the stored embedding if it is what would be computed, in any precision unless one is asked for; else None."""
    stored, spots = bound.embedding, bound.section.spots
    if stored is None or spots is None or stored.spec != spec or out_of_date(bound) is not None:
        return None
    if settings.precision != "auto" and stored.precision != precision_of(encoder):
        return None
    values = stored.at(spots)
    return values if np.isfinite(values).all() else None  # rows added since are NaN


def _tissue(bound: Bound) -> MultiPolygon:
    """Return the outline of the tissue; where none is found, the outline of the measured spots."""
    section = bound.section
    try:
        return outline_of(needed(section.image), bound.place.image_name)
    except ValueError:
        if section.spots is None:
            raise
    logger.warning("%s: no tissue was found in the image; the convex hull of the spots is used instead", section.name)
    radius = float(np.median(section.spots.radius_um))
    return MultiPolygon([shapely.convex_hull(shapely.MultiPoint(section.spots.xy_um)).buffer(radius)])


def _licence(encoder: Encoder) -> dict[str, str]:
    """Return what a model's card will have to say of the encoder, in words that zarr can hold."""
    allowed = {True: "yes", False: "no", None: "unknown"}[encoder.spec.derivatives]
    return {"licence": encoder.spec.licence, "derivatives": allowed}


def _write(done: Sequence[Embedded], encoder: Encoder, radius_um: float) -> list[Bound]:
    """Write outline, lattice and embedding of the sections of one object; return the sections with them."""
    bounds = []
    for one in done:
        bound = _outlined(one.bound, one.tissue)
        if bound.place.table is None:
            bound = _on_lattice(bound, one.locations.xy_um, radius_um)
        bounds.append(bound)
    write_embedding(bounds, done, _licence(encoder))
    return [with_features(bound, encoder) for bound in bounds]


def _outlined(bound: Bound, tissue: MultiPolygon | Polygon) -> Bound:
    """Write the outline of a section that has none; return the section with it, as it is stored."""
    if bound.section.tissue is not None:
        return bound
    write_tissue(bound.place, tissue_key(bound.place), tissue)
    return bound.with_section(replace(bound.section, tissue=outline_on(bound.place, bound.section.image)))


def _on_lattice(bound: Bound, xy_um: np.ndarray, radius_um: float) -> Bound:
    """Write the lattice of a section that has only an image; return the section at it, as it is stored."""
    place = write_lattice(bound.place, xy_um, radius_um)
    return Bound(replace(bound.section, name=place.name, spots=read_spots(place)), place)
