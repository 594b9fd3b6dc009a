r"""The `dit` model around the closed-form mean: the published network on what the mean leaves.

A draw is the mean, what sections differ in, factors with scores z, gene-specific spread and counts, as in preset ``"fast"``. The
network makes the scores: it sees the residuals :math:`z L` of all genes, free of counting noise, in tokens, and the embeddings of
the location and its surroundings. Its output is added to the velocity of normal scores, so that untrained it is the
Gaussian factor model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hisdiff._device import Products, resolve_device
from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._diffusion._schedule import Schedule
from hisdiff._nn._mlp import seeded_dropout
from hisdiff._nn._weights import load_weights, weights_of
from hisdiff._prediction._cohort_model import CohortModel, Parts
from hisdiff._training._loop import LossOutput
from hisdiff.methods.hisdiff.factor._flow import gaussian_velocity
from hisdiff.methods.hisdiff.factor._mean import ConditionalMean
from hisdiff.methods.hisdiff.factor._model import Summary
from hisdiff.methods.hisdiff.gene._drawing import Drawing
from hisdiff.methods.hisdiff.gene._model import FLOW_SCALE, GeneModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff.methods.hisdiff.gene._loss import Anchors
    from hisdiff.methods.hisdiff.gene._model import GeneNetwork
    from hisdiff.methods.hisdiff.gene.config import GeneConfig

# Below this part of the largest, the residual sd of a gene is not one to scale by.
_FLAT = 1e-3


class AroundNetwork(nn.Module):
    """The published network on residuals of genes, and what brings scores to them and back.

    Parameters
    ----------
    parts
        Conditioner and denoiser.
    loadings
        ``(K, G)`` of the factors whose scores it draws.
    config
        Width of the condition, and what is part of it.
    n_summary
        Values of the summary of the mean.
    """

    def __init__(self, parts: GeneNetwork, loadings: np.ndarray, config: GeneConfig, n_summary: int) -> None:
        super().__init__()
        self.parts, self.with_embedding, self.dropout = parts, config.with_embedding, config.dropout
        sd = np.sqrt(np.square(loadings).sum(axis=0))
        view = loadings / np.maximum(sd, _FLAT * max(float(sd.max()), 1e-12))
        self.register_buffer("view", torch.from_numpy(view.astype(np.float32)), persistent=False)
        self.register_buffer("back", torch.from_numpy(np.linalg.pinv(view).astype(np.float32)), persistent=False)
        self.view: Tensor
        self.back: Tensor
        width = config.width
        self.mean = (
            nn.Sequential(nn.Linear(n_summary, width), nn.SiLU(), nn.Linear(width, width)) if config.with_mean else None
        )

    def condition(
        self, batch: Mapping[str, Tensor], anchors: Tensor, size: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the condition ``(B, width)``; ``size`` is the library size over the usual one, log2. A generator is for dropout."""
        conditioner, made = self.parts.conditioner, None
        if self.with_embedding:
            where = batch["own"], anchors, batch["near"], batch["wide"]
            made = conditioner.at(*where, None if conditioner.size is None else size)
            made = seeded_dropout(made, self.dropout, generator)
        return self.with_mean(made, batch["summary"])

    def with_mean(self, condition: Tensor | None, summary: Tensor) -> Tensor:
        """Add the summary of the predicted mean to what is made of embeddings, where these are part of the condition."""
        parts = [part for part in (condition, None if self.mean is None else self.mean(summary)) if part is not None]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def velocity(self, x: Tensor, t: Tensor | float, condition: Tensor) -> Tensor:
        """Return the velocity of scores ``(B, K)`` at a time in [0, 1], under the sum of condition and embedded time."""
        departure = self.parts.denoiser.denoise(x @ self.view, condition).to(x.dtype)
        return gaussian_velocity(x, t) + departure @ self.back

    @torch.no_grad()
    def sample(self, condition: Tensor, start: Tensor, *, n_steps: int, sampler: str, products: Products) -> Tensor:
        """Carry standard normal ``(B, >= K)`` to scores; those beyond K stay what they are."""

        def velocity(x: Tensor, time: float) -> Tensor:
            embedded = self.parts.denoiser.embed_time(torch.full((1,), time, device=x.device))
            with products.autocast():
                return self.velocity(x, time / FLOW_SCALE, condition + embedded).to(x.dtype)

        k, path = len(self.view), Schedule.straight(n_steps, FLOW_SCALE)
        carried = SAMPLERS[sampler](velocity, start[:, :k], path, prediction_type="velocity")
        return torch.cat([carried, start[:, k:]], dim=1)


