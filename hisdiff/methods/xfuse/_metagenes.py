"""How many metagenes there are: which of them contribute, and how they are split and dropped.

The metagenes are the leaves of a forest of binary trees, written as nested pairs of numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hisdiff._training._loop import generator_for
from hisdiff.methods.xfuse._model import Maps, XFuseModel, draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff.methods.xfuse._patches import Slides

Tree = Any  # int | tuple[Tree, Tree]


@torch.no_grad()
def contributions(
    model: XFuseModel, slides: Slides, *, seed: int, n_draws: int = 3, n_patches: int = 64
) -> torch.Tensor:
    """Return what the bound of a patch gains when a metagene is taken away, ``(K,)``; it contributes where that is below 0.

    Latent variables and effects are drawn once for all metagenes, so that only what they do themselves is compared. Of
    slides with very many patches, ``n_patches`` are looked at.
    """
    if model.n_metagenes == 1:
        return -torch.ones(1)
    device = model.baseline_.device
    held = slides.on(device)
    counts, areas = held["counts"][0], held["areas"][0]
    tiles = slides.tiles(model.config.patch_px)
    total = len(tiles)
    kept = torch.randperm(total, generator=generator_for(seed, 0))[:n_patches].sort().values.tolist()
    gain = torch.zeros(model.n_metagenes, device=device)
    model.eval()
    for number in kept:
        patches = type(tiles[number])(*(t.to(device) for t in vars(tiles[number]).values()))
        posterior = model.posterior(patches.image)
        for k in range(n_draws):
            generator = generator_for(seed, 1 + number * n_draws + k, 0, device)
            maps = model.maps(model.hidden([draw(m, s, generator) for m, s in posterior]))
            effects = model.effects(generator)
            full = model.expression(maps, effects, patches, counts, areas).sum()
            for m in range(model.n_metagenes):
                gain[m] += model.expression(without(maps, m), effects, patches, counts, areas).sum() - full
    gain = gain / (len(kept) * n_draws)
    return (gain + model.metagenes.divergence() / sum(slides.n_patches(model.config.patch_px))).cpu()


def without(maps: Maps, metagene: int) -> Maps:
    """Return the maps where the others share what a metagene had."""
    activity = maps.activity.clone()
    activity[:, metagene] = 0
    return Maps(activity / activity.sum(dim=1, keepdim=True).clamp(min=1e-12), maps.scale)


def collapse(tree: Tree, gains: Sequence[float]) -> Tree | None:
    """Return a tree without the leaves that do not contribute; a pair that lost one is the other; None if none is left."""
    if isinstance(tree, int):
        return tree if gains[tree] < 0 else None
    left, right = (collapse(part, gains) for part in tree)
    if left is None or right is None:
        return right if left is None else left
    return (left, right)


def leaves(tree: Tree) -> list[int]:
    """Return the metagenes of a tree."""
    return [tree] if isinstance(tree, int) else [leaf for part in tree for leaf in leaves(part)]


def renamed(tree: Tree, new: dict[int, Tree]) -> Tree:
    """Return a tree with other leaves."""
    return new[tree] if isinstance(tree, int) else tuple(renamed(part, new) for part in tree)


def drop(forest: Sequence[Tree], gains: Sequence[float]) -> list[Tree]:
    """Return a forest of the metagenes that contribute; of the best one where none does."""
    kept = [tree for tree in (collapse(tree, gains) for tree in forest) if tree is not None]
    return kept or [min(range(len(gains)), key=lambda m: gains[m])]


def resized(model: XFuseModel, sources: Sequence[int], *, jitter: float, seed: int) -> XFuseModel:
    """Return a model whose metagene i is a copy of metagene ``sources[i]``; the first copy is exact.

    The copies of one metagene share its activity, so that predictions change by the jitter only.
    """
    device = model.baseline_.device
    made = XFuseModel(model.config, len(model.baseline_), len(sources), model.n_sections, model.covariates).to(device)
    index = torch.tensor(list(sources), device=device)
    state = model.state_dict()
    for name in ("metagene_weight", "metagene_bias", "metagenes.mean_", "metagenes.log_sd_"):
        state[name] = state[name][index].clone()
    times = torch.bincount(index, minlength=model.n_metagenes)[index]
    state["metagene_bias"] = state["metagene_bias"] - times.log()
    generator = generator_for(seed, len(sources), 0, device)
    copy = torch.tensor([source in sources[:i] for i, source in enumerate(sources)], device=device)[:, None]
    for name in ("metagene_weight", "metagenes.mean_"):
        values = state[name]
        noise = torch.randn(values.shape, generator=generator, device=device, dtype=values.dtype)
        state[name] = values + jitter * noise * copy
    made.load_state_dict(state)
    return made


def split(forest: Sequence[Tree], most: int) -> tuple[list[Tree], list[int]]:
    """Split every leaf in two, as long as there are fewer than ``most``.

    Returns the new forest, and for each of its leaves, numbered from 0, the old one that it is a copy of.
    """
    old = [leaf for tree in forest for leaf in leaves(tree)]
    sources = list(old)
    new: dict[int, Tree] = {}
    for number, leaf in enumerate(old):
        if len(sources) < most:
            new[leaf] = (number, len(sources))
            sources.append(leaf)
        else:
            new[leaf] = number
    return [renamed(tree, new) for tree in forest], sources


def keep(forest: Sequence[Tree]) -> tuple[list[Tree], list[int]]:
    """Number the leaves of a forest from 0; return it, and the old number of each."""
    old = [leaf for tree in forest for leaf in leaves(tree)]
    return [renamed(tree, {leaf: i for i, leaf in enumerate(old)}) for tree in forest], old
