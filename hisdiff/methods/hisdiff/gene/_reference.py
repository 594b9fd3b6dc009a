"""Checkpoints of the published HisDiff code, read without unpickling objects, into the modules here."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch

from hisdiff._check import listing
from hisdiff._nn._conditioner import Conditioner
from hisdiff._nn._dit import DiT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

PUBLISHED_HEADS = 12
PUBLISHED_FUSION_HEADS = 8

# Published name -> ours; the first group belongs to the conditioner.
_CONDITIONER = (
    (r"crossAttention_ln\.in_proj_(weight|bias)", r"near.in_proj.\1"),
    (r"crossAttention_ln\.out_proj\.(weight|bias)", r"near.out_proj.\1"),
    (r"crossAttention_gn\.in_proj_(weight|bias)", r"wide.in_proj.\1"),
    (r"crossAttention_gn\.out_proj\.(weight|bias)", r"wide.out_proj.\1"),
    (r"img_ebd\.(0|2)\.(weight|bias)", r"fuse.\1.\2"),
)
_NETWORK = (
    (r"inputEmbedder\.ebd_layer_1", r"tokens.identity"),
    (r"inputEmbedder\.ebd_layer_2\.(0|2)\.(weight|bias)", r"tokens.value.\1.\2"),
    (r"time_embed\.mlp\.(0|2)\.(weight|bias)", r"time.mlp.\1.\2"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)", r"blocks.\1.attention.\2.\3"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.2.\2"),
    (r"blocks\.(\d+)\.adaLN_modulation\.1\.(weight|bias)", r"blocks.\1.modulation.\2"),
    (r"final_layer\.linear\.(weight|bias)", r"head.linear.\1"),
    (r"final_layer\.adaLN_modulation\.1\.(weight|bias)", r"head.modulation.\1"),
)


@dataclass(frozen=True)
class ReferenceSizes:
    """Sizes of a published network; they are read off its parameters, but for the number of heads."""

    n_genes: int
    hidden: int
    depth: int
    heads: int
    mlp_ratio: float
    embedding_dim: int
    fusion_hidden: int


@dataclass(frozen=True)
class ReferenceNetwork:
    """A published checkpoint as modules, in evaluation mode."""

    sizes: ReferenceSizes
    conditioner: Conditioner
    network: DiT


def load_reference_checkpoint(path: str | Path, genes: Sequence[str], *, heads: int | None = None) -> ReferenceNetwork:
    """Read a checkpoint that the published training script saved.

    Parameters
    ----------
    path
        A file such as ``0002000.pt``: a mapping with ``model`` (the weights), and ``opt`` and ``epoch``, which are ignored.
    genes
        The panel it was trained on, in its order.
    heads
        Number of attention heads over the gene tokens, which cannot be inferred from the weights. None for that of a ``config.json`` beside the
        file where there is one, else the published 12.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated, holds pickled objects, is of another network, or of another number of genes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {str(path)!r}.")
    weights = _read_weights(path)
    conditioner_state, network_state = _translate(weights, path)
    sizes = _sizes(conditioner_state, network_state, _heads(path) if heads is None else heads, path)
    names = [str(gene) for gene in genes]
    if len(names) != sizes.n_genes:
        raise ValueError(
            f"Checkpoint {str(path)!r} is of {sizes.n_genes} genes, but {len(names)} were given: {listing(names)}."
        )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"A panel names every gene once; given more than once: {listing(twice)}.")
    conditioner = Conditioner(
        sizes.embedding_dim, sizes.hidden, heads=PUBLISHED_FUSION_HEADS, fusion_hidden=sizes.fusion_hidden
    )
    network = DiT(sizes.n_genes, sizes.hidden, sizes.depth, sizes.heads, sizes.mlp_ratio)
    for module, state in ((conditioner, conditioner_state), (network, network_state)):
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"Checkpoint {str(path)!r} is not of the published network: {error}") from error
    return ReferenceNetwork(sizes, conditioner.eval(), network.eval())


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Checkpoint {str(path)!r} is truncated, or no file of torch.save.")
    try:
        # Mapped, so that the optimiser's state, twice the size of the weights, is not read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise ValueError(
            f"Checkpoint {str(path)!r} holds pickled objects other than tensors, or is damaged: {error}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"Checkpoint {str(path)!r} cannot be read, it is damaged or no file of torch.save: {error}"
        ) from error
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        held = listing(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"Checkpoint {str(path)!r} has no weights under 'model'; it holds {held}.")
    # Saved from a network that was wrapped for several processes.
    return {name.removeprefix("module."): value for name, value in weights.items()}


def _translate(weights: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    conditioner: dict[str, Tensor] = {}
    network: dict[str, Tensor] = {}
    unknown = []
    for name, value in weights.items():
        for rules, state in ((_CONDITIONER, conditioner), (_NETWORK, network)):
            ours = next((re.sub(rule, to, name) for rule, to in rules if re.fullmatch(rule, name)), None)
            if ours is not None:
                state[ours] = value.float()
                break
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"Checkpoint {str(path)!r} is not of the published network; unknown parameters: {listing(unknown)}."
        )
    return conditioner, network


def _heads(path: Path) -> int:
    beside = path.with_name("config.json")
    if not beside.is_file():
        return PUBLISHED_HEADS
    settings = json.loads(beside.read_text())
    return int(settings.get("heads", PUBLISHED_HEADS)) if isinstance(settings, dict) else PUBLISHED_HEADS


def _sizes(conditioner: Mapping[str, Tensor], network: Mapping[str, Tensor], heads: int, path: Path) -> ReferenceSizes:
    try:
        n_genes, hidden = network["tokens.identity"].shape
        fusion_hidden, embedding_dim = conditioner["fuse.0.weight"].shape
        inner = len(network["blocks.0.mlp.0.weight"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"Checkpoint {str(path)!r} is not of the published network: {error}") from error
    depth = len({name.split(".")[1] for name in network if name.startswith("blocks.")})
    return ReferenceSizes(n_genes, hidden, depth, heads, inner / hidden, embedding_dim, fusion_hidden)
