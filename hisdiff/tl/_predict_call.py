"""A call of ``hd.tl.predict``: its arguments, checked once, and the jobs that they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hisdiff import encoders
from hisdiff._runtime import Runtime
from hisdiff._sdata._provenance import checked_name
from hisdiff._sdata._selection import DEFAULTS, Selection
from hisdiff.tl._options import PredictOptions
from hisdiff.tl._predict_job import PredictJob
from hisdiff.tl._target import target_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model
    from hisdiff.tl._target import Target


@dataclass(frozen=True)
class PredictCall:
    """Arguments of ``hd.tl.predict``, where they are explained; what is wrong with them is said before anything is read."""

    resolution_um: float | None = None
    at: str | None = None
    n_draws: int | None = None
    n_steps: int | None = None
    keep_draws: int | None = None
    units: str | None = None
    calibrate: str | None = None
    library_size: float | None = None
    table: str | None = None
    encoder: str | Encoder | Sequence[str | Encoder] | None = None
    selection: Selection = DEFAULTS
    key_added: str | None = None
    rng: int | np.random.Generator = 0
    device: str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        self._options(self.n_draws)
        checked_name(self.key_added, "")

    @property
    def target(self) -> Target | None:
        """Where is predicted, other than at spots."""
        return target_of(self.resolution_um, self.at)

    def jobs(self, models: Sequence[Model]) -> list[PredictJob]:
        """Return a job for each model, one for each object."""
        runtime = Runtime.of(device=self.device, progress=self.progress, rng=self.rng)
        offered = None if self.encoder is None else encoders.get(self.encoder)
        return [self._job(model, runtime, offered) for model in models]

    def _job(self, model: Model, runtime: Runtime, encoder: Encoder | None) -> PredictJob:
        usual = getattr(model.fitted, "usual_draws", None)
        options = self._options(usual if self.n_draws is None else self.n_draws)
        stem = checked_name(self.key_added, model.method)
        return PredictJob(model, stem, options, self.selection.layer, runtime, encoder, self.target)

    def _options(self, n_draws: int | None) -> PredictOptions:
        return PredictOptions.of(
            finer=self.target is not None,
            n_draws=n_draws,
            n_steps=self.n_steps,
            keep_draws=self.keep_draws,
            units=self.units,
            library_size=self.library_size,
            calibrate=self.calibrate,
            table=self.table,
        )
