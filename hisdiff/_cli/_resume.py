"""Whether the folder of a model holds what ``fit --resume`` would make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff.models import Model


def settings_of(method: str, config: str | Plain) -> Plain:
    """Return all settings of a method that a preset or a mapping of some comes to."""
    from hisdiff._training._config import config_from
    from hisdiff.methods._registry import get as method_named

    return config_from(method_named(method).config_type, config).to_dict()


def kept_model(folder: Path, method: str, config: str | Plain, seed: int) -> Model | None:
    """Return the model of a folder that a fit would make; one of another configuration is a ``ValueError``."""
    from hisdiff import models

    if not folder.exists():
        return None
    known = models.load(folder)
    asked = {"method": method, "seed": seed, **settings_of(method, config)}
    there = {"method": known.method, "seed": known.seed, **known.config}
    different = [
        f"{name} {there.get(name)!r}, asked for is {value!r}"
        for name, value in asked.items()
        if there.get(name) != value
    ]
    _refuse(folder, "another configuration", different)
    return known


def check_data(
    known: Model, folder: Path, sections: Sequence[SpatialData], patient_key: str | None, **where: Any
) -> None:
    """Raise where the model of a folder was not fitted on sections as they are, and on their patients.

    ``where`` are the fields of :class:`~hisdiff._sdata._selection.Selection`.
    """
    from hisdiff._sdata._read import open_sections
    from hisdiff._sdata._selection import Selection
    from hisdiff.tl._fit_job import other_data, patients_of

    bounds = open_sections(sections, Selection(**where), needs=("counts",))
    patients = None if patient_key is None else patients_of(bounds, patient_key)
    _refuse(folder, "other data", other_data(known, bounds, patients))


def _refuse(folder: Path, what: str, different: Sequence[str]) -> None:
    if different:
        raise ValueError(
            f"--resume: {folder} holds a model of {what} ({'; '.join(different[:3])}). Leave --resume out to replace it, or "
            "name another folder with --save."
        )