class AroundLoss(nn.Module):
    """A network with its loss: flow matching of scores.

    Batches have ``scores`` ``(B, K)``, ``summary`` ``(B, C)``, and of the context ``own``, ``near``, ``wide`` and ``log2_size``.
    """

    recordable = True

    def __init__(self, network: AroundNetwork, anchors: Anchors, log2_size: float) -> None:
        super().__init__()
        self.network, self.anchors, self.log2_size = network, anchors, log2_size

    def condition(
        self,
        batch: Mapping[str, Tensor],
        anchors: Anchors | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the condition of rows; ``anchors`` are those of other sections than in training, a generator is for dropout."""
        on = (anchors or self.anchors).on(batch["own"].device)
        return self.network.condition(batch, on, batch["log2_size"] - self.log2_size, generator)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return the mean squared error of the velocity."""
        x0 = batch["scores"]
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        # Even coverage of [0, 1] within a batch takes out part of the gradient's noise.
        order = torch.randperm(len(x0), generator=generator, device=x0.device)
        t = (order + torch.rand(1, generator=generator, device=x0.device)) / len(x0)
        x = torch.lerp(x0, noise, t[:, None])
        embedded = self.network.parts.denoiser.embed_time(FLOW_SCALE * t)
        condition = self.condition(batch, generator=generator)
        velocity = self.network.velocity(x, t[:, None], condition + embedded)
        error = F.mse_loss(velocity.float(), noise - x0)
        return LossOutput(error, {"velocity": error})


class Told(NamedTuple):
    """What the network is told of locations, for all draws.

    Attributes
    ----------
    values
        ``(n, width)``.
    drawing
        Makes draws at them.
    """

    values: Tensor
    drawing: Drawing


@dataclass(frozen=True, eq=False, kw_only=True)
class AroundModel(CohortModel):
    """Expression as conditional mean, what sections differ in, scores drawn by the published network, and counts.

    Attributes
    ----------
    gene
        The published network and how it takes embeddings.
    summary, network
        What it sees of the mean, and the network around the mean.
    kept
        Whether left-out tissue confirmed the network; else scores stay normal, and it is not asked.
    """

    gene: GeneModel
    summary: Summary
    network: AroundNetwork
    kept: bool = True

    @classmethod
    def of(cls, gene: GeneModel, summary: Summary, mean: ConditionalMean, parts: Parts, n_scores: int) -> AroundModel:
        """Put a new network around a mean, which draws the first scores; ``parts`` are the others of a ``CohortModel``."""
        n_summary, loadings = summary.axes.shape[1], parts["spread"].factors.loadings[:n_scores]
        # Of parameters the global generator makes the first values, which are replaced, and the generator put back.
        with torch.random.fork_rng(devices=[]):
            network = AroundNetwork(gene.network, loadings, gene.config, n_summary)
        return cls(gene=gene, summary=summary, network=network, mean=mean, **parts)

    @property
    def config(self) -> GeneConfig:
        """What the model was fitted with."""
        return self.gene.config

    def score_condition(self, section: Section, locations: Locations, center: np.ndarray, device: str | None) -> Told:
        """Return the condition at locations."""
        where = resolve_device(device)
        network = self.network.to(where).eval()
        condition = None
        if self.config.with_embedding:
            inside = self.gene.scale.inside(self.log2_size_of(section, None))
            condition = self.gene.condition(section, locations, inside, where)
        with torch.inference_mode():
            values = network.with_mean(condition, torch.from_numpy(self.summary(center)).to(where))
        products = Products.of(self.config.precision, where, emulated=False)
        return Told(values, Drawing(self.gene.chunk_rows(where), products))

    def scores(
        self, condition: Told, start: np.ndarray, draw: int, *, n_steps: int | None, device: str | None
    ) -> np.ndarray:
        """Carry standard normal ``(n, K)`` to the scores of one draw under conditions."""
        if not self.kept:
            return start.astype(np.float32)
        values, config = condition.values, self.config
        begin = torch.from_numpy(start.astype(np.float32)).to(values.device)
        steps = config.n_steps if n_steps is None else n_steps

        def sample(products: Products, rows: np.ndarray) -> np.ndarray:
            some = torch.from_numpy(rows).to(values.device)
            made = self.network.sample(
                values[some], begin[some], n_steps=steps, sampler=config.sampler, products=products
            )
            return made.cpu().numpy()

        return condition.drawing(len(values), sample)

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays, plain = super().state()
        arrays |= {"summary/center": self.summary.center, "summary/axes": self.summary.axes}
        if self.network.mean is not None:
            arrays |= weights_of(self.network.mean, "around/")
        own, plain["gene"] = self.gene.state()
        plain |= {"kept": self.kept, "n_scores": len(self.network.view)}
        return arrays | {f"gene/{name}": array for name, array in own.items()}, plain

    @classmethod
    def from_state(
        cls, config: GeneConfig, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> AroundModel:
        """Rebuild what ``state`` described."""
        own = {name.removeprefix("gene/"): array for name, array in arrays.items() if name.startswith("gene/")}
        gene = GeneModel.from_state(config, own, settings["gene"])
        mean = ConditionalMean.from_state(arrays, settings["mean"])
        summary = Summary(arrays["summary/center"], arrays["summary/axes"])
        model = cls.of(gene, summary, mean, cls.parts_of(arrays, settings), int(settings["n_scores"]))
        if model.network.mean is not None:
            load_weights(model.network.mean, arrays, "around/")
        model.network.eval()
        return replace(model, kept=bool(settings.get("kept", True)))
