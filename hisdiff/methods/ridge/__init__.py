"""Ridge regression on own and surrounding embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hisdiff.methods._base import BaseMethod
from hisdiff.methods.ridge._fit import fit_ridge
from hisdiff.methods.ridge._fitted import FittedRidge
from hisdiff.methods.ridge.config import RidgeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.ridge._baseline import BaselineRidge

__all__ = ["FittedRidge", "Ridge", "RidgeConfig"]


class Ridge(BaseMethod):
    """PCA and ridge on own and surrounding embeddings, and what a section may differ by from that.

    Scaling, number of components and penalty are those with the best mean correlation over genes on left-out tissue:
    whole sections, one at a time, or contiguous blocks of a single section. Correlation, since the squared error on a
    left-out section is mostly its offset in library size and stain, which no penalty removes.
    Spread and draws come from out-of-fold residuals, so that they are those of new tissue: level, relation to the image,
    factors and counting are modelled; with ``spread="residuals"`` a draw is the regression plus a whole residual vector.
    """

    name: ClassVar[str] = "ridge"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "features"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image", "features"})
    config_type: ClassVar[type] = RidgeConfig
    fitted_type: ClassVar[type] = FittedRidge

    def fit_with(self, sections: Sequence[Section], config: RidgeConfig, run: FitRun) -> FittedRidge | BaselineRidge:
        """Fit on sections; validation sections, where given, choose among the settings instead of the left-out folds.

        The fit takes seconds on the CPU, so the device, progress and checkpoints of ``run`` are not used.
        """
        return fit_ridge(sections, config, run)
