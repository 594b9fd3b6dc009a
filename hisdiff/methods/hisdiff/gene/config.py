"""Settings of the gene model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from hisdiff._check import one_of, positive
from hisdiff._diffusion._samplers import FLOW_SAMPLERS, SAMPLERS
from hisdiff._nn._denoisers import DENOISERS
from hisdiff._training._config import TrainingConfig
from hisdiff._training._context import Scaling

if TYPE_CHECKING:
    from hisdiff._device import Precision


@dataclass(frozen=True, slots=True)
class GeneConfig(TrainingConfig):
    """Settings of the gene model, presets ``"dit"`` and ``"paper"``.

    Attributes
    ----------
    denoiser
        Network that denoises the gene vector; ``"dit"`` has one token per gene and attention to the surroundings.
    scaling
        How embeddings are scaled.
    standardize
        Whether genes are standardised and the library size is part of the condition.
    around
        ``"mean"``: draws are the closed-form mean of preset ``"fast"`` and what the network learns of the law of what that leaves,
        counting noise taken out; None: the network learns all of expression, as published.
    with_mean, with_library_size
        Whether the predicted mean, and the library size, are part of the condition beside the embeddings; only ``around`` the mean.
        A few sections have a few library sizes, by which a network knows them apart, so that is not the default.
    with_embedding, dropout
        Whether embeddings are part of the condition, and the part of what is made of them that is set to zero in training; only
        ``around`` the mean. A network learns the embeddings of few spots by heart; the mean, of which it sees a few components, it cannot.
    genes_per_token
        Genes that share a token, grouped by coexpression; 1 is the published network. None is 8, or all of a smaller panel; around
        the mean more, so that there are 16 tokens at most.
    width, depth, heads
        Of the denoiser.
    n_blocks
        Blocks of tissue that a single training section is cut into for validation.
    sampler, n_steps
        How draws are made by default.
    compile
        Whether the parts of the network are compiled (``torch.compile``), for training and for draws; not with ``around``. None: on
        a CUDA card, where 500 steps or more are taken. Where it fails the network goes on as it is, which is logged.
    reference_compat
        Follow the published code where preset ``"paper"`` does not: the loss of the last step by bins of 8-bit images, products
        in TF32, one draw per prediction; genes and patches that are still to be chosen when fitting, too: the first section
        counted twice, patches of 224 pixels.
    """

    method_name: ClassVar[str] = "hisdiff"
    presets: ClassVar[tuple[str, ...]] = ("dit", "paper")

    denoiser: str = "dit"
    scaling: Scaling = "standardized"
    standardize: bool = True
    around: Literal["mean"] | None = None
    with_mean: bool = True
    with_library_size: bool = False
    with_embedding: bool = True
    dropout: float = 0.0
    genes_per_token: int | None = 1
    width: int = 64
    depth: int = 3
    heads: int = 4
    n_blocks: int = 5
    sampler: str = "dpm++2m"
    n_steps: int = 20
    compile: bool | None = None
    reference_compat: bool = False
    max_steps: int | None = 400
    precision: Precision = "auto"
    warmup: int = 20
    ema: float = 0.98
    patience: int | None = 3

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        one_of(self.denoiser, DENOISERS, "denoiser")
        one_of(self.sampler, SAMPLERS, "sampler")
        one_of(self.scaling, get_args(Scaling), "scaling")
        for name in ("width", "depth", "heads", "n_blocks", "n_steps"):
            positive(getattr(self, name), name, integer=True)
        if self.genes_per_token is not None:
            positive(self.genes_per_token, "genes_per_token", integer=True)
        if self.width % self.heads:
            raise ValueError(
                f"A width of {self.width} does not split into {self.heads} heads; heads has to divide width."
            )

        self._check_around()
        if self.reference_compat and self.standardize:
            raise ValueError(
                "reference_compat is for the published setting: {'preset': 'paper', 'reference_compat': True}."
            )
        if self.reference_compat and self.precision == "auto":
            object.__setattr__(self, "precision", "tf32")

    def _check_around(self) -> None:
        if self.around not in ("mean", None):
            raise ValueError(f"around is 'mean' or None, not {self.around!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is from 0 to below 1, not {self.dropout!r}.")
        if self.around is None:
            if not self.with_mean or self.with_library_size:
                raise ValueError(
                    "with_mean and with_library_size are settings of models around the mean: with around=None there is no mean, and the "
                    "library size is part of the condition if standardize=True."
                )
            if not self.with_embedding or self.dropout:
                raise ValueError(
                    "with_embedding and dropout are settings of models around the mean: with around=None embeddings are all that the "
                    "network sees of an image."
                )
            return
        if not self.with_embedding and not (self.with_mean and self.dropout == 0 and not self.with_library_size):
            raise ValueError(
                "with_embedding=False leaves the predicted mean as all that the network sees: it needs with_mean=True, and neither "
                "dropout nor with_library_size."
            )
        if not self.standardize:
            raise ValueError(
                "around='mean' needs standardize=True: a model of raw log2(1 + count), as in preset 'paper', has no mean to start from."
            )
        if self.compile:
            raise ValueError("compile=True is for models of all of expression (around=None), as in preset 'paper'.")
        if self.sampler not in FLOW_SAMPLERS:
            raise ValueError(
                f"around='mean' follows a flow: sampler is one of {list(FLOW_SAMPLERS)}, not {self.sampler!r}."
            )

    @property
    def as_published(self) -> bool:
        """Whether genes and patches that are still to be chosen follow the published code."""
        return self.reference_compat

    @classmethod
    def preset(cls, name: str) -> GeneConfig:
        """Return the configuration of a name.

        ``"dit"``: the published network made small, with several genes per token, around the closed-form mean. ``"paper"``:
        the published setting in full (raw log2 targets, 12 blocks of width 384, 1000 ancestral steps), for a GPU.
        """
        one_of(name, cls.presets, f"preset of method {cls.method_name!r}")
        if name == "dit":
            return cls(around="mean", genes_per_token=None, sampler="heun", n_steps=5, validate_every=25)
        return cls(
            scaling="raw",
            standardize=False,
            width=384,
            depth=12,
            heads=12,
            sampler="ddpm",
            n_steps=1000,
            max_steps=None,
            max_epochs=2000,
            learning_rate=1e-4,
            warmup=0,
            ema=0.0,
            clip=None,
            validate_every=1000,
            patience=None,
        )
