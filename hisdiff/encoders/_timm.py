"""Encoders built with timm: those with a recipe, and any model in a local folder."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hisdiff._check import positive
from hisdiff.encoders._base import EncoderSpec
from hisdiff.encoders._conch import ImageTower, scales_branches, tower_weights
from hisdiff.encoders._hub import fetch_weights
from hisdiff.encoders._import_timm import import_timm
from hisdiff.encoders._tokens import Tokens
from hisdiff.encoders._torch import TorchEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._json import Plain
    from hisdiff.encoders._recipes import Recipe

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MPP = 0.5  # of a model folder that names none: 20x, what most pathology encoders are trained at


def own_output(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return what the network returns without its classifier."""
    return network(batch)


def cls_and_mean(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Join the CLS token with the mean of the patch tokens; register tokens stand between them and are left out."""
    tokens = network.forward_features(batch)  # type: ignore[operator]
    patches = tokens[:, network.num_prefix_tokens :]
    return torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=-1)


def patch_tokens(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the tokens of the patches, without those that stand for none."""
    tokens = network.forward_features(batch)  # type: ignore[operator]
    return tokens[:, network.num_prefix_tokens :]


_POOLS = {"own": own_output, "cls+mean": cls_and_mean}


def from_recipe(recipe: Recipe, free: Sequence[str]) -> TorchEncoder:
    """Return an encoder of the hub; its weights are fetched, or the reason why they cannot be is raised, at once."""
    file, commit = fetch_weights(recipe.repo, WEIGHTS, recipe.spec.name, free, gated=recipe.spec.gated)
    spec = replace(recipe.spec, revision=commit[:12])
    tokens = None if recipe.token_px is None else Tokens(recipe.token_dim, recipe.token_px, patch_tokens)
    return TorchEncoder(spec, partial(build_recipe, recipe, file), _POOLS[recipe.pool], *recipe.colors, tokens)


def build_recipe(recipe: Recipe, weights: Path | None) -> torch.nn.Module:
    """Build the network of a recipe, with weights or as it is initialised."""
    timm = import_timm()
    kwargs = dict(recipe.kwargs)
    if "mlp_layer" in kwargs:
        kwargs["mlp_layer"] = getattr(timm.layers, kwargs["mlp_layer"])
    if "act_layer" in kwargs:
        kwargs["act_layer"] = getattr(torch.nn, kwargs["act_layer"])
    state = None if weights is None else _read(weights)
    if recipe.image_tower:
        state = None if state is None else tower_weights(state)
        if state is not None and scales_branches(state):
            kwargs["init_values"] = 1.0
        network: torch.nn.Module = ImageTower(str(recipe.architecture), kwargs, recipe.spec.dim)
    else:
        network = timm.create_model(recipe.architecture, pretrained=False, num_classes=0, **kwargs)
    if state is not None and weights is not None:
        _load(network, state, weights)
    return network


def _read(weights: Path) -> dict[str, torch.Tensor]:
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(weights)
    return torch.load(weights, map_location="cpu", weights_only=True)


def _load(network: torch.nn.Module, state: dict[str, torch.Tensor], weights: Path) -> None:
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "fc."))}  # the classifier's
    try:
        network.load_state_dict(state)
    except RuntimeError as err:
        raise ValueError(f"The weights in {weights} do not fit the network: {err}") from err


def from_folder(name: str, folder: str | Path) -> TorchEncoder:
    """Return an encoder from a folder in timm's layout.

    ``config.json`` holds ``architecture`` and, optionally, ``model_args`` and ``pretrained_cfg`` (``input_size``,
    ``mean``, ``std``), and may hold ``mpp`` (micrometres per pixel, 0.5 without it) and ``licence``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it lacks ``config.json`` or weights.
    ValueError
        If ``config.json`` cannot be read, or the weights do not fit the network.
    """
    folder = Path(folder).expanduser().resolve()
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"Encoder {name!r}: there is no {config_file}; a timm model folder holds one.")
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"Encoder {name!r}: {folder} holds none of {list(WEIGHTS)}.")
    try:
        config = json.loads(config_file.read_text())
        architecture, arguments = config["architecture"], dict(config.get("model_args", {}))
    except (ValueError, KeyError, TypeError) as err:
        raise ValueError(f"Encoder {name!r}: {config_file} is not a timm configuration ({err!r}).") from err
    arguments["num_classes"] = 0
    timm = import_timm()
    if architecture not in timm.list_models():
        raise ValueError(f"Encoder {name!r}: timm {timm.__version__} knows no architecture {architecture!r}.")
    with torch.device("meta"):  # shapes only
        skeleton = timm.create_model(architecture, pretrained=False, **arguments).eval()
        cfg = {**skeleton.pretrained_cfg, **config.get("pretrained_cfg", {})}
        if "img_size" in arguments:
            cfg["input_size"] = (3, arguments["img_size"], arguments["img_size"])
        input_px = int(cfg["input_size"][-1])
        probe = torch.empty(1, 3, input_px, input_px)
        dim = skeleton(probe).shape[-1]
        tokens = _tokens_of(skeleton, probe)
    spec = EncoderSpec(
        name=f"local-dir:{folder}",
        revision=_digest(config_file, weights),
        dim=int(dim),
        input_px=input_px,
        mpp=positive(config.get("mpp", _MPP), f"mpp in {config_file}"),
        licence=str(config.get("licence", "unknown")),
    )
    build = partial(_build_folder, architecture, arguments, weights)
    return TorchEncoder(spec, build, own_output, cfg["mean"], cfg["std"], tokens)


def _tokens_of(network: torch.nn.Module, probe: torch.Tensor) -> Tokens | None:
    """Return where a network's tokens lie, or None where it has none, or none that fill a square."""
    if not hasattr(network, "num_prefix_tokens"):
        return None
    shape = patch_tokens(network, probe).shape
    side = math.isqrt(shape[1]) if len(shape) == 3 else 0
    if side < 2 or side**2 != shape[1] or probe.shape[-1] % side:
        return None
    return Tokens(int(shape[-1]), probe.shape[-1] // side, patch_tokens)


def _build_folder(architecture: str, arguments: Plain, weights: Path) -> torch.nn.Module:
    network = import_timm().create_model(architecture, pretrained=False, **arguments)
    _load(network, _read(weights), weights)
    return network


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:12]
