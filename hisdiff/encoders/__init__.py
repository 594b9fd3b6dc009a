"""Encoders, which turn patches of tissue into vectors.

In: patches, uint8 ``(B, px, px, 3)``, at the pixel size an encoder was made for. Out: float32 ``(B, D)``.
``texture`` needs no weights; most others are vision transformers, some with gated weights (:func:`info`). An encoder
with a dense form (:class:`DenseEncoder`) also describes every place of an image from one pass over tiles of it.
"""

from hisdiff.encoders._base import DenseEncoder, DenseSpec, Encoder, EncoderSpec
from hisdiff.encoders._registry import get, info
from hisdiff.encoders._registry import names as list

__all__ = ["DenseEncoder", "DenseSpec", "Encoder", "EncoderSpec", "get", "info", "list"]
