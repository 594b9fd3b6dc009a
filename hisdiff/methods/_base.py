"""What methods inherit: arguments are checked and made into a record here, once, and a method gets the record."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hisdiff._check import one_of, positive, seed_of
from hisdiff._cores import own_cores
from hisdiff._keys import COUNTS, LOG2
from hisdiff._prediction._field import PatchField
from hisdiff._prediction._point import point_prediction
from hisdiff._stats._dense import dense_on
from hisdiff._training._calibration import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from hisdiff._json import Plain, State
    from hisdiff._prediction._point import PointField
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff.methods._protocols import Field, Fitted


@dataclass(frozen=True)
class FitRun:
    """How a fit runs.

    Attributes
    ----------
    validation
        Sections that are not fitted on; they decide when to stop, and the expected accuracy is measured on them.
    seed
        Seed of all that is random.
    device
        Name of a device; None for the package's setting.
    progress
        Whether a progress bar is shown; None for the package's setting.
    checkpoint
        Folder for checkpoints, or None.
    resume
        Whether to continue from the checkpoint.
    """

    validation: Sequence[Section] = ()
    seed: int = 0
    device: str | None = None
    progress: bool | None = None
    checkpoint: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class PredictRun:
    """What a prediction is to be and how it runs; checked when it is made.

    Attributes
    ----------
    n_draws
        Number of draws; the prediction is their mean.
    keep_draws
        Number of draws to return.
    n_steps
        Number of sampling steps; None for the default of the method.
    units
        ``"log2"`` for log2(1 + count), or ``"counts"`` for expected counts.
    library_size
        Library size to predict at, in counts; None for that of the section.
    seed
        Seed of all that is random.
    device
        Name of a device; None for the package's setting.
    progress
        Whether a progress bar is shown; None for the package's setting.
    """

    n_draws: int
    keep_draws: int = 0
    n_steps: int | None = None
    units: str = LOG2
    library_size: float | None = None
    seed: int = 0
    device: str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_draws", positive(self.n_draws, "n_draws", integer=True))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if self.n_steps is not None:
            object.__setattr__(self, "n_steps", positive(self.n_steps, "n_steps", integer=True))
        one_of(self.units, (LOG2, COUNTS), "units")

    @property
    def at_bins(self) -> Mapping[str, Any]:
        """Keyword arguments of ``predict`` with which the bins of a field are predicted, block by block."""
        names = ("n_steps", "library_size", "seed", "device")
        return {name: getattr(self, name) for name in names} | {"progress": False}


class BaseMethod:
    """Base of methods: a subclass names itself and its needs, and implements ``fit_with``.

    Its class attributes are those of :class:`~hisdiff.methods.Method`.

    Examples
    --------
    >>> import hisdiff as hd
    >>> isinstance(hd.methods.get("ridge"), hd.methods.BaseMethod)
    True
    """

    def fit(
        self,
        sections: Sequence[Section],
        config: Any,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> Any:
        """Fit on sections that share one panel; the arguments are those of :class:`FitRun`."""
        run = FitRun(validation, seed, device, progress, checkpoint, resume)
        with own_cores(), dense_on(device):
            return self.fit_with(sections, config, run)

    def fit_with(self, sections: Sequence[Section], config: Any, run: FitRun) -> Any:
        """Return the fitted method."""
        raise NotImplementedError(f"{type(self).__name__} implements fit_with(sections, config, run).")


@dataclass(frozen=True, eq=False)
class BaseFitted:
    """Base of fitted methods, a frozen dataclass: a subclass adds its fields and implements ``predict_with``.

    The default ``field_with`` predicts every bin like a spot around it; it needs the attribute ``radius_um``, the radius
    of a training spot. The default ``state`` saves the fields: arrays as arrays, all others as JSON.

    Attributes
    ----------
    genes
        ``(G,)`` names of the panel.
    calibration
        Accuracy and interval factors on left-out tissue; None where they are not known.
    history
        Training curve: rows with ``step`` and named values.
    """

    _OF_ALL: ClassVar[frozenset[str]] = frozenset({"genes", "calibration", "history"})

    genes: np.ndarray
    calibration: Calibration | None = field(default=None, kw_only=True)
    history: list[dict[str, float]] = field(default_factory=list, kw_only=True)

    @property
    def n_steps(self) -> int:
        """Default number of sampling steps; 0 for methods without steps."""
        return 0

    def predict(
        self,
        section: Section,
        locations: Locations,
        *,
        n_draws: int,
        keep_draws: int = 0,
        n_steps: int | None = None,
        units: str = LOG2,
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> Prediction:
        """Predict at locations of a section, in the order of ``genes``; the arguments are those of :class:`PredictRun`."""
        run = PredictRun(n_draws, keep_draws, n_steps, units, library_size, seed, device, progress)
        with own_cores(), dense_on(device):
            return self.predict_with(section, locations, run)

    def field(
        self,
        section: Section,
        *,
        n_draws: int,
        n_steps: int | None = None,
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Prepare predictions anywhere in a section; see :class:`~hisdiff.methods.Field`."""
        run = PredictRun(n_draws, 0, n_steps, COUNTS, library_size, seed, device, progress)
        return self.field_with(section, run)

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return the prediction at locations."""
        raise NotImplementedError(f"{type(self).__name__} implements predict_with(section, locations, run).")

    def field_with(self, section: Section, run: PredictRun) -> Field:
        """Return predictions anywhere in a section."""
        radius_um: float = self.radius_um  # type: ignore[attr-defined]
        return PatchField(self, section, np.pi * radius_um**2, run.n_draws, run.at_bins)

    def calibrated(self, run: FitRun, *, n_draws: int) -> Self:
        """Return the same with its accuracy on validation sections; itself where there are none."""
        if not run.validation:
            return self
        found = Calibration.from_sections(self, run.validation, n_draws=n_draws, seed=run.seed, device=run.device)
        return replace(self, calibration=found)

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        own = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in self._OF_ALL}
        arrays = {name: value for name, value in own.items() if isinstance(value, np.ndarray)}
        return arrays, {name: value for name, value in own.items() if name not in arrays}

    @classmethod
    def from_state(
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        genes: np.ndarray,
        *,
        calibration: Calibration | None = None,
        history: Sequence[dict[str, float]] = (),
    ) -> Fitted:
        """Rebuild what ``state`` described."""
        return replace(cls.from_parts(arrays, settings, genes), calibration=calibration, history=list(history))

    @classmethod
    def from_parts(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray) -> BaseFitted:
        """Rebuild what ``state`` described, without calibration and history."""
        parts: Plain = {**arrays, **settings}
        return cls(genes, **parts)


class PointFitted(BaseFitted):
    """Base of fitted methods with one value for a place, without draws: a subclass implements ``field_with``.

    No draws are kept and the spread is NaN.
    """

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return the value of the field at locations, with what it says of each in ``obs``."""
        counts, obs = self.field_with(section, run).at(locations)
        return point_prediction(counts, self.genes, run.units, obs)

    def field_with(self, section: Section, run: PredictRun) -> PointField:
        """Return the values anywhere in a section."""
        raise NotImplementedError(f"{type(self).__name__} implements field_with(section, run).")
