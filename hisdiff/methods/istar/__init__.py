"""iStar: superpixels predicted from a dense embedding, supervised by the sums over spots.

A re-implementation from the mathematics of Zhang et al., Nature Biotechnology 2024 (doi:10.1038/s41587-023-02019-9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hisdiff.methods._base import BaseMethod
from hisdiff.methods.istar._fit import fit_istar
from hisdiff.methods.istar._fitted import FittedIStar
from hisdiff.methods.istar.config import IStarConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun

__all__ = ["FittedIStar", "IStar", "IStarConfig"]


class IStar(BaseMethod):
    """An ensemble of superpixel networks, trained so that the mean over each spot's footprint is its scaled count.

    Counts of all sections are brought to one library size and one footprint area and scaled gene by gene to 0..1 over all
    training spots together: a section that has less of a gene keeps having less. (Scaling each section alone, the other
    choice, would teach that the highest spot of every section has the same expression.)
    """

    name: ClassVar[str] = "istar"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "image", "features"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image", "features"})
    config_type: ClassVar[type] = IStarConfig
    fitted_type: ClassVar[type] = FittedIStar

    def fit_with(self, sections: Sequence[Section], config: IStarConfig, run: FitRun) -> FittedIStar:
        """Fit on sections; the expected accuracy is measured on validation sections, and unknown without any."""
        return fit_istar(sections, config, run)
