"""Embedding of the patches around spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import MultiPolygon

from hisdiff import _keys, encoders
from hisdiff._check import positive
from hisdiff._device import resolve_device
from hisdiff._geometry import lattice_points
from hisdiff._log import logger
from hisdiff._sdata._features import embedding_record, out_of_date, spec_of, stored_features
from hisdiff._sdata._image import fingerprint
from hisdiff._sdata._locate import locate
from hisdiff._sdata._read import Bound, as_list, read_sections
from hisdiff._sdata._tissue import tissue_key, write_tissue
from hisdiff._sdata._write import set_record, write_lattice
from hisdiff._section import FeatureSpec, Locations
from hisdiff._settings import settings
from hisdiff.encoders._base import precision_of
from hisdiff.encoders._embed import embed_footprints, lattice_statistics
from hisdiff.encoders._registry import get_for
from hisdiff.pp._tissue import outline_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spatialdata import SpatialData

    from hisdiff._sdata._features import StoredFeatures
    from hisdiff._sdata._locate import Place
    from hisdiff.encoders import Encoder

# Lattice of a section without spots: that of Visium.
LATTICE_SPACING_UM = 100.0
LATTICE_RADIUS_UM = 27.5


def embed(
    data: SpatialData | Sequence[SpatialData],
    encoder: str | Encoder = "texture",
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

    Patches have a fixed side in micrometres and are resampled to the encoder's own pixel size, whatever the scan's. A
    spot wider than 150 um (merged spots, a region) has the mean of patches 100 um apart, or of one for each of its parts.
    Embeddings are stored raw; beside them the mean and standard deviation over a 200 um lattice inside the tissue,
    by which a model can take out stain and scanner. A section that has only an image gets a lattice of locations
    first. What was embedded before with the same encoder, patch and image is not computed again.

    Parameters
    ----------
    data
        One SpatialData or a sequence of them, with an H&E image each.
    encoder
        Name of an encoder (``hd.encoders.list()``), ``"local-dir:FOLDER"`` with a timm model, or an object with ``spec``
        and ``encode`` (:class:`hisdiff.encoders.Encoder`). ``"texture"`` needs no weights; where an image is coarser than
        1.05 um per pixel, all sections of the call are embedded with ``"texture-2um"`` (up to 3 um) or ``"texture-4um"`` (up to
        6 um) instead, and this is logged.
    patch_um
        Side of the patch in um; None for the encoder's own.
    batch_size
        Patches per call of the encoder; does not change the result.
    table_key, image_key, shapes_key
        What to use where several could be meant; ``image_key`` may map regions to images.
    mpp
        Micrometres per pixel, where the image has no coordinate system ``um``.
    device
        ``"cpu"``, ``"cuda"``, ...; None for the package's setting.
    progress
        Show a progress bar; None for the package's setting.
    inplace
        Write, or return the embeddings.

    Returns
    -------
    None, and sets in every section ``tables[table_key].obsm["hisdiff_embedding"]`` (float32, n_obs x D, raw) and
    ``uns["hisdiff"]["embedding"]``; in a section without spots also the shapes element ``hisdiff_lattice`` and the
    table ``lattice``; and the shapes element ``tissue`` where there is none. Or the embeddings, one array per section.

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
    if batch_size is not None:
        positive(batch_size, "batch_size", integer=True)
    if device is not None:
        resolve_device(device)
    where: dict[str, Any] = {"table_key": table_key, "image_key": image_key, "shapes_key": shapes_key, "mpp": mpp}
    items = as_list(data)
    # Everything is checked before anything is computed.
    places = [bound.place for sdata in items for bound in read_sections(sdata, **where, needs=("image",))]
    encoder = _encoder_for(encoder, places)
    run = {"batch_size": batch_size, "device": device, "progress": progress}
    results = [_embed(sdata, encoder, patch_um, where, run, inplace=inplace) for sdata in items]
    if inplace:
        return None
    return results if isinstance(data, (list, tuple)) else results[0]


def _encoder_for(encoder: str | Encoder, places: Sequence[Place]) -> Encoder:
    """Return an encoder that all sections can be embedded with."""
    coarsest = max(
        (place for place in places if place.image_key is not None), key=lambda place: place.mpp, default=None
    )
    if coarsest is None:
        return encoders.get(encoder)
    return get_for(encoder, coarsest.mpp, f"image {coarsest.image_key!r}")


def ensure_embedding(
    data: SpatialData | Sequence[SpatialData],
    spec: FeatureSpec | None,
    where: Mapping[str, Any],
    run: Mapping[str, Any],
    lattice: tuple[float, float] = (LATTICE_SPACING_UM, LATTICE_RADIUS_UM),
) -> None:
    """Embed the sections whose embedding is missing or out of date, all with one encoder.

    That is the one that one section was embedded with, else that of a model, else the default one.
    """
    items, used = as_list(data), spec
    reasons, stale, places = {}, [], []
    for sdata in items:
        for bound in read_sections(sdata, **where):
            place, section = bound.place, bound.section
            why = "there is none yet" if section.spots is None else out_of_date(place, section.spots, section.image)
            if why is not None:
                reasons[place.name] = why
                places.append(place)
                if not any(sdata is other for other in stale):
                    stale.append(sdata)
            record = None if place.table is None else embedding_record(place.table)
            if used is None and record is not None:
                used = spec_of(record)
    if not reasons:
        return
    told = "; ".join(f"{place_name}: {why}" for place_name, why in reasons.items())
    encoder: str | Encoder = "texture"
    if used is not None:
        try:
            encoder = encoders.get(used.encoder)
        except (KeyError, ValueError) as error:  # an object of the user's, which its name does not lead to
            raise ValueError(f"An embedding has to be made ({told}); run hd.pp.embed(sdata, encoder) first.") from error
    encoder = _encoder_for(encoder, places)
    logger.info("embedding (%s): running hd.pp.embed with encoder %r", told, encoder.spec.name)
    for sdata in stale:
        _embed(sdata, encoder, None if used is None else used.patch_um, where, run, inplace=True, lattice=lattice)


def ensure_lattice(sdata: SpatialData, where: Mapping[str, Any], lattice: tuple[float, float]) -> None:
    """Give a section that has only an image a lattice, (spacing, radius) in um, for methods that need no embedding."""
    if locate(sdata, **where)[0].table is not None or _keys.LATTICE_TABLE in sdata.tables:
        return
    (bound,) = read_sections(sdata, **where, needs=("image",))
    tissue = bound.section.tissue if bound.section.tissue is not None else _tissue(bound)
    points = _points(tissue, lattice[0], bound.place.name)
    if bound.section.tissue is None:
        write_tissue(bound.place, tissue_key(sdata, bound.place.image_key), tissue)
    write_lattice(bound.place, points, lattice[1])


def _points(tissue: MultiPolygon, spacing_um: float, name: str) -> np.ndarray:
    points = lattice_points(tissue, spacing_um)
    if not len(points):
        raise ValueError(f"No point of a lattice of {spacing_um:g} um lies inside the tissue of {name!r}.")
    return points


@dataclass(frozen=True)
class _Embedded:
    """What was computed for one section, before anything of it is written."""

    bound: Bound
    tissue: MultiPolygon
    locations: Locations
    values: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    precision: str
    fingerprint: str


def _embed(
    sdata: SpatialData,
    encoder: Encoder,
    patch_um: float | None,
    where: Mapping[str, Any],
    run: Mapping[str, Any],
    *,
    inplace: bool,
    lattice: tuple[float, float] = (LATTICE_SPACING_UM, LATTICE_RADIUS_UM),
) -> np.ndarray | None:
    own = encoder.spec
    side = own.patch_um if patch_um is None else patch_um
    spec = FeatureSpec(own.name, own.revision, own.dim, side / own.input_px, side)
    bounds = read_sections(sdata, **where, needs=("image",))
    done = [_embed_section(bound, encoder, spec, run, lattice) for bound in bounds]
    if not inplace:
        return np.concatenate([section.values for section in done])
    places = [section.bound.place for section in done]
    for section in done:
        if section.bound.section.tissue is None:
            write_tissue(section.bound.place, tissue_key(sdata, section.bound.place.image_key), section.tissue)
    if places[0].table is None:
        write_lattice(places[0], done[0].locations.xy_um, lattice[1])
        places = locate(sdata, **{**where, "table_key": _keys.LATTICE_TABLE})
    _write_embedding(places, spec, _licence(encoder), done)
    return None


def _embed_section(
    bound: Bound, encoder: Encoder, spec: FeatureSpec, run: Mapping[str, Any], lattice: tuple[float, float]
) -> _Embedded:
    section, place = bound.section, bound.place
    tissue = section.tissue if section.tissue is not None else _tissue(bound)
    known_by = fingerprint(section.image)
    locations = section.spots
    if locations is None:
        locations = Locations(_points(tissue, lattice[0], place.name), lattice[1])
    stored = None if place.table is None else stored_features(place, section.spots, section.image)
    if _suits(stored, spec, encoder) and out_of_date(place, locations, section.image) is None:
        values = stored.at(locations)
        if np.isfinite(values).all():  # rows added since are NaN
            logger.info(
                "%s: embedding of encoder %r, precision %s, is there already",
                place.name,
                spec.encoder,
                stored.precision,
            )
            return _Embedded(bound, tissue, locations, values, stored.mean, stored.std, stored.precision, known_by)
    values = embed_footprints(encoder, section.image, locations, patch_um=spec.patch_um, **run)
    mean, std = lattice_statistics(encoder, section.image, tissue, patch_um=spec.patch_um, **run)
    return _Embedded(bound, tissue, locations, values, mean, std, precision_of(encoder), known_by)


def _suits(stored: StoredFeatures | None, spec: FeatureSpec, encoder: Encoder) -> bool:
    """Whether a stored embedding is what would be computed, in any precision unless one is asked for."""
    if stored is None or stored.spec != spec:
        return False
    return settings.precision == "auto" or stored.precision == precision_of(encoder)


def _tissue(bound: Bound) -> MultiPolygon:
    """Return the outline of the tissue; where none is seen, measured spots are believed to stand on it."""
    section = bound.section
    try:
        return outline_of(section.image, bound.place.image_key)
    except ValueError:
        if section.spots is None:
            raise
    logger.warning("%s: no tissue was found in the image; the hull of the spots is taken for it", section.name)
    radius = float(np.median(section.spots.radius_um))
    return MultiPolygon([shapely.convex_hull(shapely.MultiPoint(section.spots.xy_um)).buffer(radius)])


def _licence(encoder: Encoder) -> dict[str, str]:
    """Return what a model's card will have to say of the encoder, in words that zarr can hold."""
    allowed = {True: "yes", False: "no", None: "unknown"}[encoder.spec.derivatives]
    return {"licence": encoder.spec.licence, "derivatives": allowed}


