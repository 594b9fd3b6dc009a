"""XFuse: a joint generative model of image and counts, which learns its features itself.

A re-implementation from the mathematics of Bergenstråhle et al., Nature Biotechnology 2022
(doi:10.1038/s41587-021-01075-3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hisdiff.methods._base import BaseMethod
from hisdiff.methods.xfuse._fit import fit_xfuse
from hisdiff.methods.xfuse._fitted import FittedXFuse
from hisdiff.methods.xfuse.config import XFuseConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun

__all__ = ["FittedXFuse", "XFuse", "XFuseConfig"]


class XFuse(BaseMethod):
    """Latent images at several resolutions explain both the colours of the section and the counts of its spots.

    Expression at a pixel is a scale times a mixture of metagenes, whose profiles are shared by all sections; both follow
    from the latent image, which an encoder reads off the section's image alone. Sections without counts are therefore
    predicted like any other.
    """

    name: ClassVar[str] = "xfuse"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "image"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image"})
    config_type: ClassVar[type] = XFuseConfig
    fitted_type: ClassVar[type] = FittedXFuse

    def fit_with(self, sections: Sequence[Section], config: XFuseConfig, run: FitRun) -> FittedXFuse:
        """Fit on sections, of which some may lack counts, not all.

        The expected accuracy is measured on validation sections, and unknown without any.
        """
        return fit_xfuse(sections, config, run)
