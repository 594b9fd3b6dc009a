"""Adapt a model to a new section with some measured spots, and suggest which spots to measure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, positive, present
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._provenance import set_record
from hisdiff._sdata._selection import Selection
from hisdiff._section import needed
from hisdiff.tl._conditions import check_single, model_for, opened_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff._prediction._cohort_model import CohortModel
    from hisdiff._sdata._bound import Bound
    from hisdiff._section import Section
    from hisdiff.models._model import Model

_ONE_PLACE_UM = 1e-3
_OTHER_DEPTH = 1.5
"""Times the library size, from which on spots of two sections are better not taken as those of one."""
RECORDS = "suggestions"
"""In ``uns["hisdiff"]``: which columns of suggested spots were written here."""


@documented
@checked
def adapt(
    model: Model | str | Path,
    data: SpatialData,
    *,
    spots: str | Sequence[bool | str] | np.ndarray | pd.Series | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    device: str | None = None,
    progress: bool | None = None,
) -> Model:
    """Adapt a model to a new section by its measured spots, however few.

    The library size of the section, the level of each gene, and the deviation of its relation between image and
    expression from that of the cohort are estimated from the spots, each shrunk according to their number. All
    predictions of the returned model are conditional on these spots: on the rest of the section, on neighboring sections,
    and finer than the spots. Counts of other spots are not used.

    Parameters
    ----------
    model
        A fitted model (methods ``hisdiff`` and ``ridge``), or the path of a saved one. An adapted model keeps its
        earlier spots; a spot that is given twice counts once. All spots count as one section, with one library size: for another
        patient, adapt the model that was fitted.
    data
        The section.
    spots
        The measured spots: a boolean mask over the rows of the table (of a Series that names all spots in its index, in any order), the
        name of a boolean column of ``obs``, or a list
        of names in ``obs_names`` (such as those that :func:`suggest_spots` returns); a spot without counts that is named there was
        measured and found empty. None for all spots with counts.
    %(place)s
    %(counts_layer)s
    %(mpp)s
    %(device)s
    %(progress)s

    Returns
    -------
    A model, which can be saved, shared, used and adapted again. Nothing is written to ``data`` except a missing embedding.

    Raises
    ------
    KeyError
        If there is no such column of ``obs``, or no spot of a name.
    ValueError
        If the method cannot be adapted, no spot with counts is given, all of them lie at one place, fewer than half of the
        model's genes are in the table, or the embedding is of another encoder or not finite.

    Examples
    --------
    >>> import hisdiff as hd
    >>> cohort, new = hd.datasets.toy(n_sections=2, size_um=600), hd.datasets.toy(seed=5, size_um=600)
    >>> model = hd.tl.fit(cohort, method="ridge")
    >>> adapted = hd.tl.adapt(model, new, spots=new.tables["table"].obs["array_row"] < 2)
    >>> hd.tl.predict(new, adapted)
    """
    model = model_for(data, model)
    _adaptable(model)
    runtime = Runtime.of(device=device, progress=progress, rng=0)
    selection = Selection(table_key, image_key, shapes_key, layer, mpp)
    bound = _only(data, model, selection, runtime, spots)
    section = bound.section
    rows = _given(bound, spots)
    if model.cohort.contains(needed(section.counts)[rows], section.genes):
        logger.warning("%s: the given spots are the model's own training spots and add little", section.name)
    _warn_of_another_depth(model, section, rows)
    fitted: Any = model.fitted  # of a method with a cohort model, see `_adaptable`
    conditional = fitted.adapted(section, rows)
    adapted, known = model.with_fitted(conditional), conditional.cohort_model
    logger.info(
        "adapted model %s to %s with %d spot(s): library size %.0f, levels vary %.1f times as much as in the cohort",
        adapted.id, section.name, len(rows), known.given_library_size, known.posterior.level.factor**0.5,
    )  # fmt: skip
    return adapted


@documented
@checked
def suggest_spots(
    sdata: SpatialData,
    model: Model | str | Path | None,
    n: int,
    *,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    key_added: str = _keys.SUGGESTED,
    inplace: bool = True,
    device: str | None = None,
    progress: bool | None = None,
) -> list[str] | None:
    """Suggest which spots of a section to measure, so that a model adapted to them has the smallest predictive variance.

    Spots are selected greedily: each minimises the predictive variance over all spots of the section. Counts
    are not used; spots that the model was adapted to count as measured.

    Parameters
    ----------
    sdata
        A section with an image. The candidates are its spots, or the lattice of a section without any.
    %(model)s
    n
        Number of spots to suggest.
    %(place)s
    %(mpp)s
    key_added
        Name of the column of ``obs``.
    %(inplace)s
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets ``obs["hisdiff_suggested"]``: 1 for the first spot to measure, 2 for the second, ..., 0 for the others. Or
    the names of the spots, in this order.

    Raises
    ------
    ValueError
        If the method cannot be adapted, or ``n`` is more than there are spots.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> model = hd.tl.fit(sdata, method="ridge")
    >>> len(hd.tl.suggest_spots(sdata, model, 3, inplace=False))
    3
    """
    n = positive(n, "n", integer=True)
    model = model_for(sdata, model)
    _adaptable(model)
    runtime = Runtime.of(device=device, progress=progress, rng=0)
    bound = _only(sdata, model, Selection(table_key, image_key, shapes_key, None, mpp), runtime, None, counts=False)
    section = bound.section
    spots = needed(section.spots)
    if n > len(spots):
        raise ValueError(f"n={n} spots are asked for, and {section.name!r} has {len(spots)}.")
    chosen = _adaptable(model).suggested(section, n)
    table, names = bound.table, bound.table.obs_names[bound.place.rows]
    if not inplace:
        return [str(name) for name in names[chosen]]
    order = np.zeros(table.n_obs, dtype=np.int64)
    order[bound.place.rows[chosen]] = np.arange(1, n + 1)
    if key_added in table.obs and key_added not in table.uns.get(_keys.STEM, {}).get(RECORDS, {}):
        raise ValueError(f"obs[{key_added!r}] was not written by hisdiff; choose another name with key_added=.")
    table.obs[key_added] = order
    set_record(table, RECORDS, key_added, {"model": model.id, "n": n})
    logger.info("wrote obs[%r]: %d spots to measure", key_added, n)
    return None


def _adaptable(model: Model) -> CohortModel:
    """Return what of a model can be adapted; an error where there is nothing."""
    found = getattr(model.fitted, "cohort_model", None)
    if found is None:
        raise ValueError(
            f"Model {model.id} ({model.method!r}, {_setting(model)}) cannot be adapted to a section; "
            f"'hisdiff' with its preset 'fast' and 'ridge' can."
        )
    return found


def _warn_of_another_depth(model: Model, section: Section, rows: np.ndarray) -> None:
    """Warn where spots of one section are added to those of another that was sequenced to another depth: both are taken as one."""
    known = _adaptable(model)
    if known.given is None or model.given_in(section).any():
        return
    alone = replace(known, given=None).adapted(section, rows, model.genes).given_library_size
    sizes = needed(known.given_library_size), needed(alone)
    if max(sizes) > _OTHER_DEPTH * min(sizes):
        logger.warning(
            "the spots of %s say a library size of %.0f, those that the model was given before %.0f; an adapted model has one for all. "
            "For another section of its own, adapt the model that was fitted.",
            section.name, sizes[1], sizes[0],
        )  # fmt: skip


def _setting(model: Model) -> str:
    settings = {name: model.config[name] for name in ("denoiser", "spread") if name in model.config}
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "its settings"


def _only(
    data: SpatialData, model: Model, selection: Selection, runtime: Runtime, spots: Any, *, counts: bool = True
) -> Bound:
    """Return the only section of an object, with its embedding, and its counts where they are wanted."""
    if isinstance(data, (list, tuple)):
        raise TypeError("One section at a time is adapted to, not a list; adapt the result again for another.")

    def check(bounds: list[Bound]) -> None:
        check_single(bounds)
        if counts:
            _given(bounds[0], spots)

    return opened_for(data, model, selection, runtime, check=check, counts=counts)[0]


def _given(bound: Bound, spots: Any) -> np.ndarray:
    """Return which spots of a section are given, as rows of the section."""
    table, name = bound.table, bound.place.name
    if isinstance(spots, str):
        values = table.obs[present(spots, list(table.obs), "column of obs")]
        mask = _mask(values, table.n_obs, f"obs[{spots!r}] of {name!r}")
    elif spots is None:
        mask = np.ones(table.n_obs, dtype=bool)
    elif not len(spots):
        mask = np.zeros(table.n_obs, dtype=bool)
    elif isinstance(next(iter(spots)), str):
        for spot in spots:
            present(spot, table.obs_names, f"spot of {name!r} called")
        mask = table.obs_names.isin(list(spots))
    else:
        mask = _mask(_in_order(spots, table.obs_names), table.n_obs, "spots")
    counts = bound.section.counts
    rows = np.flatnonzero(mask[bound.place.rows])
    counted = np.ones(len(rows), dtype=bool) if counts is None else np.asarray(counts[rows].sum(axis=1)).ravel() > 0
    if spots is None:
        rows = rows[counted]
    if not counted.any():
        asked = int(mask.sum())
        why = (
            ", all of them of other sections"
            if asked and not len(rows)
            else ", none of them with counts of the model's genes"
        )
        raise ValueError(f"No spot of {name!r} is given: {asked} of {table.n_obs} are named{why if asked else ''}.")
    where = needed(bound.section.spots).xy_um[rows]
    if len(rows) > 1 and np.ptp(where, axis=0).max() < _ONE_PLACE_UM:
        raise ValueError(
            f"All {len(rows)} spots that are given of {name!r} lie at one place, ({where[0, 0]:.1f}, {where[0, 1]:.1f}) um."
        )
    return rows


def _in_order(spots: Any, names: pd.Index) -> Any:
    """Return a mask in the order of the table: where the index of a Series names spots, it says which spot each value is of."""
    if not isinstance(spots, pd.Series) or not spots.index.isin(names).any():
        return spots
    missing = names[~names.isin(spots.index)]
    if len(missing) or not spots.index.is_unique or len(spots) > len(names):
        raise ValueError(
            f"The index of spots= names spots of the table, but not each of the {len(names)} once: it has {len(spots)} values, and none for "
            f"{listing(missing, 4)}. Give the names of the measured spots instead, or one value for each spot."
        )
    return spots.loc[names]


def _mask(given: Any, n: int, what: str) -> np.ndarray:
    values = np.asarray(given)
    if values.shape != (n,):
        raise ValueError(
            f"{what} has shape {values.shape}; a mask has one value for each of the {n} rows of the table."
        )
    if values.dtype == bool:
        return values
    if values.dtype.kind in "iuf" and np.isin(values, (0, 1)).all():
        return values.astype(bool)
    if values.dtype == object and all(isinstance(value, (bool, np.bool_)) for value in values):
        return values.astype(bool)
    missing = pd.isna(values)
    lacks = f" and is missing at {int(missing.sum())} of {n} spots" if missing.any() else ""
    raise TypeError(
        f"{what} has to be boolean, True where a spot is given; it has values such as {listing(pd.unique(values[~missing]), 4)}{lacks}."
    )