def _write_embedding(
    places: Sequence[Place], spec: FeatureSpec, licence: Mapping[str, str], done: Sequence[_Embedded]
) -> None:
    table = places[0].table
    record = embedding_record(table)
    if (
        record is None
        or _keys.EMBEDDING not in table.obsm
        or any(record[key] != value for key, value in spec.to_dict().items())
    ):
        # One table has one embedding: of another encoder nothing can stay.
        record = {**spec.to_dict(), **licence, "sections": {}}
        table.obsm[_keys.EMBEDDING] = np.full((table.n_obs, spec.dim), np.nan, dtype=np.float32)
    values = np.array(table.obsm[_keys.EMBEDDING], dtype=np.float32)
    at = np.array(table.obsm.get(_keys.EMBEDDED_AT, np.full((table.n_obs, 3), np.nan)))
    for place, section in zip(places, done):
        values[place.rows] = section.values
        at[place.rows] = np.column_stack([section.locations.xy_um, section.locations.radius_um])
        record["sections"][place.region] = {
            "image": place.image_key,
            "fingerprint": section.fingerprint,
            "bounds_um": np.asarray(section.bound.section.image.bounds_um),
            "mean": section.mean.astype(np.float32),
            "std": section.std.astype(np.float32),
            "precision": section.precision,
        }
        logger.info(
            "%s: wrote obsm[%r]: %d x %d, encoder %r, precision %s",
            place.name,
            _keys.EMBEDDING,
            len(place.rows),
            spec.dim,
            spec.encoder,
            section.precision,
        )
    found = {section["precision"] for section in record["sections"].values()}
    record["precision"] = found.pop() if len(found) == 1 else "mixed"
    table.obsm[_keys.EMBEDDING], table.obsm[_keys.EMBEDDED_AT] = values, at
    set_record(table, _keys.EMBEDDING_RECORD, None, record)
