"""What a method is, and the one table in which methods are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from hisdiff._section import Locations, Prediction, Section
    from hisdiff._training._calibration import Calibration, Dispersion


class Config(Protocol):
    """Settings of a method: a frozen dataclass that JSON can hold."""

    @classmethod
    def preset(cls, name: str) -> Config:
        """Return the settings of a name."""

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Config:
        """Return the default settings with some changed; an unknown name is an error."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which ``from_dict`` makes the same settings."""


class Field(Protocol):
    """Expected expression anywhere in one section, once what concerns the section as a whole has been computed.

    Attributes
    ----------
    genes
        ``(G,)`` names.
    footprint_um2
        Area that the counts refer to, mostly that of a training spot.
    n_draws
        How many draws there are; 1 for methods that give one value only.
    fitted_to_section
        Whether the section's own counts are in it already, so that nothing is left to bring into agreement with them.
    dispersion
        Of counts around predictions; None where that is not known.
    """

    genes: np.ndarray
    footprint_um2: float
    n_draws: int
    fitted_to_section: bool
    dispersion: Dispersion | None

    def mean(self, bins: Locations) -> np.ndarray | None:
        """Return the expectation of the draws, float32 ``(n, G)``, or None where the mean of draws is all there is."""

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield one draw after the other, float32 ``(n, G)``.

        Expected counts of a footprint of ``footprint_um2`` filled with tissue like that of the bin, without the noise
        of counting; a bin's own count is that times its share of the area. A value depends on the bin and the
        section, not on which bins are asked for together. ``bins`` are of a grid (``Locations.bins``), at most a few
        blocks of it, close together. NaN where a method knows nothing.
        """


class Fitted(Protocol):
    """A fitted method. Holds arrays and plain settings only, so that it can be saved without pickling."""

    genes: np.ndarray
    calibration: Calibration | None
    history: list[dict[str, float]]
    """Training curve: rows with ``step`` and named values."""
    n_steps: int
    """Steps of the sampler where none are asked for; 0 for methods that have none."""

    def predict(
        self,
        section: Section,
        locations: Locations,
        *,
        n_draws: int,
        keep_draws: int = 0,
        n_steps: int | None = None,
        units: str = "log2",
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> Prediction:
        """Predict at locations of a section, in the order of ``genes``."""

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
    ) -> Field:
        """Prepare predictions finer than the spots; for methods that can, see ``hisdiff._prediction._field`` for a default."""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray) -> Fitted:
        """Rebuild what ``state`` described."""


class Method(Protocol):
    """A way to go from sections to predictions."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Which of ``counts``, ``image``, ``features``, ``lattice`` a training section must have."""
    needs_to_predict: ClassVar[frozenset[str]]
    """Which of them a section must have to be predicted."""
    config_type: ClassVar[type[Config]]
    fitted_type: ClassVar[type[Fitted]]

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
    ) -> Fitted:
        """Fit on sections that share one panel (``Section.with_panel``)."""


def method(name: str) -> Method:
    """Return the method of a name; its module is imported here, so that torch is loaded no earlier."""
    from importlib import import_module

    from hisdiff._check import one_of

    one_of(name, METHODS, "method")
    module, attribute = METHODS[name].split(":")
    return getattr(import_module(module), attribute)()


METHODS = {
    "hisdiff": "hisdiff.methods.hisdiff:HisDiff",
    "istar": "hisdiff.methods.istar:IStar",
    "ridge": "hisdiff.methods.ridge:Ridge",
    "stage": "hisdiff.methods.stage:Stage",
    "tesla": "hisdiff.methods.tesla:Tesla",
    "xfuse": "hisdiff.methods.xfuse:XFuse",
}
"""Method name -> ``module:class``."""
