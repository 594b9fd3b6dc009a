"""Segmentation of an image by a small network that is trained on its own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from hisdiff._device import resolve_device
from hisdiff._log import progress
from hisdiff._nn._initialize import as_torch, initialize

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS = 100
_RATE, _MOMENTUM = 0.1, 0.9
# Neighbours that decide what a small label becomes lie within so many pixels of it.
_AROUND = 3


class RegionNetwork(nn.Sequential):
    """Two 5 x 5 convolutions and one 1 x 1, from two bands to a response for each of 100 labels."""

    def __init__(self, n_bands: int = 2) -> None:
        layers: list[nn.Module] = []
        for before, size in ((n_bands, 5), (_CHANNELS, 5)):
            layers += [nn.Conv2d(before, _CHANNELS, size, padding=size // 2), nn.ReLU(), nn.BatchNorm2d(_CHANNELS)]
        super().__init__(*layers, nn.Conv2d(_CHANNELS, _CHANNELS, 1), nn.BatchNorm2d(_CHANNELS))


def continuity(response: Tensor) -> Tensor:
    """Return the mean absolute difference of the responses ``(..., y, x)`` of neighbouring pixels, down plus across."""
    down = (response[..., 1:, :] - response[..., :-1, :]).abs().mean()
    across = (response[..., :, 1:] - response[..., :, :-1]).abs().mean()
    return down + across


def merge_small(labels: np.ndarray, min_px: float) -> np.ndarray:
    """Give labels of fewer pixels the most frequent larger label around them; where there is none they stay."""
    size = np.bincount(labels.ravel())
    main = size >= min_px
    if not main.any():
        return labels
    merged = labels.copy()
    boxes = ndimage.find_objects(labels + 1)
    for label in np.flatnonzero((size > 0) & ~main):
        box = tuple(slice(max(part.start - _AROUND, 0), part.stop + _AROUND) for part in boxes[label])
        here = labels[box] == label
        around = ndimage.maximum_filter(here, size=2 * _AROUND + 1)
        votes = np.bincount(labels[box][around], minlength=len(size)) * main
        if votes.any():
            merged[box][here] = votes.argmax()
    return merged


def segment(
    bands: np.ndarray,
    *,
    n_labels: int,
    continuity_weight: float,
    min_px: float,
    n_steps: int,
    seed: int,
    device: str | None = None,
    progress_bar: bool | None = None,
) -> np.ndarray:
    """Label the pixels of an image.

    In each step the network's most likely labels, small ones merged into their surroundings, are its target; a penalty
    on differences between neighbours makes labels grow together, until few are left.

    Parameters
    ----------
    bands
        ``(2, y, x)``, each in 0..1.
    n_labels
        Stop when so many labels of at least ``min_px`` pixels are left.
    continuity_weight
        Of the penalty.
    n_steps
        Most steps.

    Returns
    -------
    int ``(y, x)``, labels from 0, largest first.
    """
    place = resolve_device(device)
    network = RegionNetwork(len(bands))
    initialize(network, torch.Generator().manual_seed(seed), rule=as_torch)
    network.to(place).train()  # normalised over the one image there is, at the end as well
    x = torch.from_numpy(np.asarray(bands, dtype=np.float32))[None].to(place)
    parameters: list[torch.Tensor] = list(network.parameters())
    speed = [torch.zeros_like(parameter) for parameter in parameters]
    labels = np.zeros(bands.shape[1:], dtype=np.int64)
    for _ in progress(range(n_steps), desc="segmenting superpixels", enabled=progress_bar, unit="rounds"):
        response = network(x)
        labels = merge_small(response[0].argmax(dim=0).cpu().numpy(), min_px)
        n_main = int((np.bincount(labels.ravel()) >= min_px).sum())
        if 0 < n_main <= n_labels:
            break
        target = torch.from_numpy(labels)[None].to(place)
        loss = nn.functional.cross_entropy(response, target) + continuity_weight * continuity(response)
        slopes = torch.autograd.grad(loss, parameters)
        with torch.no_grad():  # steps with momentum; an optimiser of torch.optim would import torch's compiler
            torch._foreach_mul_(speed, _MOMENTUM)
            torch._foreach_add_(speed, slopes)
            torch._foreach_add_(parameters, speed, alpha=-_RATE)
    else:
        with torch.no_grad():
            labels = merge_small(network(x)[0].argmax(dim=0).cpu().numpy(), min_px)
    return _by_size(labels)


def _by_size(labels: np.ndarray) -> np.ndarray:
    size = np.bincount(labels.ravel())
    number = np.zeros(len(size), dtype=np.int64)
    number[np.argsort(-size, kind="stable")] = np.arange(len(size))
    return number[labels]
