"""What a method is: protocols that the methods of this package meet, and that a user's own can meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from hisdiff._json import State
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff._training._calibration import Calibration, Dispersion
    from hisdiff._training._config import Config


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

    Notes
    -----
    Tiles are predicted one after another, unless the field says ``reentrant = True``: several threads may then ask it at once.
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
        section, not on which bins are requested together. ``bins`` are of a grid (``Locations.bins``), at most a few
        blocks of it, close together. NaN where a method makes no prediction.
        """


class Fitted(Protocol):
    """A fitted method. Holds arrays and plain settings only, so that it can be saved without pickling."""

    @property
    def genes(self) -> np.ndarray:
        """``(G,)`` names of the panel."""

    @property
    def calibration(self) -> Calibration | None:
        """Accuracy and interval factors on left-out tissue; None where they are not known."""

    @property
    def history(self) -> list[dict[str, float]]:
        """Training curve: rows with ``step`` and named values."""

    @property
    def n_steps(self) -> int:
        """Default number of sampling steps; 0 for methods without steps."""

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

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""

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


@runtime_checkable
class Method(Protocol):
    """A way to go from sections to predictions.

    Attributes
    ----------
    name
        Name in ``hd.tl.fit(method=)``, and stem of its results.
    needs
        Which of ``"counts"``, ``"image"``, ``"features"`` and ``"lattice"`` a training section must have; checked before
        ``fit`` is called.
    needs_to_predict
        Which of them a section must have to be predicted.
    config_type
        Class of its settings, or one for each of several models.
    fitted_type
        Class of what ``fit`` returns.

    Examples
    --------
    >>> import hisdiff as hd
    >>> isinstance(hd.methods.get("ridge"), hd.methods.Method)
    True
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    needs_to_predict: ClassVar[frozenset[str]]
    config_type: ClassVar[type[Config] | tuple[type[Config], ...]]
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
