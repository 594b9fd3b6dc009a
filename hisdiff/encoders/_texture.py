"""The encoder that needs no weights: second-order statistics of oriented filters on stain densities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._cores import on_cores
from hisdiff.encoders._texture_dense import dense_spec, encode_dense
from hisdiff.encoders._texture_filters import Moments, describe, pyramid, window_moments
from hisdiff.encoders._texture_forms import FORMS, Form

if TYPE_CHECKING:
    from hisdiff._section import Box, ImageSource
    from hisdiff.encoders._base import DenseSpec


class TextureEncoder:
    """Texture statistics of a field of 314 um and of windows inside it; see ``_texture_filters``."""

    batch_size = 16
    precision = "float32"
    reentrant = True

    def __init__(self, form: Form = FORMS[0]) -> None:
        self.form = form
        self.spec = form.spec

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches, uint8 ``(B, input_px, input_px, 3)``, into float32 ``(B, dim)``."""
        patches, side = np.asarray(patches), self.form.input_px
        if patches.dtype != np.uint8 or patches.shape[1:] != (side, side, 3):
            raise ValueError(f"patches are uint8 (B, {side}, {side}, 3), not {patches.dtype} {patches.shape}.")
        if not len(patches):
            return np.empty((0, self.spec.dim), dtype=np.float32)
        return np.stack(on_cores(self._embed, list(patches)))

    def _embed(self, patch: np.ndarray) -> np.ndarray:
        parts = []
        for level, (windows, densities) in enumerate(zip(self.form.windows_px, pyramid(patch))):
            parts += window_moments(densities, [side >> level for side in windows])
        return describe(Moments(*map(np.stack, zip(*parts)))).ravel().astype(np.float32)

    @property
    def dense_spec(self) -> DenseSpec:
        """Facts about the dense form."""
        return dense_spec(self.form)

    def encode_dense(self, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
        """Describe the bins of a box; see :class:`~hisdiff.encoders.DenseEncoder`."""
        return encode_dense(self.form, image, box_um, resolution_um)
