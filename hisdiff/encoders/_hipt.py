"""The pair of transformers that iStar was published with, from weights in a local folder.

The first sees patches of 256 px in tokens of 16, the second the first one's class tokens of a whole slide. Their tokens,
both at 8 um, and the colour of each token make up 579 values for every place (Chen et al., CVPR 2022, for the networks;
Zhang et al., Nature Biotechnology 2024, for what is made of them).
"""

from __future__ import annotations

import hashlib
import weakref
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import nn

from hisdiff._device import resolve_device
from hisdiff._log import progress
from hisdiff.encoders._anchored import anchored
from hisdiff.encoders._base import DenseSpec, EncoderSpec
from hisdiff.encoders._import_timm import import_timm

if TYPE_CHECKING:
    from collections.abc import Callable

    from hisdiff._section import Box, ImageSource

PREFIX = "hipt:"
_MPP = 0.5
_PATCH, _TOKEN = 256, 16
_SIDE = _PATCH // _TOKEN
_TABLE = 14
"""Side of the position tables, in tokens."""
_HEADS = 6
_SMOOTH_SECOND, _SMOOTH_FIRST = 16, 4
"""Sides of the box filters, in tokens."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WHITE = 255


class Transformer(nn.Module):
    """A vision transformer as DINO trains it, whose positions stretch to any grid of tokens.

    Parameters
    ----------
    width, depth
        Sizes.
    embed
        Turns the input into tokens ``(B, rows, columns, width)``.
    """

    def __init__(self, width: int, depth: int, embed: nn.Module) -> None:
        super().__init__()
        block = import_timm().models.vision_transformer.Block
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.embed = embed
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, _TABLE**2 + 1, width))
        self.blocks = nn.ModuleList(
            [block(width, _HEADS, mlp_ratio=4, qkv_bias=True, norm_layer=norm) for _ in range(depth)]
        )
        self.norm = norm(width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return tokens ``(B, 1 + rows * columns, width)``, the class token first."""
        tokens = self.embed(inputs)
        b, rows, columns, width = tokens.shape
        x = torch.cat([self.cls_token.expand(b, -1, -1), tokens.reshape(b, -1, width)], dim=1)
        x = x + stretched(self.pos_embed, rows, columns)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def stretched(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return positions ``(1, 1 + rows * columns, width)`` from a table for a square.

    The factor is (side + 0.1) / 14 and not side / 14: the weights were trained with the positions that come of it.
    """
    if rows == columns == _TABLE:
        return table
    square = table[:, 1:].reshape(1, _TABLE, _TABLE, -1).permute(0, 3, 1, 2)
    factors = ((rows + 0.1) / _TABLE, (columns + 0.1) / _TABLE)
    grown = nn.functional.interpolate(square, scale_factor=factors, mode="bicubic", align_corners=False)
    assert grown.shape[-2:] == (rows, columns)
    return torch.cat([table[:, :1], grown.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)


class PixelTokens(nn.Module):
    """Tokens of 16 px of an image ``(B, 3, y, x)`` with values in 0..255."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, _TOKEN, _TOKEN)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``(B, rows, columns, width)``."""
        return self.proj((image / 255 - 0.5) / 0.5).permute(0, 2, 3, 1)


class VectorTokens(nn.Module):
    """Tokens from vectors ``(B, rows, columns, n)``."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(n, width)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return ``(B, rows, columns, width)``."""
        return nn.functional.gelu(self.proj(vectors))


class HiptEncoder:
    """The two transformers as an encoder of patches and of whole sections.

    Parameters
    ----------
    folder
        Holds ``vit256*`` and ``vit4k*``, as safetensors or as the released checkpoints (read without unpickling code).
    shifts
        Passes along each axis, over which features are averaged; 4 as published.
    """

    def __init__(self, folder: str | Path, shifts: int = 4) -> None:
        folder = Path(folder).expanduser().resolve()
        self._files = tuple(_find(folder, start) for start in ("vit256", "vit4k"))
        if _PATCH % (shifts * _TOKEN):
            raise ValueError(f"shifts divides {_SIDE}, the tokens of a patch; {shifts!r} does not.")
        self.shifts = shifts
        self.first, self.second = _first(_state(self._files[0])), _second(_state(self._files[1]))
        self.widths = (self.second.norm.normalized_shape[0], self.first.norm.normalized_shape[0])
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in self._files))
        revision = digest.hexdigest()[:12] + ("" if shifts == 4 else f"-{shifts}")
        dim = sum(self.widths) + 3
        self.spec = EncoderSpec(f"{PREFIX}{folder}", revision, dim, _PATCH, _MPP)
        self.dense_spec = DenseSpec(revision, dim, _MPP, _PATCH * _MPP)
        self._device = torch.device("cpu")
        self._known: tuple[weakref.ref, tuple[int, int], np.ndarray] | None = None
        self.to(None)

    precision = "float32"

    def to(self, device: str | torch.device | None) -> HiptEncoder:
        """Move to a device; return the encoder itself."""
        self._device = resolve_device(device)
        for network in (self.first, self.second):
            network.to(self._device).eval().requires_grad_(requires_grad=False)
        return self

    @property
    def batch_size(self) -> int:
        """Patches per call that suit the device."""
        return 8 if self._device.type == "cpu" else 128

    @torch.inference_mode()
    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches, uint8 ``(B, 256, 256, 3)``, into float32 ``(B, dim)``: means over the tokens of each alone."""
        tokens = self._first_tokens(patches)
        above = self.second(tokens[:, :1, None].float().reshape(len(patches), 1, 1, -1))[:, 1]
        color = patches.reshape(len(patches), -1, 3).mean(axis=1) / 255
        parts = above.cpu().numpy(), tokens[:, 1:].mean(dim=1).cpu().numpy(), color
        return np.concatenate(parts, axis=1).astype(np.float32)

    def encode_dense(self, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
        """Describe the bins of a box by the tokens that their centres lie in, float32 ``(rows, columns, dim)``.

        The second transformer looks at the whole section, so the features of all of it are computed when any are asked
        for first, and kept until another image is.
        """
        (top, left), raster = self._raster_of(image)
        x0, y0, x1, y1 = box_um
        side = _TOKEN * _MPP
        ys = y0 + (np.arange(round((y1 - y0) / resolution_um)) + 0.5) * resolution_um
        xs = x0 + (np.arange(round((x1 - x0) / resolution_um)) + 0.5) * resolution_um
        rows = np.clip(np.floor(ys / side).astype(int) - top, 0, raster.shape[0] - 1)
        columns = np.clip(np.floor(xs / side).astype(int) - left, 0, raster.shape[1] - 1)
        return raster[rows[:, None], columns].astype(np.float32)

    def _raster_of(self, image: ImageSource) -> tuple[tuple[int, int], np.ndarray]:
        """Return the first token and the features of a whole image, float16 ``(rows, columns, dim)``."""
        if self._known is not None and self._known[0]() is image:
            return self._known[1], self._known[2]
        first, raster = self._features(image)
        self._known = weakref.ref(image), first, raster
        return first, raster

    def _features(self, image: ImageSource) -> tuple[tuple[int, int], np.ndarray]:
        pixels = anchored(image, _MPP)
        x0, y0, x1, y1 = (side / (_TOKEN * _MPP) for side in image.bounds_um)
        top, left = int(np.floor(y0)), int(np.floor(x0))
        rows, columns = int(np.ceil(y1)) - top, int(np.ceil(x1)) - left
        second, first = self.widths
        out = np.zeros((rows, columns, second + first + 3), dtype=np.float32)
        step = _SIDE // self.shifts
        shifts = list(product(range(0, _SIDE, step), repeat=2))
        for a, b in progress(shifts, desc="embedding with 'hipt'", unit="shifts"):
            # Each pass covers the whole image, so that every token has as many passes.
            above, tokens = self._pass(pixels, (top - a, left - b), (rows + a, columns + b))
            out[..., :second] += above[a : a + rows, b : b + columns]
            out[..., second : second + first] += tokens[a : a + rows, b : b + columns]
        out[..., : second + first] /= len(shifts)
        for part, side in ((out[..., :second], _SMOOTH_SECOND), (out[..., second : second + first], _SMOOTH_FIRST)):
            uniform_filter(part, (side, side, 0), output=part, mode="reflect")
        out[..., -3:] = self._colors(pixels, (top, left), (rows, columns))
        return (top, left), out.astype(np.float16)

    @torch.inference_mode()
    def _pass(
        self, pixels: ImageSource, first: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens of both transformers, ``(rows, columns, width)``, for patches side by side from a token on."""
        rows, columns = (-(-side // _SIDE) for side in size)
        heads = torch.empty(rows, columns, self.widths[1])
        tokens = np.empty((rows * _SIDE, columns * _SIDE, self.widths[1]), dtype=np.float32)
        empty: torch.Tensor | None = None
        for i in range(rows):
            patches = np.stack([_patch(pixels, first[0] + i * _SIDE, first[1] + j * _SIDE) for j in range(columns)])
            blank = (patches == _WHITE).all(axis=(1, 2, 3))
            found = torch.empty(columns, _SIDE**2 + 1, self.widths[1])
            some = np.flatnonzero(~blank)
            for start in range(0, len(some), self.batch_size):
                part = some[start : start + self.batch_size]
                found[part] = self._first_tokens(patches[part]).cpu()
            if blank.any():  # plain ground is looked at once
                empty = self._first_tokens(patches[blank][:1]).cpu() if empty is None else empty
                found[np.flatnonzero(blank)] = empty
            heads[i] = found[:, 0]
            strip = found[:, 1:].reshape(columns, _SIDE, _SIDE, -1).permute(1, 0, 2, 3)
            tokens[i * _SIDE : (i + 1) * _SIDE] = strip.reshape(_SIDE, columns * _SIDE, -1).numpy()
        above = self.second(heads[None].to(self._device))[0, 1:].reshape(rows, columns, -1).cpu().numpy()
        return above.repeat(_SIDE, axis=0).repeat(_SIDE, axis=1), tokens

    def _first_tokens(self, patches: np.ndarray) -> torch.Tensor:
        image = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device).permute(0, 3, 1, 2).float()
        return self.first(image)

    def _colors(self, pixels: ImageSource, first: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Return the mean colour of each token, 0..1."""
        out = np.empty((*size, 3), dtype=np.float32)
        for i in range(0, size[0], _SIDE):
            rows = min(_SIDE, size[0] - i)
            strip = _read(pixels, (first[0] + i, first[1]), (rows, size[1]))
            out[i : i + rows] = strip.reshape(rows, _TOKEN, size[1], _TOKEN, 3).mean(axis=(1, 3)) / 255
        return out


def _patch(pixels: ImageSource, row: int, column: int) -> np.ndarray:
    return _read(pixels, (row, column), (_SIDE, _SIDE))


def _read(pixels: ImageSource, first: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Read whole tokens of an image."""
    side = _TOKEN * _MPP
    (y, x), (h, w) = first, size
    return pixels.read((x * side, y * side, (x + w) * side, (y + h) * side), _MPP)


def _find(folder: Path, start: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"Encoder 'hipt': there is no folder {folder}.")
    found = [file for file in sorted(folder.iterdir()) if file.name.startswith(start) and file.suffix in _SUFFIXES]
    if len(found) != 1:
        raise FileNotFoundError(
            f"Encoder 'hipt': {folder} holds {len(found)} files {start}* of weights, where one is needed "
            f"(it has {sorted(file.name for file in folder.iterdir())[:8]})."
        )
    return found[0]


def _state(file: Path) -> dict[str, torch.Tensor]:
    """Read weights; of a released checkpoint, those of the teacher."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("teacher", state)
    state = {name.replace("module.", "").replace("backbone.", ""): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    renamed = {"patch_embed.proj.": "embed.proj.", "phi.0.": "embed.proj."}
    for old, new in renamed.items():
        state = {name.replace(old, new) if name.startswith(old) else name: value for name, value in state.items()}
    return state


def _first(state: dict[str, torch.Tensor]) -> Transformer:
    return _built(state, PixelTokens)


def _second(state: dict[str, torch.Tensor]) -> Transformer:
    return _built(state, lambda width: VectorTokens(state["embed.proj.weight"].shape[1], width))


def _built(state: dict[str, torch.Tensor], embed: Callable[[int], nn.Module]) -> Transformer:
    """Build the transformer whose sizes its weights tell."""
    try:
        width = state["cls_token"].shape[-1]
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        network = Transformer(width, depth, embed(width))
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as err:
        raise ValueError(f"Encoder 'hipt': the weights are not of this pair of transformers ({err}).") from err
    return network
