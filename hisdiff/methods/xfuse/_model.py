"""The generative model of image and counts, its approximate posterior, and the evidence lower bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn
from torch.distributions import NegativeBinomial, Normal, kl_divergence

from hisdiff._training._loop import LossOutput
from hisdiff.methods.xfuse._network import Decoder, Encoder, ImageHeads, LatentHeads, block, head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from hisdiff.methods.xfuse._patches import Patches, Slides
    from hisdiff.methods.xfuse.config import XFuseConfig

_MIN_RATE = 1e-8
_START_SD = 0.01
_TEMPERATURE = 0.1
# Parameters are stored divided by these: Adam, whose steps do not depend on scale, then learns them as much faster.
FAST_GENES, FAST_POSTERIORS = 5.0, 2.0


@dataclass(frozen=True)
class Covariate:
    """A categorical covariate: its levels, and the level of each training section (-1: unknown)."""

    name: str
    levels: tuple[str, ...]
    codes: tuple[int, ...]

    @classmethod
    def of(cls, name: str, values: Sequence[str | None]) -> Covariate:
        """Name the levels of some sections."""
        levels = tuple(sorted({value for value in values if value is not None}))
        return cls(name, levels, tuple(-1 if value is None else levels.index(value) for value in values))


class Posterior(nn.Module):
    """Independent normal posteriors ``(n, G)`` under a normal prior of mean 0 and a learned deviation for each gene."""

    def __init__(self, n: int, n_genes: int) -> None:
        super().__init__()
        self.mean_ = nn.Parameter(torch.zeros(n, n_genes))
        self.log_sd_ = nn.Parameter(torch.full((n, n_genes), _START_SD).log() / FAST_POSTERIORS)
        self.log_prior_sd = nn.Parameter(torch.zeros(n_genes))

    @property
    def normal(self) -> Normal:
        """The posterior."""
        return Normal(FAST_POSTERIORS * self.mean_, (FAST_POSTERIORS * self.log_sd_).exp(), validate_args=False)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """Draw, or return the mean where there is no generator."""
        return draw(self.normal.mean, self.normal.stddev, generator)

    def divergence(self) -> Tensor:
        """Return the divergence from the prior of each of the ``n``, ``(n,)``."""
        prior = Normal(torch.zeros_like(self.log_prior_sd), self.log_prior_sd.exp(), validate_args=False)
        return kl_divergence(self.normal, prior).sum(dim=1)


class Effects(NamedTuple):
    """One draw of everything that concerns genes.

    Attributes
    ----------
    metagenes
        ``(K, G)``, log.
    rate, logit
        ``(S, G)``: effect of each section on log rate and on the logit.
    """

    metagenes: Tensor
    rate: Tensor
    logit: Tensor


class Maps(NamedTuple):
    """Outputs of the model for pixels.

    Attributes
    ----------
    activity
        ``(b, K, h, w)``, which sum to 1.
    scale
        ``(b, h, w)``.
    """

    activity: Tensor
    scale: Tensor


class XFuseModel(nn.Module):
    """The model.

    Parameters
    ----------
    config
        Sizes.
    n_genes, n_metagenes, n_sections
        Numbers; ``n_sections`` of training sections.
    covariates
        With the level of each training section.
    """

    def __init__(
        self, config: XFuseConfig, n_genes: int, n_metagenes: int, n_sections: int, covariates: Sequence[Covariate] = ()
    ) -> None:
        super().__init__()
        channels = [config.channels * 2**i for i in range(config.levels)]
        first = channels[0]
        self.config, self.covariates, self.n_sections = config, tuple(covariates), n_sections
        self.encoder, self.latent_heads = Encoder(channels), LatentHeads(channels)
        self.decoder, self.image_heads = Decoder(channels), ImageHeads(first)
        self.scale_head, self.mixer = head(first, 1), block(first, first, 1)
        self.metagene_weight = nn.Parameter(torch.randn(n_metagenes, first) / first**0.5)
        self.metagene_bias = nn.Parameter(torch.zeros(n_metagenes))
        self.baseline_ = nn.Parameter(torch.zeros(n_genes))
        self.logit_ = nn.Parameter(torch.zeros(n_genes))
        self.metagenes = Posterior(n_metagenes, n_genes)
        self.rate_effects = nn.ModuleList([Posterior(len(c.levels), n_genes) for c in covariates])
        self.logit_effects = nn.ModuleList([Posterior(len(c.levels), n_genes) for c in covariates])
        self.unknown = nn.ParameterList([torch.zeros(n_sections, len(c.levels)) for c in covariates])

    @property
    def n_metagenes(self) -> int:
        """How many metagenes there are."""
        return len(self.metagene_bias)

    @property
    def baseline(self) -> Tensor:
        """``(G,)`` log rate of the genes at scale 1."""
        return FAST_GENES * self.baseline_

    @property
    def logit(self) -> Tensor:
        """``(G,)``."""
        return FAST_GENES * self.logit_

    # From images to maps

    def posterior(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return mean and standard deviation of the latent variables of images ``(b, 3, h, w)``, by level."""
        return self.latent_heads(self.encoder(image))

    def hidden(self, latent: Sequence[Tensor]) -> Tensor:
        """Return the finest hidden tensor."""
        return self.decoder(latent)

    def maps(self, hidden: Tensor) -> Maps:
        """Return activities and scale, in float32."""
        features = self.mixer(hidden).float()
        logits = torch.einsum("bchw,kc->bkhw", features, self.metagene_weight.float())
        logits = logits + self.metagene_bias.float()[:, None, None]
        return Maps(logits.softmax(dim=1), nn.functional.softplus(self.scale_head(hidden)[:, 0].float()))

    # Genes

    def effects(self, generator: torch.Generator | None) -> Effects:
        """Draw what concerns genes, or return the means where there is no generator."""
        # A single metagene cannot be distinguished from the baseline.
        gamma = self.metagenes.sample(generator) if self.n_metagenes > 1 else torch.zeros_like(self.metagenes.mean_)
        rate = torch.zeros(self.n_sections, len(self.baseline), device=gamma.device)
        logit = torch.zeros_like(rate)
        for c, of_rate, of_logit, belief in self._covariates():
            weights = self._levels(c, belief, generator)
            rate = rate + weights @ of_rate.sample(generator)
            logit = logit + weights @ of_logit.sample(generator)
        return Effects(gamma, rate, logit)

    def _covariates(self) -> Iterator[tuple[Covariate, Posterior, Posterior, Tensor]]:
        """Yield each covariate with its effects on rate and logit, and what is believed of unknown levels."""
        for parts in zip(self.covariates, self.rate_effects, self.logit_effects, self.unknown):
            yield cast("tuple[Covariate, Posterior, Posterior, Tensor]", parts)

    def _levels(self, covariate: Covariate, belief: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the level of each section, one-hot ``(S, L)``; what is unknown is drawn, straight through."""
        codes = torch.tensor(covariate.codes, device=belief.device)
        known = nn.functional.one_hot(codes.clamp(min=0), len(covariate.levels)).float()
        noise = torch.zeros_like(belief)
        if generator is not None:
            uniform = torch.rand(belief.shape, generator=generator, device=belief.device).clamp(1e-10, 1 - 1e-7)
            noise = -(-uniform.log()).log()
        soft = ((belief + noise) / _TEMPERATURE).softmax(dim=1)
        hard = nn.functional.one_hot(soft.argmax(dim=1), belief.shape[1]).float()
        return torch.where((codes < 0)[:, None], hard + soft - soft.detach(), known)

    def counts(self, exposure: Tensor, section: Tensor, effects: Effects) -> NegativeBinomial:
        """Return the distribution of counts.

        Parameters
        ----------
        exposure
            ``(n, K)``: scale times activity, summed over the pixels of each observation.
        section
            ``(n,)`` training section of each.
        effects
            A draw.
        """
        profile = (self.baseline + effects.metagenes).exp()
        rate = (exposure @ profile) * effects.rate.exp()[section]
        logit = (self.logit + effects.logit)[section]
        return NegativeBinomial(_MIN_RATE + rate, logits=logit, validate_args=False)

    # The bound

    def elbo(
        self,
        patches: Patches,
        counts: Tensor,
        areas: Tensor,
        n_patches: Sequence[int],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """Return the terms of the evidence lower bound of a batch; over all patches of an epoch they add up to the whole.

        Parameters
        ----------
        patches
            The batch.
        counts, areas
            ``(N, G)`` and ``(N,)`` of all spots of all slides.
        n_patches
            How many patches an epoch has, by section.
        generator
            For the draws; None for the posterior's means.
        """
        posterior = self.posterior(patches.image)
        hidden = self.hidden([draw(mean, sd, generator) for mean, sd in posterior])
        mean, sd = self.image_heads(hidden)
        image = Normal(mean, sd, validate_args=False).log_prob(patches.image.float()).sum(dim=1)
        with torch.autocast(hidden.device.type, enabled=False):
            effects = self.effects(generator)
            expression = self.expression(self.maps(hidden.float()), effects, patches, counts, areas)
            terms = {
                "image": image[patches.seen].sum(),
                "counts": expression.sum(),
                "latent": -torch.stack([_to_standard(m, s) for m, s in posterior]).sum(),
            }
            terms["genes"] = -self._gene_divergence(patches.section, n_patches)
        return terms

    def expression(self, maps: Maps, effects: Effects, patches: Patches, counts: Tensor, areas: Tensor) -> Tensor:
        """Return the log probability of the counts in each patch, ``(b,)``."""
        b, device = len(patches.section), maps.scale.device
        spots = self.counts(self.exposure(maps, patches, areas), patches.section[patches.spot_patch], effects)
        seen = spots.log_prob(counts[patches.spots]).sum(dim=1)
        # Rates add up: all background pixels of a patch are one observation of zeros.
        density = (maps.activity * maps.scale[:, None]).movedim(1, -1).reshape(-1, self.n_metagenes)
        of = patches.background // maps.scale[0].numel()
        dark = torch.zeros(b, self.n_metagenes, device=device).index_add(0, of, density[patches.background])
        empty = self.counts(dark, patches.section, effects)
        zero = torch.zeros(1, device=device)
        nothing = torch.where(dark.sum(dim=1) > 0, empty.log_prob(zero).sum(dim=1), zero)
        return nothing.index_add(0, patches.spot_patch, seen)

    def exposure(self, maps: Maps, patches: Patches, areas: Tensor) -> Tensor:
        """Return scale times activity summed over each spot, ``(n, K)``: the mean over its pixels times its area."""
        density = (maps.activity * maps.scale[:, None]).movedim(1, -1).reshape(-1, self.n_metagenes)
        n, device = len(patches.spots), density.device
        total = torch.zeros(n, self.n_metagenes, device=device).index_add(0, patches.spot, density[patches.pixel])
        size = torch.zeros(n, device=device).index_add(0, patches.spot, torch.ones(len(patches.spot), device=device))
        return total * (areas[patches.spots] / size.clamp(min=1))[:, None]

    def _gene_divergence(self, section: Tensor, n_patches: Sequence[int]) -> Tensor:
        """Return the divergences of metagenes and covariates, as far as they fall to the patches of a batch."""
        total = torch.zeros((), device=section.device)
        if self.n_metagenes > 1:
            total = total + len(section) / sum(n_patches) * self.metagenes.divergence().sum()
        sizes = torch.tensor(n_patches, dtype=torch.float32, device=section.device)
        for c, of_rate, of_logit, belief in self._covariates():
            codes = torch.tensor(c.codes, device=section.device)
            member = nn.functional.one_hot(codes.clamp(min=0), len(c.levels)).float() * (codes >= 0)[:, None]
            share = member[section].sum(dim=0) / (member * sizes[:, None]).sum(dim=0).clamp(min=1)
            total = total + share @ (of_rate.divergence() + of_logit.divergence())
            unknown = section[codes[section] < 0]
            certain = belief.log_softmax(dim=1)
            against = (certain.exp() * (certain + torch.tensor(float(belief.shape[1])).log())).sum(dim=1)
            total = total + (against[unknown] / sizes[unknown]).sum()
        return total


class XFuseLoss(nn.Module):
    """The model with its training slides; batches have ``section`` ``(b,)``."""

    def __init__(self, model: XFuseModel, slides: Slides) -> None:
        super().__init__()
        self.model, self.slides = model, slides

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return minus the bound for a pixel of the batch, of patches that are cut at random."""
        config = self.model.config
        patches = self.slides.sample(batch["section"], config.patch_px, generator, augment=config.augment)
        held = self.slides.on(patches.image.device)
        n_patches = self.slides.n_patches(config.patch_px)
        terms = self.model.elbo(patches, held["counts"][0], held["areas"][0], n_patches, generator)
        pixels = patches.seen.numel()
        weight = {"image": config.image_weight, "latent": config.image_weight}
        total = -torch.stack([weight.get(name, 1.0) * term for name, term in terms.items()]).sum() / pixels
        return LossOutput(total, {name: -term.detach() / pixels for name, term in terms.items()})


def draw(mean: Tensor, sd: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from normal distributions so that gradients pass, or return the mean where there is no generator."""
    if generator is None:
        return mean
    return mean + sd * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)


def _to_standard(mean: Tensor, sd: Tensor) -> Tensor:
    """Return the divergence of normal distributions from the standard one, summed."""
    return kl_divergence(
        Normal(mean, sd, validate_args=False), Normal(torch.zeros_like(mean), torch.ones_like(sd), validate_args=False)
    ).sum()
