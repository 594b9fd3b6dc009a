"""Patches of slides: cut at random, turned and recoloured, or as tiles that cover a slide once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from hisdiff.methods.xfuse._slides import Slide

_SCALE, _SHEAR, _COLOR = 0.05, math.radians(10), 0.05


@dataclass(frozen=True)
class Patches:
    """A batch of patches.

    Attributes
    ----------
    image, seen
        ``(b, 3, p, p)``; bool ``(b, p, p)``: the pixel lies on the slide.
    pixel, spot
        ``(q,)``: pixels of the batch, flat, that belong to spots which lie whole in their patch, and which of ``spots``
        each is of.
    background
        ``(k,)`` pixels of the batch whose counts are known to be zero.
    section
        ``(b,)`` slide of each patch.
    spots
        ``(n,)`` rows of all slides' counts; a spot that lies in two patches is there twice.
    spot_patch
        ``(n,)`` patch of each.
    """

    image: Tensor
    seen: Tensor
    pixel: Tensor
    spot: Tensor
    background: Tensor
    section: Tensor
    spots: Tensor
    spot_patch: Tensor


class Slides:
    """The training slides on each device in use; not buffers of a module, which are copied at every step."""

    def __init__(self, slides: Sequence[Slide]) -> None:
        self.n_spots = [len(s.counts) for s in slides]
        self.shapes = [s.shape for s in slides]
        self._on: dict[torch.device, dict[str, list[Tensor]]] = {}
        self._host = {
            "image": [torch.from_numpy(s.image) for s in slides],
            "labels": [torch.from_numpy(s.labels).long() for s in slides],
            "background": [torch.from_numpy(s.background) for s in slides],
            "centers": [torch.from_numpy(s.centers).float() for s in slides],
            "radii": [torch.from_numpy(s.radii).float() for s in slides],
            "areas": [torch.cat([torch.from_numpy(s.areas) for s in slides])],
            "counts": [torch.cat([torch.from_numpy(s.counts) for s in slides])],
        }

    def __deepcopy__(self, memo: object) -> Slides:
        return self

    def on(self, device: torch.device) -> dict[str, list[Tensor]]:
        """Return all tensors on a device."""
        if device not in self._on:
            self._on[device] = {name: [t.to(device) for t in of] for name, of in self._host.items()}
        return self._on[device]

    def n_patches(self, patch_px: int) -> list[int]:
        """Return how many patches make up an epoch, by slide."""
        return [math.ceil(h / patch_px * w / patch_px) for h, w in self.shapes]

    def sample(self, sections: Tensor, patch_px: int, generator: torch.Generator, *, augment: bool) -> Patches:
        """Cut a patch at random from each of some slides, ``(b,)``."""
        frames = [self._random_frame(s, patch_px, generator, augment=augment) for s in sections.tolist()]
        patches = self._cut(sections, frames, patch_px)
        if not augment:
            return patches
        # A random colour transformation close to none: brightness, contrast, saturation and hue in one.
        b, device = len(sections), patches.image.device
        matrix = torch.eye(3, device=device) + _COLOR * _uniform((b, 3, 3), generator, device)
        shift = _COLOR * _uniform((b, 3, 1, 1), generator, device)
        image = (torch.einsum("bij,bjhw->bihw", matrix, patches.image) + shift).clamp(-0.99, 0.99)
        return Patches(image, *(getattr(patches, name) for name in list(Patches.__dataclass_fields__)[1:]))

    def tiles(self, patch_px: int) -> list[Patches]:
        """Return patches that cover each slide once, side by side, one patch each."""
        device = self._host["image"][0].device
        out = []
        for number, (h, w) in enumerate(self.shapes):
            for y in range(0, h, patch_px):
                for x in range(0, w, patch_px):
                    frame = (torch.tensor([y + patch_px / 2, x + patch_px / 2]), torch.eye(2))
                    out.append(self._cut(torch.tensor([number], device=device), [frame], patch_px))
        return out

    def _random_frame(
        self, section: int, patch_px: int, generator: torch.Generator, *, augment: bool
    ) -> tuple[Tensor, Tensor]:
        """Return centre ``(2,)`` and matrix ``(2, 2)`` from offsets in a patch to offsets on its slide, (row, column)."""
        device = generator.device
        size = torch.tensor(self.shapes[section], dtype=torch.float32, device=device)
        u = torch.rand(2, generator=generator, device=device)
        half = torch.minimum(torch.full_like(size, patch_px / 2), size / 2)
        center = half + u * (size - 2 * half)
        if not augment:
            return (center - patch_px / 2).round() + patch_px / 2, torch.eye(2, device=device)
        angle, log_scale, shear_y, shear_x, flip = _uniform((5,), generator, device).tolist()
        c, s = math.cos(math.pi * angle), math.sin(math.pi * angle)
        turn = torch.tensor([[c, -s], [s, c]], device=device)
        shear = torch.tensor(
            [[1, math.tan(_SHEAR * shear_x)], [math.tan(_SHEAR * shear_y), 1]], device=device
        ) * math.exp(_SCALE * log_scale)
        mirror = torch.tensor([1.0, -1.0 if flip > 0 else 1.0], device=device)
        return center, turn @ shear @ torch.diag(mirror)

    def _cut(self, sections: Tensor, frames: Sequence[tuple[Tensor, Tensor]], p: int) -> Patches:
        """Cut patches of side ``p``: the image bilinear, labels from the nearest pixel."""
        device = sections.device
        held = self.on(device)
        offset = torch.arange(p, device=device) + 0.5 - p / 2
        grid = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1)
        before = [sum(self.n_spots[:s]) for s in range(len(self.n_spots))]
        images, seen, pixels, of, zero, patch = [], [], [], [], [], []
        spots: list[Tensor] = []
        for b, (section, (center, matrix)) in enumerate(zip(sections.tolist(), frames)):
            center, matrix = center.to(device), matrix.to(device)
            h, w = self.shapes[section]
            place = center + grid @ matrix.T
            unit = 2 * place.flip(-1) / torch.tensor([w, h], device=device) - 1
            image = held["image"][section][None]
            images.append(
                functional.grid_sample(image, unit[None], "bilinear", padding_mode="reflection", align_corners=False)
            )
            index = place.floor().long()
            inside = ((index >= 0) & (index < torch.tensor([h, w], device=device))).all(dim=-1)
            index = torch.where(inside[..., None], index, 0)
            seen.append(inside)
            dark = held["background"][section][index[..., 0], index[..., 1]] & inside
            zero.append(dark.flatten().nonzero()[:, 0] + b * p * p)
            label = torch.where(inside, held["labels"][section][index[..., 0], index[..., 1]], 0).flatten()
            whole = self._whole(held, section, center, matrix, p)
            mine = label.nonzero()[:, 0]
            mine = mine[whole[label[mine] - 1]]
            found, number = torch.unique(label[mine], return_inverse=True)
            pixels.append(mine + b * p * p)
            of.append(number + sum(len(s) for s in spots))
            spots.append(found - 1 + before[section])
            patch.append(torch.full((len(found),), b, device=device))
        return Patches(
            torch.cat(images), torch.stack(seen), torch.cat(pixels), torch.cat(of), torch.cat(zero), sections,
            torch.cat(spots), torch.cat(patch),
        )  # fmt: skip

    def _whole(self, held: dict[str, list[Tensor]], section: int, center: Tensor, matrix: Tensor, p: int) -> Tensor:
        """Return which spots of a slide lie whole inside a patch."""
        inverse = torch.linalg.inv(matrix)
        place = (held["centers"][section] - center) @ inverse.T
        # A disc becomes an ellipse; its half sides are the lengths of the rows of the inverse.
        reach = held["radii"][section][:, None] * inverse.norm(dim=1)
        return (place.abs() + reach <= p / 2 + 0.5).all(dim=-1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Return values between -1 and 1."""
    return 2 * torch.rand(shape, generator=generator, device=device) - 1
