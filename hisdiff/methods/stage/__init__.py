"""STAGE: expression as a smooth function of place, learned by an autoencoder whose hidden layer is the coordinates.

Li et al. (2024), Nucleic Acids Research; written anew from its equations (docs/methods/stage.md). No image is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hisdiff.methods._base import BaseMethod
from hisdiff.methods.stage._fit import fit_stage
from hisdiff.methods.stage._fitted import FittedStage, StageField
from hisdiff.methods.stage.config import StageConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun

__all__ = ["FittedStage", "Stage", "StageConfig", "StageField"]


class Stage(BaseMethod):
    """STAGE on one section, or on a stack of aligned ones."""

    name: ClassVar[str] = "stage"
    needs: ClassVar[frozenset[str]] = frozenset({"counts"})
    needs_to_predict: ClassVar[frozenset[str]] = needs
    config_type: ClassVar[type] = StageConfig
    fitted_type: ClassVar[type] = FittedStage

    def fit_with(self, sections: Sequence[Section], config: StageConfig, run: FitRun) -> FittedStage:
        """Fit on sections; validation sections are an error, since other sections have other coordinates."""
        return fit_stage(sections, config, run)
