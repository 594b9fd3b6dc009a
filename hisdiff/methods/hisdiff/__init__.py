"""The method `hisdiff`: a conditional generative model of the whole gene vector given morphology."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.factor._fit import fit_factor_model
from hisdiff.methods.hisdiff.factor.config import FactorConfig
from hisdiff.methods.hisdiff.gene._fit import fit_gene_model
from hisdiff.methods.hisdiff.gene.config import GeneConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hisdiff._section import Section


class HisDiff:
    r"""Learn p(expression | morphology) and draw from it.

    With the factor model (preset ``"fast"``) a draw is made of three parts:

    1. the conditional mean, by kernel ridge regression on principal components of a spot's own embedding and of the means
       over 9 and 49 anchors; closed form, chosen and cross-fitted on left-out tissue,
    2. scores of the common factors of what the mean leaves, from a flow (flow matching, residual MLP with adaptive norm)
       that sees the predicted mean; it starts at the Gaussian factor model and is kept as far as it improves the energy
       score of left-out tissue, which on a few hundred spots may be not at all,
    3. counts, Poisson around the rates. Another library size scales the rates, so that the noise of shallow counts needs no
       learning.

    Regression first and a generative model for what it leaves is the plan of CorrDiff (Mardani et al., 2025). With the
    gene model (presets ``"dit"`` and ``"paper"``) the whole gene vector is diffused by the published network.
    """

    name: ClassVar[str] = "hisdiff"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "features"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image", "features"})
    config_type: ClassVar[tuple[type, ...]] = (FactorConfig, GeneConfig)
    fitted_type: ClassVar[type] = FittedHisDiff

    def fit(
        self,
        sections: Sequence[Section],
        config: FactorConfig | GeneConfig,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> FittedHisDiff:
        """Fit on sections that share one panel (``Section.with_panel``).

        Parameters
        ----------
        sections
            With counts and features.
        config
            Settings.
        validation
            Sections that decide when to stop; without any, each training section is left out in turn, or blocks of a
            single one.
        seed
            Decides everything random.
        device
            Name; None for the package's setting.
        progress
            Show a bar; None for the package's setting.
        checkpoint
            Folder for checkpoints, or None.
        resume
            Go on from the checkpoint.
        """
        run: dict[str, Any] = {
            "validation": validation,
            "seed": seed,
            "device": device,
            "progress": progress,
            "checkpoint": checkpoint,
            "resume": resume,
        }
        if isinstance(config, GeneConfig):
            return fit_gene_model(sections, config, **run)
        return fit_factor_model(sections, config, **run)


__all__ = ["FactorConfig", "FittedHisDiff", "GeneConfig", "HisDiff"]
