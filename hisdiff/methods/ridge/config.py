"""Settings of the method `ridge`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from hisdiff._check import one_of, positive
from hisdiff._training._config import Config
from hisdiff._training._context import Scaling


@dataclass(frozen=True, slots=True)
class RidgeConfig(Config):
    """Settings of ridge regression; what has several values is chosen by cross-validation.

    The preset ``"baseline"`` stays as it is, so that comparisons with it can be compared over time.

    Attributes
    ----------
    scalings
        Embeddings as they are (``"raw"``), by the section's own mean and sd (``"standardized"``), or ``"both"``, in the
        order of preference: a later one has to be better by .005, which is less than chance makes of a few sections.
    n_components
        Numbers of principal components of the embedding.
    alphas
        Penalties, in units of the mean square length of a feature vector.
    n_blocks
        Blocks of tissue that a single training section is cut into.
    n_residuals
        Most residual vectors that are kept to draw from.
    spread
        ``"modelled"``: what sections differ by, factors and counting, as in the method ``hisdiff``, and adaptation to new
        sections. ``"residuals"``: draws are the regression plus a whole residual vector.
    """

    method_name: ClassVar[str] = "ridge"
    presets: ClassVar[tuple[str, ...]] = ("fast", "baseline")

    scalings: tuple[Scaling, ...] = ("both", "raw", "standardized")
    n_components: tuple[int, ...] = (32, 64, 128)
    alphas: tuple[float, ...] = tuple(float(f"{10**e:.3g}") for e in np.arange(-1.5, 2.51, 0.25))
    n_blocks: int = 5
    n_residuals: int = 4096
    spread: Literal["modelled", "residuals"] = "modelled"

    @classmethod
    def preset(cls, name: str) -> RidgeConfig:
        """Return the settings of a name: ``"fast"``, the default, or ``"baseline"``, which all comparisons are with.

        The baseline draws resampled residuals around the regression and chooses its penalty by cross-validation.
        """
        one_of(name, cls.presets, f"preset of method {cls.method_name!r}")
        return cls(spread="residuals" if name == "baseline" else "modelled")

    def __post_init__(self) -> None:
        for name in ("scalings", "n_components", "alphas"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, (str, int, float)) else tuple(value)
            if not value:
                raise ValueError(f"{name} of the ridge configuration is empty; there has to be a value to choose.")
            object.__setattr__(self, name, value)
        for scaling in self.scalings:
            one_of(scaling, get_args(Scaling), "scalings")
        one_of(self.spread, ("modelled", "residuals"), "spread")
        for count in self.n_components:
            positive(count, "n_components", integer=True)
        for alpha in self.alphas:
            positive(alpha, "alphas")
        positive(self.n_blocks, "n_blocks", integer=True)
        positive(self.n_residuals, "n_residuals", integer=True)
