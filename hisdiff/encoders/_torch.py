"""Torch networks as encoders: device, precision, normalisation."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._device import Chunks, Products, multiplies_bf16, resolve_device
from hisdiff._log import logger
from hisdiff._settings import settings
from hisdiff.encoders import _tokens
from hisdiff.encoders._base import DenseSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hisdiff._section import Box, ImageSource
    from hisdiff.encoders._base import EncoderSpec
    from hisdiff.encoders._tokens import Tokens

_LARGEST_BF16_ERROR = 0.01


class TorchEncoder:
    """A torch network that embeds patches.

    Its weights are read when they are first needed. It runs in bf16 where the hardware multiplies in it and where that
    changes embeddings by at most 1 %, relative, which is measured once, on a fixed probe; ``hd.settings.precision``
    decides otherwise. In bf16 the batch that a patch is in may change its embedding by up to 2 %, relative.

    Parameters
    ----------
    spec
        Facts about the encoder.
    build
        Returns the network with its weights.
    pool
        Turns the network and a normalised batch ``(B, 3, input_px, input_px)`` into embeddings ``(B, dim)``.
    mean, std
        Of the three colours, in 0..1.
    tokens
        Where the network's tokens lie, or None for a network without tokens: it has no dense form.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        build: Callable[[], torch.nn.Module],
        pool: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        tokens: Tokens | None = None,
    ) -> None:
        self._spec, self._build, self._pool, self._tokens = spec, build, pool, tokens
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(1, 3, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std)]).view(1, 3, 1, 1)
        self._network: torch.nn.Module | None = None
        self._device: torch.device | None = None
        self._bf16_suits = False
        self._at_once = sys.maxsize  # patches that the device's memory holds, as far as is known

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_network": None}  # weights are read again where it arrives, not sent

    @property
    def spec(self) -> EncoderSpec:
        """Facts about the encoder."""
        return self._spec

    @property
    def dense_spec(self) -> DenseSpec | None:
        """Facts about the dense form, or None for a network without tokens."""
        if self._tokens is None:
            return None
        return DenseSpec(self.spec.revision, self._tokens.dim, self.spec.mpp, self.spec.patch_um)

    @property
    def batch_size(self) -> int:
        """Patches per call that suit the device."""
        return 16 if self._device is None or self._device.type == "cpu" else 128

    @property
    def precision(self) -> str:
        """Precision of matrix products, ``"float32"`` or ``"bf16"``."""
        if settings.precision != "auto":
            return settings.precision
        if self._device is None:
            self.to(None)
        return "bf16" if self._bf16_suits else "float32"

    def to(self, device: str | torch.device | None) -> TorchEncoder:
        """Move to a device, reading the weights if that has not happened yet; return the encoder itself."""
        device = resolve_device(device)
        if self._network is None:
            self._network = self._build().eval().requires_grad_(requires_grad=False)
        if device != self._device:
            self._network.to(device)
            self._scale, self._shift = self._scale.to(device), self._shift.to(device)
            self._device = device
            self._bf16_suits = multiplies_bf16(device) and self._bf16_error() <= _LARGEST_BF16_ERROR
            logger.debug("encoder %r on %s in %s", self.spec.name, device, self.precision)
        return self

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches, uint8 ``(B, input_px, input_px, 3)``, into float32 ``(B, dim)``."""
        if self._device is None:
            self.to(None)
        return self._forward(patches, bf16=self.precision == "bf16")

    def encode_dense(self, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
        """Describe the bins of a box; see :class:`~hisdiff.encoders.DenseEncoder`."""
        if self._tokens is None:
            raise ValueError(f"Encoder {self.spec.name!r} has no dense form: its network has no tokens.")
        if self._device is None:
            self.to(None)
        tokens = self._tokens
        layout = _tokens.Layout(self.spec.mpp, tokens.token_px, self.spec.input_px // tokens.token_px, tokens.dim)
        return _tokens.encode_dense(
            lambda windows: self._forward(windows, bf16=self.precision == "bf16", read=tokens.read),
            layout,
            image,
            box_um,
            resolution_um,
            batch_size=self.batch_size,
        )

    def _forward(
        self,
        patches: np.ndarray,
        *,
        bf16: bool,
        read: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] | None = None,
    ) -> np.ndarray:
        """Return what ``read``, by default the pool, takes from the network."""
        chunks = Chunks(len(patches), min(self._at_once, max(1, len(patches))))
        run = partial(self._pass, bf16=bf16, read=read or self._pool)
        found = np.concatenate(list(chunks.each(lambda rows: run(patches[rows]))))
        if chunks.at_once < len(patches):
            self._at_once = chunks.at_once
        return found

    def _pass(
        self, patches: np.ndarray, *, bf16: bool, read: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
    ) -> np.ndarray:
        assert self._device is not None
        assert self._network is not None
        pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device, non_blocking=True)
        with torch.inference_mode():
            batch = pixels.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift)
            # Torch lets convolutions on CUDA round to TF32 unless it is told not to.
            products = Products(self._device, torch.bfloat16 if bf16 else None, tf32=bf16)
            with products.allowed(), products.autocast():
                embedded = read(self._network, batch)
        return embedded.float().cpu().numpy()

    def _bf16_error(self) -> float:
        rng = np.random.default_rng(0)
        side = self.spec.input_px
        # Blotches in the colours of a stained section: the statistics that the network was trained on.
        coarse = rng.uniform(size=(2, side // 14 + 1, side // 14 + 1, 1)).repeat(14, axis=1).repeat(14, axis=2)
        probe = (
            255 - coarse[:, :side, :side] * np.array([110, 180, 90]) - rng.uniform(0, 30, (2, side, side, 3))
        ).astype(np.uint8)
        exact = self._forward(probe, bf16=False)
        return float(np.linalg.norm(self._forward(probe, bf16=True) - exact) / np.linalg.norm(exact))
