"""Sections that are made up, and the networks of ``dit`` and ``paper`` on them, for what ``gpu.py`` times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import sparse

from hisdiff._diffusion._gaussian import loss_terms
from hisdiff._nn._initialize import initialize
from hisdiff._section import FeatureSpec, Locations, Section, library_size_of
from hisdiff._training._loop import generator_for
from hisdiff.methods.hisdiff import GeneConfig
from hisdiff.methods.hisdiff.gene._loss import Anchors, GeneLoss
from hisdiff.methods.hisdiff.gene._model import GeneModel, GeneNetwork, Sizes
from hisdiff.methods.hisdiff.gene._scale import GeneScale

PITCH_UM = 200.0


@dataclass(frozen=True)
class Scale:
    """How large everything is; the steps that are timed come after as many that are not."""

    spots: int = 4000
    genes: int = 300
    paper_genes: int = 200
    dim: int = 1024
    draws: int = 16
    product: int = 8192
    same_spots: int = 64
    steps: int = 30
    steps_whole: int = 5
    profiled: int = 8
    dit_draw_steps: int = 20
    paper_draw_steps: int = 8
    patches: int = 512
    vit: str = "vit_large_patch16_224"
    paper: tuple[tuple[str, Any], ...] = ()
    fast: tuple[tuple[str, Any], ...] = (("n_landmarks", 1000),)


MINIATURE = Scale(
    spots=40, genes=12, paper_genes=9, dim=24, draws=2, product=64, same_spots=12, steps=2, steps_whole=2,
    profiled=4, paper_draw_steps=3, patches=2,
    vit="vit_tiny_patch16_224", paper=(("width", 24), ("depth", 2), ("heads", 3)),
    fast=(("max_steps", 4), ("validate_every", 2), ("n_members", 1), ("width", 8), ("n_factors", 2), ("penalties", (1.5,)), ("gammas", (0.3,))),
)  # fmt: skip


class Features:
    """Embeddings of places that are known."""

    def __init__(self, xy_um: np.ndarray, values: np.ndarray, scale: tuple[np.ndarray, np.ndarray] | None) -> None:
        self.spec = FeatureSpec("given", "1", values.shape[1], 0.5, 112.0)
        self.mean, self.std = (values.mean(axis=0), values.std(axis=0) + 1e-6) if scale is None else scale
        self._row = {tuple(place): row for row, place in enumerate(np.round(xy_um).astype(int).tolist())}
        self._values = values.astype(np.float32)

    def at(self, locations: Locations) -> np.ndarray:
        return self._values[[self._row[tuple(place)] for place in np.round(locations.xy_um).astype(int).tolist()]]


def made_up(n_spots: int, n_genes: int, dim: int, seed: int) -> Section:
    """Spots on a square, whose counts follow the first values of their embedding."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_spots)))
    xy = PITCH_UM * np.stack(np.divmod(np.arange(n_spots), side)[::-1], axis=1).astype(float)
    embedding = rng.standard_normal((n_spots, dim)).astype(np.float32)
    loadings = np.random.default_rng(0).normal(0, 0.4, (min(8, dim), n_genes))
    rate = np.random.default_rng(1).gamma(1, 8, n_genes) * np.exp(embedding[:, : len(loadings)] @ loadings)
    counts = sparse.csr_matrix(rng.poisson(np.minimum(rate, 2000)).astype(np.float32))
    genes = np.array([f"gene{i}" for i in range(n_genes)])
    return section_of(f"s{seed}", counts, embedding, xy, genes)


def section_of(
    name: str,
    counts: Any,
    embedding: np.ndarray,
    xy_um: np.ndarray,
    genes: np.ndarray,
    scale: tuple[np.ndarray, np.ndarray] | None = None,
) -> Section:
    """Return a section of plain arrays; ``scale`` is mean and sd of the embedding, those of the spots where it is None."""
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    spots = Locations(np.asarray(xy_um, dtype=float), 50.0)
    size = library_size_of(counts)
    return Section(name, genes, counts, spots, features=Features(spots.xy_um, embedding, scale), library_size=size)


