"""Whether sections are like the cohort of a model: for the record of a prediction, and one warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff._keys import ALIKE, UNLIKE
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._json import Plain
    from hisdiff._sdata._bound import Bound
    from hisdiff.models._model import Model


def transfer_of(bounds: Sequence[Bound], model: Model) -> Plain:
    """Return whether sections are like the cohort, and their distance from it, for the record; by region where there are several."""
    distances = {bound.place.name: model.transfer_distance(bound.section) for bound in bounds}
    known = {name: float(distance) for name, distance in distances.items() if distance is not None}
    if not known:
        return {}
    names = {name: ALIKE if distance <= 1 else UNLIKE for name, distance in known.items()}
    if len(bounds) == 1:
        return {"transfer": next(iter(names.values())), "transfer_distance": next(iter(known.values()))}
    return {"transfer": names, "transfer_distance": known}


def warn_unlike(bounds: Sequence[Bound], model: Model) -> None:
    """Warn once about sections that are unlike the cohort, and name what can be done."""
    distances = {bound.place.name: model.transfer_distance(bound.section) for bound in bounds}
    unlike = {name: distance for name, distance in distances.items() if distance is not None and distance > 1}
    if unlike and not model.n_adapted:
        named = ", ".join(f"{name} ({distance:.1f})" for name, distance in unlike.items())
        logger.warning(
            "unlike the training tissue: %s, where 1 is the limit; the model's expected accuracy does not hold there. A few "
            "measured spots help (hd.tl.adapt), or more patients in the cohort.",
            named,
        )
