"""Protocols of encoders: a specification that can be checked without weights, and one method that embeds patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hisdiff._section import FeatureSpec

if TYPE_CHECKING:
    import numpy as np

    from hisdiff._section import Box, ImageSource


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Specification of an encoder.

    Attributes
    ----------
    name, revision
        Identity; the revision changes when the values of embeddings change.
    dim
        Length of an embedding.
    input_px, mpp
        Side of the patch that the encoder sees, in pixels, and the micrometres per pixel it was made for.
    licence
        SPDX-like name, or ``"unknown"``.
    gated
        Whether access to the weights has to be requested.
    derivatives
        Whether the licence permits sharing models trained on the embeddings; None if unknown.
    """

    name: str
    revision: str
    dim: int
    input_px: int
    mpp: float
    licence: str = "unknown"
    gated: bool = False
    derivatives: bool | None = None

    @property
    def patch_um(self) -> float:
        """Side of the patch in micrometres."""
        return self.input_px * self.mpp


@runtime_checkable
class Encoder(Protocol):
    """Protocol of encoders of image patches. Any object with these two members can be passed as ``encoder=``.

    It may also have ``batch_size``, ``to(device)``, ``precision`` (of its products: ``"float32"``, ``"bf16"``), which is
    kept in the record of what it embeds, and ``reentrant``, True where several threads may call it at once, each on one core.

    Examples
    --------
    >>> import hisdiff as hd
    >>> class MeanColor:
    ...     spec = hd.encoders.EncoderSpec("mean-colour", "1", dim=3, input_px=64, mpp=1.0)
    ...
    ...     def encode(self, patches):
    ...         return patches.mean(axis=(1, 2)).astype("float32")
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.pp.embed(sdata, MeanColor())
    >>> sdata.tables["table"].obsm["hisdiff_embedding"].shape
    (12, 3)
    """

    @property
    def spec(self) -> EncoderSpec:
        """Specification of the encoder."""

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches, uint8 ``(B, input_px, input_px, 3)``, into float32 ``(B, dim)``."""


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """Specification of the dense form of an encoder.

    Attributes
    ----------
    revision
        Changes when the values change.
    dim
        Length of the vector of a place.
    mpp
        Micrometres per pixel at which the image is read.
    window_um
        Side of the surroundings that a vector describes.
    """

    revision: str
    dim: int
    mpp: float
    window_um: float


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """An encoder that also describes every place of an image, from one pass over tiles of it."""

    @property
    def dense_spec(self) -> DenseSpec | None:
        """Specification of the dense form, or None where this encoder has none."""

    def encode_dense(self, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
        """Describe the bins of a box, float32 ``(rows, columns, dim)``.

        Parameters
        ----------
        image
            Read it with ``image.read(box_um, dense_spec.mpp)``, in boxes of whole pixels of that size; at another
            resolution it raises. Outside the tissue section it is white.
        box_um
            ``(x0, y0, x1, y1)``, whole bins of the grid that starts at the origin of um. It may reach beyond the image.
        resolution_um
            Side of a bin: that of the grid which is predicted (16 um, say), 4 to 16 um at spots, and 8 um for the mean and
            standard deviation of a section. It need not be a multiple of ``dense_spec.mpp``, and may be larger or
            smaller than ``dense_spec.window_um``, the surroundings that a vector describes whatever the bins' side.

        Notes
        -----
        A bin's vector depends on its place alone, not on the box: sections are worked on in tiles.
        """


def precision_of(encoder: Encoder) -> str:
    """Return the precision in which an encoder computes, or ``"unknown"`` where it does not tell."""
    return str(getattr(encoder, "precision", "unknown"))


def is_reentrant(encoder: Encoder) -> bool:
    """Whether several threads may call an encoder at once."""
    return bool(getattr(encoder, "reentrant", False))


def dense_spec_of(encoder: Encoder) -> FeatureSpec | None:
    """Return what decides the values of an encoder's dense embedding, or None where it has no dense form."""
    spec = getattr(encoder, "dense_spec", None)
    if spec is None:
        return None
    return FeatureSpec(encoder.spec.name, spec.revision, spec.dim, spec.mpp, spec.window_um)
