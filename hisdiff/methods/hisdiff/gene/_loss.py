"""What the `dit` model is trained on: the published loss, or flow matching; with standardised genes, at many library sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hisdiff._diffusion._gaussian import GaussianDiffusion, loss_terms
from hisdiff._diffusion._prediction_type import target
from hisdiff._diffusion._schedule import linear_betas
from hisdiff._training._loop import LossOutput, Validation, generator_for
from hisdiff.methods.hisdiff.gene._model import FLOW_SCALE, prediction_type_of
from hisdiff.methods.hisdiff.gene._scale import OCTAVES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from hisdiff.methods.hisdiff.gene._model import GeneModel

_THINNED = 0.5  # part of the rows
_LOOK_ROWS = 1024
_BATCH = 128


class Anchors:
    """Embeddings ``(m, D)`` on each device in use.

    Not a buffer of the module: buffers are copied into the moving average and between processes at every step.
    """

    def __init__(self, values: np.ndarray) -> None:
        self._on = {torch.device("cpu"): torch.from_numpy(values)}

    def __deepcopy__(self, memo: object) -> Anchors:
        return self

    def on(self, device: torch.device) -> Tensor:
        """Return them on a device."""
        if device not in self._on:
            self._on[device] = self._on[torch.device("cpu")].to(device)
        return self._on[device]


class GeneLoss(nn.Module):
    """The network of a model with its loss.

    Batches have ``own`` ``(B, D)``, ``near`` ``(B, 9)`` and ``wide`` ``(B, 49)`` rows of the anchors, ``counts``
    ``(B, G)`` and ``log2_size`` ``(B,)``, that of the section.
    """

    recordable = True

    def __init__(self, model: GeneModel, anchors: Anchors) -> None:
        super().__init__()
        self.network, self.anchors = model.network, anchors
        self.standardize = model.config.standardize
        self.prediction_type = prediction_type_of(model.config)
        self.diffusion = GaussianDiffusion(linear_betas(), reference_compat=model.config.reference_compat)
        self.log2_size = model.log2_size
        center, scale = model.scale.targets
        schedule = self.diffusion.schedule
        tables = {
            "log2_sizes": model.scale.log2_sizes, "center": center, "scale": scale,
            "alpha": schedule.alpha, "sigma": schedule.sigma,
        }  # fmt: skip
        for name, values in tables.items():
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)
        self.log2_sizes: Tensor
        self.center: Tensor
        self.scale: Tensor
        self.alpha: Tensor
        self.sigma: Tensor

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return the mean loss of a batch."""
        counts, log2_size = batch["counts"], batch["log2_size"]
        if self.standardize:
            counts, log2_size = thin(counts, log2_size, generator)
        place = torch.rand(len(counts), generator=generator, device=counts.device)
        terms = self.terms({**batch, "counts": counts, "log2_size": log2_size}, self.anchors, place, generator)
        parts = {name: values.mean() for name, values in terms.items()}
        return LossOutput(torch.stack(list(parts.values())).sum(), parts)

    def terms(
        self, batch: Mapping[str, Tensor], anchors: Anchors, place: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the terms of the loss of each row, ``(B,)``.

        Parameters
        ----------
        batch
            See the class.
        anchors
            That ``near`` and ``wide`` are rows of.
        place
            ``(B,)`` in [0, 1): where on the path from data to noise.
        generator
            Source of the noise.
        """
        # Held-out sections may be deeper than all that the network is trained on.
        log2_size = batch["log2_size"].clamp(self.log2_sizes[0], self.log2_sizes[-1])
        x0 = self._standardized(torch.log2(1 + batch["counts"]), log2_size)
        condition = self.network.conditioner.at(
            batch["own"],
            anchors.on(x0.device),
            batch["near"],
            batch["wide"],
            log2_size - self.log2_size if self.standardize else None,
        )
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        t = (place * len(self.diffusion)).long().clamp(max=len(self.diffusion) - 1)
        if self.prediction_type == "epsilon":
            mse, bound = loss_terms(self.network.denoiser, condition, x0, t, noise, diffusion=self.diffusion)
            return {"mse": mse} if bound is None else {"mse": mse, "vb": bound}
        if self.prediction_type == "velocity":
            time, alpha, sigma = FLOW_SCALE * place, (1 - place)[:, None], place[:, None]
        else:
            time, alpha, sigma = self.diffusion.times(t), self.alpha[t, None], self.sigma[t, None]
        x_t = alpha * x0 + sigma * noise
        output = self.network.denoiser(x_t, time, condition).float()
        return {"mse": (output - target(self.prediction_type, x0, noise, alpha, sigma)).square().mean(-1)}

    def _standardized(self, values: Tensor, log2_size: Tensor) -> Tensor:
        """Standardise log2(1 + count) ``(B, G)`` as ``GeneScale.at`` says for each row's library size."""
        last = len(self.log2_sizes) - 1
        if last == 0:
            return (values - self.center[0]) / self.scale[0]
        span = (self.log2_sizes[-1] - self.log2_sizes[0]) / last
        place = (log2_size - self.log2_sizes[0]) / span
        low = place.long().clamp(max=last - 1)
        share = (place - low)[:, None]
        return (values - torch.lerp(self.center[low], self.center[low + 1], share)) / torch.lerp(
            self.scale[low], self.scale[low + 1], share
        )


class HeldOutLoss:
    """Loss on held-out rows: the same noise at every look, and places spread evenly over the path.

    Parameters
    ----------
    data, anchors
        As in training.
    seed
        Of the noise.
    """

    def __init__(self, data: Mapping[str, Tensor], anchors: Anchors, seed: int) -> None:
        n = len(data["counts"])
        # Few rows are looked at several times, of many a part is enough.
        rows = np.arange(max(_LOOK_ROWS, n)) % n if n < _LOOK_ROWS else np.linspace(0, n - 1, _LOOK_ROWS).astype(int)
        self.data = {name: values[torch.from_numpy(rows)] for name, values in data.items()}
        self.anchors, self.seed = anchors, seed

    def __call__(self, module: nn.Module) -> Validation:
        """Look at a ``GeneLoss``."""
        assert isinstance(module, GeneLoss)
        device = module.center.device
        generator = generator_for(self.seed, -2, device=device)
        n = len(self.data["counts"])
        place = (torch.randperm(n, generator=generator_for(self.seed, -2)) + 0.5) / n
        sums: dict[str, Tensor] = {}
        for first in range(0, n, _BATCH):
            batch = {name: values[first : first + _BATCH].to(device) for name, values in self.data.items()}
            terms = module.terms(batch, self.anchors, place[first : first + _BATCH].to(device), generator)
            for name, values in terms.items():
                sums[name] = sums.get(name, 0.0) + values.sum() / n
        means = {name: float(value) for name, value in sums.items()}
        return Validation(sum(means.values()), means)


def thin(counts: Tensor, log2_size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lower the library size of half of the rows by up to ``OCTAVES``, evenly in log2, by keeping each count with that chance.

    Parameters
    ----------
    counts
        ``(B, G)``.
    log2_size
        ``(B,)``, log2.
    generator
        On the device of the counts.

    Returns
    -------
    Counts and library sizes.
    """
    if counts.device.type == "mps":  # has no binomial
        own = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator, device="mps")))
        thinned, lower = thin(counts.cpu(), log2_size.cpu(), own)
        return thinned.to(counts.device), lower.to(counts.device)
    octaves, chance = torch.rand(2, len(counts), generator=generator, device=counts.device)
    lost = OCTAVES * octaves * (chance < _THINNED)
    kept = torch.binomial(counts, torch.exp2(-lost)[:, None].expand_as(counts), generator=generator)
    return kept, log2_size - lost
