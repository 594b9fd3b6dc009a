"""What an encoder is: a specification that can be checked without weights, and one method that embeds patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Facts about an encoder.

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
        Whether access to the weights has to be asked for.
    derivatives
        Whether the licence lets models trained on the embeddings be shared; None where that is unknown.
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
    """Turns patches of tissue into vectors. Any object with these two members can be passed as ``encoder=``."""

    @property
    def spec(self) -> EncoderSpec:
        """Facts about the encoder."""

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches, uint8 ``(B, input_px, input_px, 3)``, into float32 ``(B, dim)``."""
