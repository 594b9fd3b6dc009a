"""A dense form for encoders that have none: the patch around every bin is embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff.encoders._base import DenseSpec, precision_of
from hisdiff.encoders._embed import embed_locations

if TYPE_CHECKING:
    from hisdiff._section import Box, FeatureSpec, ImageSource
    from hisdiff.encoders._base import Encoder


class PatchEncoder:
    """An encoder whose vector of a bin is that of the patch around the bin's center: one pass for every bin.

    Parameters
    ----------
    encoder
        What embeds patches.
    spec
        Of the embedding: the patch's side and pixel size.
    """

    def __init__(self, encoder: Encoder, spec: FeatureSpec) -> None:
        self.encoder, self.spec, self.precision = encoder, encoder.spec, precision_of(encoder)
        self.dense_spec = DenseSpec(spec.revision, spec.dim, spec.mpp, spec.patch_um)

    def to(self, device: str) -> None:
        """Move the encoder to a device, where it has one."""
        if hasattr(self.encoder, "to"):
            self.encoder.to(device)

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches; see :class:`~hisdiff.encoders.Encoder`."""
        return self.encoder.encode(patches)

    def encode_dense(self, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
        """Describe the bins of a box; see :class:`~hisdiff.encoders.DenseEncoder`."""
        x0, y0, x1, y1 = box_um
        columns, rows = round((x1 - x0) / resolution_um), round((y1 - y0) / resolution_um)
        x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
        centers = np.stack([x.ravel(), y.ravel()], axis=1) * resolution_um + [x0, y0]
        # The image is read in whole pixels of its lattice.
        side, mpp = self.dense_spec.window_um, self.dense_spec.mpp
        centers = np.round((centers - side / 2) / mpp) * mpp + side / 2
        vectors = embed_locations(self.encoder, image, centers, patch_um=side, progress=False)
        return vectors.reshape(rows, columns, -1)