class Networks:
    """The networks of ``dit`` and ``paper`` alone, without a mean that they start from, and what they learn from."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale

    def config(self, preset: str) -> GeneConfig:
        """Return the settings of a preset."""
        options = dict(self.scale.paper) if preset == "paper" else {"n_steps": self.scale.dit_draw_steps}
        options["around"] = None
        return GeneConfig.from_dict({"preset": preset, "patience": None, **options})

    @cache  # noqa: B019  # a bench lives as long as the process
    def section(self, preset: str, n_spots: int) -> Section:
        return made_up(n_spots, self.scale.paper_genes if preset == "paper" else self.scale.genes, self.scale.dim, 0)

    @cache  # noqa: B019
    def rows(self, preset: str, n_spots: int) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Return anchors, and what a network is trained on."""
        s = self.section(preset, n_spots)
        context = started_model(self.config(preset), s).context(s, s.spots)
        arrays = {
            "own": context.own,
            "near": context.near.astype(np.int64),
            "wide": context.wide.astype(np.int64),
            "log2_size": np.full(len(s.spots), s.log2_size, dtype=np.float32),
            "counts": s.counts.toarray(),
        }
        return context.anchors, {n: torch.from_numpy(np.ascontiguousarray(values)) for n, values in arrays.items()}

    def loss(self, preset: str, s: Section) -> tuple[GeneLoss, dict[str, torch.Tensor]]:
        """Return a network with its starting weights and its loss, and what it is trained on."""
        anchors, data = self.rows(preset, len(s.spots))
        return GeneLoss(started_model(self.config(preset), s), Anchors(anchors)), data

    def gradient(self, preset: str, device: torch.device, s: Section) -> np.ndarray:
        """Return the gradient of the loss for given noise and random weights."""
        module, data = self.loss(preset, s)
        module.to(device)
        batch = {name: tensor.to(device) for name, tensor in data.items()}
        for k, parameter in enumerate(module.parameters()):
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator_for(0, k)).to(device)
        rng = np.random.default_rng(0)
        x0, noise = (torch.from_numpy(a).float().to(device) for a in rng.standard_normal((2, *batch["counts"].shape)))
        t = torch.arange(len(x0), device=device) * 15 % 1000
        told = None if module.network.conditioner.size is None else batch["log2_size"] - module.log2_size
        condition = module.network.conditioner.at(
            batch["own"], module.anchors.on(device), batch["near"], batch["wide"], told
        )
        terms = loss_terms(module.network.denoiser, condition, x0, t, noise, diffusion=module.diffusion)
        sum(term.mean() for term in terms if term is not None).backward()
        return np.concatenate([p.grad.cpu().numpy().ravel() for p in module.parameters() if p.grad is not None])

    def flop_of_a_step(self, preset: str, s: Section) -> float:
        """Return the operations of a step of training."""
        from torch.utils.flop_counter import FlopCounterMode

        module, data = self.loss(preset, s)
        config = self.config(preset)
        few = 8  # of the rows of a batch, to which operations are proportional
        batch = {name: tensor[:few] for name, tensor in data.items()}
        with FlopCounterMode(display=False) as counter:
            module.loss(batch, generator_for(0, 0)).total.backward()
        return counter.get_total_flops() * min(config.batch_size, len(data["counts"])) / len(batch["counts"])

    def flop_of_a_row(self, model: GeneModel) -> float:
        """Return the operations of a network for one location."""
        from torch.utils.flop_counter import FlopCounterMode

        x, told = torch.zeros(2, model.sizes.n_genes), torch.zeros(2, model.config.width)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.network.cpu().denoiser.denoise(x, told)
        return counter.get_total_flops() / 2


def started_model(config: GeneConfig, s: Section) -> GeneModel:
    """Return a model with its starting weights."""
    sizes = Sizes.of(config, len(s.genes), s.features.spec.dim)
    network = initialize(GeneNetwork.of(config, sizes), generator_for(0, -1))
    scale = GeneScale.identity(sizes.embedding_dim, sizes.n_genes)
    if config.standardize:
        scale = GeneScale.fit(s.features.at(s.spots), s.counts.toarray(), np.full(len(s.spots), s.log2_size))
    return GeneModel(config, sizes, network, scale, log2_size=s.log2_size, pitch_um=None)


def random_model(config: GeneConfig, s: Section) -> GeneModel:
    """Return a model with random weights everywhere, so that nothing is zero."""
    model = started_model(config, s)
    for k, parameter in enumerate(model.network.parameters()):
        torch.nn.init.normal_(parameter, std=0.02, generator=generator_for(0, k))
    return model
