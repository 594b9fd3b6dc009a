"""Encoders on the Hugging Face hub: where they are and how each wants to be built, fed and read.

Sources: the model cards of the repositories named below. Patches come at the encoder's own pixel size, so that of a
card's preprocessing only the normalisation remains; GigaPath's 256 px at 0.5 um, of which it sees the inner 224 px,
are 224 px at 0.5 um.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hisdiff.encoders._base import EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_H_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_TOWER_TOKENS = 768

_NC_ND = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True)
class Recipe:
    """One encoder on the hub.

    Attributes
    ----------
    spec
        Facts about it; the revision is that of the weights once these are at hand.
    repo
        ``"owner/name"`` on the hub.
    architecture
        Name in timm, or None for a transformers model.
    kwargs
        For ``timm.create_model``; ``mlp_layer`` and ``act_layer`` are names in ``timm.layers`` and ``torch.nn``.
    colors
        Mean and standard deviation of the three colours.
    pool
        ``"own"``: what the network returns (the CLS token of a ViT); ``"cls+mean"``: the CLS token joined with the mean
        of the patch tokens.
    token_px
        Side of a token in pixels, or None for a network without tokens.
    image_tower
        Whether the network is the image tower of CONCH, whose weights come with those of a model of language.
    """

    spec: EncoderSpec
    repo: str
    architecture: str | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    colors: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    pool: Literal["own", "cls+mean"] = "own"
    token_px: int | None = 14
    image_tower: bool = False

    @property
    def token_dim(self) -> int:
        """Length of a token's vector."""
        if self.image_tower:
            return _TOWER_TOKENS
        return self.spec.dim // 2 if self.pool == "cls+mean" else self.spec.dim


def _spec(name: str, dim: int, licence: str, *, gated: bool, derivatives: bool | None) -> EncoderSpec:
    return EncoderSpec(name, "hub", dim, 224, 0.5, licence, gated, derivatives)


_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU}
_DINOV2 = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}

_RECIPES = (
    Recipe(
        _spec("uni", 1024, _NC_ND, gated=True, derivatives=False),
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        token_px=16,
    ),
    Recipe(
        _spec("uni2-h", 1536, _NC_ND, gated=True, derivatives=False),
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "init_values": 1e-5,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
    ),
    Recipe(
        _spec("h-optimus-0", 1536, "Apache-2.0", gated=False, derivatives=True),
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        _DINOV2,
        _H_OPTIMUS,
    ),
    Recipe(
        _spec("h-optimus-1", 1536, _NC_ND, gated=True, derivatives=False),
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        _DINOV2,
        _H_OPTIMUS,
    ),
    Recipe(
        _spec("h0-mini", 1536, _NC_ND, gated=True, derivatives=False),
        "bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        {**_DINOV2, "mlp_ratio": 2.66667 * 2, **_SWIGLU},
        _H_OPTIMUS,
        "cls+mean",
    ),
    Recipe(
        _spec("virchow", 2560, "Apache-2.0", gated=True, derivatives=True),
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        _VIRCHOW,
        pool="cls+mean",
    ),
    Recipe(
        _spec("virchow2", 2560, _NC_ND, gated=True, derivatives=False),
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        {**_VIRCHOW, "reg_tokens": 4},
        pool="cls+mean",
    ),
    Recipe(
        _spec("gigapath", 1536, "Apache-2.0 with conditions", gated=True, derivatives=None),
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        {**_DINOV2, "patch_size": 16, "mlp_ratio": 5.33334},
        token_px=16,
    ),
    Recipe(
        EncoderSpec("conch", "hub", 512, 448, 0.25, _NC_ND, gated=True, derivatives=False),
        "MahmoodLab/CONCH",
        "vit_base_patch16_224",
        {"img_size": 448, "dynamic_img_size": True},
        _CLIP,
        token_px=16,
        image_tower=True,
    ),
    Recipe(
        _spec("phikon-v2", 1024, "Owkin non-commercial", gated=False, derivatives=None),
        "owkin/phikon-v2",
        None,
        token_px=16,
    ),
    Recipe(
        _spec("resnet50", 2048, "Apache-2.0", gated=False, derivatives=True),
        "timm/resnet50.a1_in1k",
        "resnet50",
        token_px=None,
    ),
)

RECIPES: dict[str, Recipe] = {recipe.spec.name: recipe for recipe in _RECIPES}
