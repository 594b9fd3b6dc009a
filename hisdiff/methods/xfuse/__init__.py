"""XFuse: a joint generative model of image and counts, which learns its features itself.

A re-implementation from the mathematics of Bergenstråhle et al., Nature Biotechnology 2022
(doi:10.1038/s41587-021-01075-3).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hisdiff._keys import COUNTS
from hisdiff._log import logger
from hisdiff._section import needed
from hisdiff._training._calibration import Calibration, Dispersion
from hisdiff.methods.xfuse._fit import covariates_of, fit_model, start
from hisdiff.methods.xfuse._fitted import FittedXFuse, digest_of
from hisdiff.methods.xfuse._patches import Slides
from hisdiff.methods.xfuse._slides import Slide
from hisdiff.methods.xfuse.config import XFuseConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hisdiff._section import Section
    from hisdiff.methods.xfuse._model import XFuseModel

__all__ = ["FittedXFuse", "XFuse", "XFuseConfig"]

_MIN_SPOTS = 2
_CALIBRATION_DRAWS = 16


class XFuse:
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

    def fit(
        self,
        sections: Sequence[Section],
        config: XFuseConfig,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> FittedXFuse:
        """Fit on sections that share one panel (``Section.with_panel``); some may lack counts, not all.

        ``validation`` sections are not used for fitting; the expected accuracy of the model is measured on them. Without
        any, it is unknown.
        """
        covariates_of(config, [section.name for section in sections])  # complains before anything is read
        n = sum(len(needed(s.spots)) for s in sections if s.counts is not None)
        if n < _MIN_SPOTS:
            raise ValueError(
                f"XFuse needs at least {_MIN_SPOTS} spots; section(s) {[s.name for s in sections]} have {n}."
            )
        for section in sections:
            if section.image is None:
                raise ValueError(f"XFuse needs an image, and section {section.name!r} has none.")
        slides = [Slide.of(section, config.image_mpp, config.step_px) for section in sections]
        logger.info(
            "xfuse: %d slide(s) of %s pixels, %d spots, %d genes",
            len(slides), ", ".join("{} x {}".format(*slide.shape) for slide in slides), n, len(sections[0].genes),
        )  # fmt: skip
        model, history = fit_model(
            config, start(config, slides, seed=seed), Slides(slides),
            seed=seed, device=device, progress=progress, checkpoint=checkpoint, resume=resume,
        )  # fmt: skip
        model.cpu()
        area = float(np.median(np.concatenate([s.areas for s in slides]))) * config.image_mpp**2
        known = {digest_of(s): (i, float(_log2_size(s))) for i, s in enumerate(sections) if s.counts is not None}
        fitted = FittedXFuse(
            sections[0].genes, config, model, area, _plain_log2_size(model, sections), known, history=history
        )
        fitted = replace(fitted, dispersion=_dispersion(fitted, sections, seed, device))
        if not validation:
            return fitted
        calibration = Calibration.from_sections(
            fitted, validation, n_draws=_CALIBRATION_DRAWS, seed=seed, device=device
        )
        return replace(fitted, calibration=calibration)


def _log2_size(section: Section) -> float:
    return section.log2_size if section.library_size is not None else 0.0


def _plain_log2_size(model: XFuseModel, sections: Sequence[Section]) -> float:
    """Return the library size of a section without effects: that of the training sections less what their effects add."""
    mean = (model.baseline + model.logit).detach().exp()
    effects = model.effects(None)
    added = ((effects.rate + effects.logit).detach().exp() @ mean / mean.sum()).log2()
    own = [_log2_size(s) - float(added[i]) for i, s in enumerate(sections) if s.counts is not None]
    return float(np.mean(own))


def _dispersion(fitted: FittedXFuse, sections: Sequence[Section], seed: int, device: str | None) -> Dispersion:
    """Return the dispersion of the counts of training spots around their predictions."""
    counted = [s for s in sections if s.counts is not None]
    told = [fitted.predict(s, needed(s.spots), n_draws=1, units=COUNTS, seed=seed, device=device).mean for s in counted]
    return Dispersion.from_counts(np.concatenate([needed(s.counts).toarray() for s in counted]), np.concatenate(told))
