"""The method `hisdiff`: a conditional generative model of the whole gene vector given morphology."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hisdiff.methods._base import BaseMethod
from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.factor._fit import fit_factor_model
from hisdiff.methods.hisdiff.factor.config import FactorConfig
from hisdiff.methods.hisdiff.gene._fit import fit_gene_model
from hisdiff.methods.hisdiff.gene.config import GeneConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun

__all__ = ["FactorConfig", "FittedHisDiff", "GeneConfig", "HisDiff"]


class HisDiff(BaseMethod):
    r"""Learn p(expression | morphology) and draw from it.

    With the factor model (preset ``"fast"``) a draw is made of three parts:

    1. the conditional mean, by kernel ridge regression on principal components of a spot's own embedding and of the means
       over 9 and 49 anchors; closed form, chosen and cross-fitted on left-out tissue,
    2. scores of the common factors of what the mean leaves, from a flow (flow matching, residual MLP with adaptive norm)
       that sees the predicted mean; it starts at the Gaussian factor model and is kept as far as it improves the energy
       score of left-out tissue, which on a few hundred spots may be not at all,
    3. counts, Poisson around the rates. Another library size scales the rates, so that the noise of shallow counts needs no
       learning.

    Regression first and a generative model for what it leaves is the plan of CorrDiff (Mardani et al., 2025). With preset
    ``"dit"`` the published network makes the scores in place of the flow, given the embeddings too; with ``"paper"`` it
    diffuses the whole gene vector.
    """

    name: ClassVar[str] = "hisdiff"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "features"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image", "features"})
    config_type: ClassVar[tuple[type, ...]] = (FactorConfig, GeneConfig)
    fitted_type: ClassVar[type] = FittedHisDiff

    def fit_with(self, sections: Sequence[Section], config: FactorConfig | GeneConfig, run: FitRun) -> FittedHisDiff:
        """Fit on sections; validation sections decide when to stop.

        Without any, each training section is left out in turn, or blocks of a single one.
        """
        if isinstance(config, GeneConfig):
            return fit_gene_model(sections, config, run)
        return fit_factor_model(sections, config, run)
