"""The `dit` model: diffusion over the whole gene vector, one token per gene, with attention to the surroundings."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hisdiff._device import Products, resolve_device, rows_that_fit
from hisdiff._diffusion._samplers import FLOW_SAMPLERS, SAMPLERS, denoiser
from hisdiff._diffusion._schedule import Schedule, linear_betas
from hisdiff._nn._compile import compile_forward, compiles
from hisdiff._nn._conditioner import Conditioner
from hisdiff._nn._denoisers import DENOISERS
from hisdiff._nn._weights import load_weights, weights_of
from hisdiff._prediction._device_noise import noise_on
from hisdiff._prediction._field import SmoothNoise
from hisdiff._training._context import context_of
from hisdiff.methods.hisdiff.gene._drawing import Drawing
from hisdiff.methods.hisdiff.gene._reference import PUBLISHED_FUSION_HEADS
from hisdiff.methods.hisdiff.gene._scale import GeneScale

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hisdiff._diffusion._prediction_type import PredictionType
    from hisdiff._json import State
    from hisdiff._nn._denoisers import Denoiser
    from hisdiff._prediction._device_noise import Normal
    from hisdiff._section import Locations, Section
    from hisdiff._training._context import Context
    from hisdiff.methods.hisdiff.gene._reference import ReferenceNetwork
    from hisdiff.methods.hisdiff.gene.config import GeneConfig

FLOW_SCALE = 1000.0
"""The time embedding is made for steps 0 to 999."""
_GENES_PER_TOKEN = 8
# Around the mean the network sees no more than the scores of a few factors, which so many tokens show.
_TOKENS = 16
# Token values that a CPU works on at a time: some hundred locations of a small network, a few dozen of the published one.
_CHUNK_VALUES = 1 << 23
_CONTEXT_ROWS = 1024
# Of memory that a block takes for each token value, with what it works on and what the products return.
_BYTES_PER_VALUE = 64


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network that are not part of its configuration."""

    n_genes: int
    embedding_dim: int
    attention_width: int
    attention_heads: int
    fusion_hidden: int
    mlp_ratio: float = 4.0
    learn_variance: bool = True

    @classmethod
    def of(cls, config: GeneConfig, n_genes: int, embedding_dim: int) -> Sizes:
        """Return the published sizes, or without raw targets those of a conditioner as narrow as the network."""
        if config.standardize:
            return cls(n_genes, embedding_dim, config.width, config.heads, 4 * config.width, learn_variance=False)
        width = -(-embedding_dim // PUBLISHED_FUSION_HEADS) * PUBLISHED_FUSION_HEADS
        return cls(n_genes, embedding_dim, width, PUBLISHED_FUSION_HEADS, 1024)


def genes_per_token(config: GeneConfig, n_genes: int) -> int:
    """Return how many genes of a panel share a token."""
    wanted = config.genes_per_token
    if wanted is not None and wanted > n_genes:
        raise ValueError(
            f"genes_per_token is {wanted}, but the panel has {n_genes} genes; a token holds no more than all."
        )
    if wanted is not None:
        return wanted
    together = _GENES_PER_TOKEN if config.around is None else max(_GENES_PER_TOKEN, -(-n_genes // _TOKENS))
    return min(together, n_genes)


class GeneNetwork(nn.Module):
    """Conditioner and denoiser."""

    def __init__(self, conditioner: Conditioner, denoiser: Denoiser) -> None:
        super().__init__()
        self.conditioner, self.denoiser = conditioner, denoiser

    @classmethod
    def of(cls, config: GeneConfig, sizes: Sizes) -> GeneNetwork:
        """Return a network that is not initialised yet."""
        conditioner = Conditioner(
            sizes.embedding_dim,
            config.width,
            width=sizes.attention_width,
            heads=sizes.attention_heads,
            with_library_size=config.standardize if config.around is None else config.with_library_size,
            fusion_hidden=sizes.fusion_hidden,
        )
        together = genes_per_token(config, sizes.n_genes)
        shape = (sizes.n_genes, config.width, config.depth, config.heads, sizes.mlp_ratio, sizes.learn_variance)
        return cls(conditioner, DENOISERS[config.denoiser](*shape, together))


@dataclass(frozen=True, eq=False)
class GeneModel:
    """Expression drawn by denoising the whole gene vector.

    Attributes
    ----------
    config, sizes
        What the network is built from.
    network
        Its parts.
    scale
        How embeddings and expression are standardised.
    log2_size
        log2 of the median total count over the panel of the training sections.
    pitch_um
        Distance between anchors; None for that of a section's own spots.
    """

    config: GeneConfig
    sizes: Sizes
    network: GeneNetwork
    scale: GeneScale
    _: KW_ONLY
    log2_size: float
    pitch_um: float | None

    def draws(
        self,
        section: Section,
        locations: Locations,
        *,
        log2_size: float,
        n_draws: int,
        n_steps: int,
        seed: int,
        device: str | None,
    ) -> Iterator[np.ndarray]:
        """Yield draws of log2(1 + count) one at a time.

        With standardised targets they are at ``log2_size``. The published setting has no notion of library size: its draws are at
        whatever library size the network makes of the image.

        Raises
        ------
        ValueError
            If the section's embedding is of another width than the network's.
        """
        where = resolve_device(device)
        network = self.network.to(where).eval()
        if compiles(self.config.compile, where, n_draws * n_steps):
            compile_forward(network.get_submodule("denoiser"))
        schedule = schedule_of(self.config, n_steps)
        # Beyond the library sizes of training, counts are scaled, since the network was not trained there.
        log2_size = log2_size if self.config.standardize else 0.0
        inside = self.scale.inside(log2_size)
        center, scale = self.scale.at(inside)
        condition = self.condition(section, locations, inside, where)
        noise = noise_on(SmoothNoise.at(seed, locations), where)  # a draw of neighbouring bins is one tissue
        products = Products.of(self.config.precision, where, emulated=False)
        drawing = Drawing(self.chunk_rows(where), products)
        for draw in range(n_draws):
            x = drawing(len(locations), partial(self._sample, network, condition, schedule, noise, draw))
            yield rescaled(x * scale + center, log2_size - inside)

    @torch.inference_mode()
    def condition(self, section: Section, locations: Locations, log2_size: float, device: torch.device) -> Tensor:
        """Return the condition of the denoiser at locations, ``(n, width)``, which is the same for all draws and steps."""
        context = self.context(section, locations)
        network = self.network.to(device).eval()
        anchors = torch.from_numpy(context.anchors).to(device)
        parts = []
        for first in range(0, max(len(context.own), 1), _CONTEXT_ROWS):
            own, near, wide = (
                torch.tensor(values[first : first + _CONTEXT_ROWS], device=device)
                for values in (context.own, context.near, context.wide)
            )
            size = None
            if network.conditioner.size is not None:
                size = torch.full((len(own),), log2_size - self.log2_size, device=device)
            parts.append(network.conditioner.at(own, anchors, near, wide, size))
        return torch.cat(parts)

    def context(self, section: Section, locations: Locations) -> Context:
        """Return the context of locations, with embeddings as the network takes them."""
        context = context_of(section, locations, scaling=self.config.scaling, pitch_um=self.pitch_um)
        has, needs = context.own.shape[1], self.sizes.embedding_dim
        if has != needs:
            sides = 2 if self.config.scaling == "both" else 1
            raise ValueError(
                f"The embedding of section {section.name!r} has {has // sides} values, but the model was trained on "
                f"{needs // sides}; embed the section with the encoder that the model was trained with."
            )
        return replace(context, own=self.scale.embedding(context.own), anchors=self.scale.embedding(context.anchors))

    @torch.inference_mode()
    def _sample(
        self,
        network: GeneNetwork,
        condition: Tensor,
        schedule: Schedule,
        noise: Normal,
        draw: int,
        products: Products,
        rows: np.ndarray,
    ) -> np.ndarray:
        def normal(step: int) -> Tensor:
            return noise(draw, step, rows, self.sizes.n_genes)

        of_rows = condition[torch.from_numpy(rows).to(condition.device)]
        closed = denoiser(network.denoiser, schedule, of_rows, autocast=products.half)
        sampler = SAMPLERS[self.config.sampler]
        x = sampler(closed, normal(0), schedule, prediction_type=prediction_type_of(self.config), noise=normal)
        return x.float().cpu().numpy()

    def chunk_rows(self, device: torch.device) -> int:
        """Return how many locations to work on at a time."""
        values = self.sizes.n_genes * self.config.width
        if device.type == "cuda":
            return rows_that_fit(values * _BYTES_PER_VALUE, device)
        return max(1, _CHUNK_VALUES // values)

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays = weights_of(self.network, "network/")
        settings = {
            "sizes": asdict(self.sizes),
            "log2_size": self.log2_size,
            "pitch_um": self.pitch_um,
        }
        return arrays | self.scale.state(), settings

    @classmethod
    def from_state(cls, config: GeneConfig, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> GeneModel:
        """Rebuild what ``state`` described."""
        sizes = Sizes(**settings["sizes"])
        network = GeneNetwork.of(config, sizes)
        load_weights(network, arrays, "network/")
        return cls(
            config,
            sizes,
            network.eval(),
            GeneScale.from_state(arrays),
            log2_size=settings["log2_size"],
            pitch_um=settings["pitch_um"],
        )


def published_model(config: GeneConfig, reference: ReferenceNetwork) -> GeneModel:
    """Return the model that a checkpoint of the published code stands for."""
    sizes = Sizes(
        reference.sizes.n_genes,
        reference.sizes.embedding_dim,
        attention_width=reference.sizes.embedding_dim,
        attention_heads=PUBLISHED_FUSION_HEADS,
        fusion_hidden=reference.sizes.fusion_hidden,
        mlp_ratio=reference.sizes.mlp_ratio,
    )
    network = GeneNetwork(reference.conditioner, reference.network)
    scale = GeneScale.identity(sizes.embedding_dim, sizes.n_genes)
    return GeneModel(config, sizes, network, scale, log2_size=0.0, pitch_um=None)


def prediction_type_of(config: GeneConfig) -> PredictionType:
    """Return what the network predicts: the noise as published, or what a few hundred steps of training learn better.

    An error in the noise is an error a hundred times larger in the clean value where there is hardly any signal.
    """
    if config.sampler in FLOW_SAMPLERS:
        return "velocity"
    return "v_prediction" if config.standardize else "epsilon"


def schedule_of(config: GeneConfig, n_steps: int) -> Schedule:
    """Return the path that the sampler follows in ``n_steps``."""
    if config.sampler in FLOW_SAMPLERS:
        return Schedule.straight(n_steps, FLOW_SCALE)
    return Schedule.from_betas(linear_betas()).respace(n_steps)


def rescaled(values: np.ndarray, shift: float) -> np.ndarray:
    """Return log2(1 + count) ``values`` with counts multiplied by ``2 ** shift``."""
    if shift == 0:
        return values
    return np.log2(1 + np.maximum(np.exp2(values) - 1, 0) * np.float32(2.0**shift))
