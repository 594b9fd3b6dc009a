"""TESLA: a section's own counts refined between its spots, by nearness in the plane and likeness in colour.

Hu et al. (2023), Cell Systems 14, 404-417; written anew from its equations (docs/methods/tesla.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hisdiff.methods._base import BaseMethod
from hisdiff.methods.tesla._fit import fit_tesla
from hisdiff.methods.tesla._fitted import FittedTesla, TeslaField
from hisdiff.methods.tesla.config import TeslaConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun

__all__ = ["FittedTesla", "Tesla", "TeslaConfig", "TeslaField"]


class Tesla(BaseMethod):
    """TESLA: interpolation of a section's own counts."""

    name: ClassVar[str] = "tesla"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "image"})
    needs_to_predict: ClassVar[frozenset[str]] = needs
    config_type: ClassVar[type] = TeslaConfig
    fitted_type: ClassVar[type] = FittedTesla

    def fit_with(self, sections: Sequence[Section], config: TeslaConfig, run: FitRun) -> FittedTesla:
        """Fix options and panel, and measure how well left-out spots are filled in from the others."""
        return fit_tesla(sections, config, run)
