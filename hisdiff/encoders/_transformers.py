"""Encoders that come as models of the transformers library."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hisdiff.encoders._hub import fetch_weights
from hisdiff.encoders._tokens import Tokens
from hisdiff.encoders._torch import TorchEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from hisdiff.encoders._recipes import Recipe


def from_recipe(recipe: Recipe, free: Sequence[str]) -> TorchEncoder:
    """Return an encoder of the hub; its files are fetched, or the reason why they cannot be is raised, at once."""
    try:
        import transformers  # noqa: F401
    except ImportError as err:
        raise ImportError(
            f"Encoder {recipe.spec.name!r} needs the package transformers: pip install 'hisdiff[hf]'."
        ) from err
    weights, commit = fetch_weights(
        recipe.repo, ("model.safetensors",), recipe.spec.name, free, gated=recipe.spec.gated
    )
    fetch_weights(recipe.repo, ("config.json",), recipe.spec.name, free, gated=recipe.spec.gated)
    spec = replace(recipe.spec, revision=commit[:12])
    tokens = None if recipe.token_px is None else Tokens(recipe.token_dim, recipe.token_px, _patch_tokens)
    return TorchEncoder(spec, partial(_build, str(weights.parent)), _cls, *recipe.colors, tokens)


def _build(folder: str) -> torch.nn.Module:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder)


def _cls(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return network(batch).last_hidden_state[:, 0]


def _patch_tokens(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return network(batch).last_hidden_state[:, 1:]
