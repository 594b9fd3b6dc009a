"""Where a prediction finer than the spots goes: the bins of a grid, or the shapes of an element."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from hisdiff import _keys
from hisdiff._check import one_of, positive
from hisdiff._geometry._grid import bins_within, outlines
from hisdiff._prediction._agreement import MODES
from hisdiff._sdata._at import read_locations
from hisdiff._sdata._fine import check_names_free, fine_table, write_fine
from hisdiff._sdata._grid import Window, labels_element
from hisdiff._sdata._image import fingerprint
from hisdiff._sdata._store import check_room, working_folder
from hisdiff._section import Locations
from hisdiff.pp._tissue import outline_of
from hisdiff.tl._fine import fine_predictor, outputs_of, predict_bins, predict_locations, resolution_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

    from hisdiff._sdata._read import Bound
    from hisdiff._section import Section
    from hisdiff.models._model import Model


@dataclass(frozen=True)
class Target:
    """What ``hd.tl.predict`` was asked for beside the spots.

    Attributes
    ----------
    resolution_um
        Side of bins, or None.
    at
        Element, or None.
    calibrate
        One of ``MODES``.
    """

    resolution_um: float | None
    at: str | None
    calibrate: str

    @classmethod
    def of(cls, resolution_um: float | None, at: str | None, calibrate: str | None) -> Target | None:
        """Check the arguments; None where neither a resolution nor an element is asked for."""
        if resolution_um is None and at is None:
            if calibrate is not None:
                raise ValueError(
                    "calibrate= is for predictions with resolution_um= or at=; spots have counts of their own."
                )
            return None
        if resolution_um is not None and at is not None:
            raise ValueError(f"Either resolution_um={resolution_um:g} or at={at!r} tells where to predict, not both.")
        if resolution_um is not None:
            positive(resolution_um, "resolution_um")
        return cls(resolution_um, at, one_of(calibrate or MODES[0], MODES, "calibrate"))

    def names(self, bound: Bound, stem: str, *, several: bool) -> tuple[str, str]:
        """Return the names of the table and of the element that it annotates."""
        suffix = f"_{bound.place.name}" if several else ""
        if self.at is not None:
            return f"{stem}_{self.at}{suffix}", self.at
        table = f"{stem}_{self.resolution_um:g}um"
        return table + suffix, f"{table}_bins{suffix}"

    def check(self, bound: Bound, stem: str, *, several: bool) -> None:
        """Raise, before any work, for what cannot be done."""
        place, image = bound.place, bound.section.image
        table_key, region = self.names(bound, stem, several=several)
        check_names_free(place.sdata, table_key, None if self.at is not None else region)
        if self.at is not None:
            names = pd.Index(read_locations(place, self.at)[1])
            if not names.is_unique or not (names.dtype.kind in "iu" or pd.api.types.is_string_dtype(names)):
                raise ValueError(
                    f"The index of element {self.at!r} names the rows of a table, so it has to be unique and of integers or strings."
                )
            return
        assert image is not None
        assert self.resolution_um is not None
        if place.table is not None and not place.table.obs_names.is_unique:
            raise ValueError(
                f"Table {place.table_key!r} has names of observations more than once, and bins are told which spot they lie in; "
                f"make them unique with adata.obs_names_make_unique()."
            )
        if self.resolution_um < image.mpp:
            raise ValueError(
                f"resolution_um={self.resolution_um:g} is finer than a pixel of image {place.image_key!r} ({image.mpp:.3g} um)."
            )
        x0, y0, x1, y1 = image.bounds_um
        if self.resolution_um > min(x1 - x0, y1 - y0):
            raise ValueError(
                f"resolution_um={self.resolution_um:g} is larger than image {place.image_key!r} ({x1 - x0:.0f} x {y1 - y0:.0f} um)."
            )

    def predict(
        self,
        bound: Bound,
        model: Model,
        stem: str,
        options: Mapping[str, Any],
        run: Mapping[str, Any],
        record: dict[str, Any],
        *,
        several: bool,
        inplace: bool,
    ) -> AnnData | None:
        """Predict one section, and write a table of its own or return it."""
        streamed = inplace and self.at is None
        key, _ = self.names(bound, stem, several=several)
        with working_folder(bound.place.sdata, key) if streamed else nullcontext() as folder:
            return self._predict(
                bound, model, stem, options, run, record, several=several, inplace=inplace, folder=folder
            )

    def _predict(
        self,
        bound: Bound,
        model: Model,
        stem: str,
        options: Mapping[str, Any],
        run: Mapping[str, Any],
        record: dict[str, Any],
        *,
        several: bool,
        inplace: bool,
        folder: Path | None,
    ) -> AnnData | None:
        place, section = bound.place, _with_tissue(bound)
        table_key, region = self.names(bound, stem, several=several)
        assert section.image is not None
        if self.at is not None:
            where, instances = read_locations(place, self.at)
            resolution = resolution_for(where, section.image.mpp)
        else:
            assert self.resolution_um is not None
            resolution = self.resolution_um
            ij = bins_within(_area(section), resolution)
            if not len(ij):
                raise ValueError(f"No bin of {resolution:g} um has its centre in the tissue of {place.name!r}.")
            where, instances = Locations.bins(ij, resolution), np.arange(1, len(ij) + 1)
            if inplace:
                outputs = outputs_of(len(ij), len(model.genes), options["keep_draws"])
                what = f"A table of {len(ij)} bins of {resolution:g} um and {len(model.genes)} genes"
                check_room(place.sdata, sum(output.nbytes for output in outputs.values()), what)
        field = model.fitted.field(
            section,
            n_draws=options["n_draws"],
            n_steps=options["n_steps"],
            library_size=options["library_size"],
            seed=options["seed"],
            **run,
        )
        predictor = fine_predictor(
            section,
            field,
            resolution,
            calibrate=self.calibrate,
            units=options["units"],
            keep_draws=min(options["keep_draws"], field.n_draws),  # an ensemble has as many draws as members
            seed=options["seed"],
        )
        used = predictor.agreement is not None
        record |= {
            "calibration": self.calibrate if used else "none",
            "resolution_um": resolution,
            "n_draws": field.n_draws,
            "uses_section_counts": record["uses_section_counts"] or used or field.fitted_to_section,
        }
        if self.at is not None:
            prediction = predict_locations(predictor, where, show=run["progress"])
        else:
            plan = {**record, "units": predictor.units, "bins": _digest(where.array_ij), **_inputs_of(section)}
            prediction = predict_bins(predictor, where, folder, plan, show=run["progress"])
        spots = section.spots if section.counts is not None else None
        table = fine_table(place, region, instances, where, prediction, record, stem, spots)
        if model.calibration is not None:
            table.var[_keys.cv_pcc(stem)] = np.asarray(model.calibration.cv_pcc, dtype=float)
        if not inplace:
            return table
        labels = None
        if self.at is None:
            labels = labels_element(place, Window.around(where.array_ij, resolution), where.array_ij)
        write_fine(place, table_key, region, table, labels)
        return None


def _with_tissue(bound: Bound) -> Section:
    """Return the section with an outline, found in the image where none is stored."""
    section = bound.section
    if section.tissue is not None:
        return section
    return replace(section, tissue=outline_of(section.image, bound.place.image_key))


def _area(section: Section) -> Any:
    """Return the tissue with the footprints of measured spots, so that every one of them has its bins."""
    if section.counts is None or section.spots is None:
        return section.tissue
    return shapely.union_all([section.tissue, *outlines(section.spots)])


def _inputs_of(section: Section) -> dict[str, str]:
    """Return what tells whether an unfinished run was of the same image, outline and counts."""
    assert section.image is not None
    told = {"image": fingerprint(section.image), "tissue": shapely.to_wkb(section.tissue, hex=True)}
    if section.counts is not None:
        counts = section.counts.tocsr()
        told["counts"] = _digest(counts.indptr, counts.indices, counts.data, np.asarray(section.genes, dtype="S"))
    if section.spots is not None:
        told["spots"] = _digest(section.spots.xy_um, section.spots.radius_um)
        if section.features is not None:
            told["embedding"] = _digest(section.features.at(section.spots), section.features.mean, section.features.std)
    return told


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
