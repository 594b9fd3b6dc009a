"""Settings of the method `hisdiff`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from hisdiff._check import listing, one_of, positive
from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._training._config import Config
from hisdiff._training._context import Scaling
from hisdiff._training._loop import TrainingOptions

Denoiser = Literal["mlp", "dit"]
_PRESETS = ("fast", "dit", "paper")


@dataclass(frozen=True, slots=True)
class HisDiffConfig(Config):
    """Settings of the method `hisdiff`.

    Attributes
    ----------
    denoiser
        ``"mlp"``: flow matching over expression factors around a closed-form conditional mean, counts on top.
        ``"dit"``: diffusion over the gene vector with one token per gene and attention to the surroundings.
    scalings
        How embeddings are scaled; ``"mlp"`` averages over them, ``"dit"`` takes the first.
    standardize
        ``"dit"``: whether genes are standardised and the library size is part of the condition.
    n_components
        ``"mlp"``: principal components of the embedding that the mean depends on.
    linear, gammas, penalties, n_landmarks
        ``"mlp"``: weight of the linear kernel beside the Gaussian one; widths and penalties to choose from, by
        correlation on left-out tissue; spots that carry the kernel at most.
    n_factors, n_condition
        ``"mlp"``: factors of what the mean leaves, and leading components of the predicted mean that their flow sees.
    n_members
        ``"mlp"``: networks whose draws are pooled.
    width, depth, heads
        Of the denoiser; ``heads`` of attention for ``"dit"``.
    dropout, condition_dropout
        ``"mlp"``: part of the hidden values, and of the condition's, that is set to zero in training.
    fine
        ``"mlp"``: whether it is also learned how expression is spread inside spots, for predictions finer than they are;
        without it, or where the encoder has no dense form, every bin is predicted like a spot around it.
    n_blocks
        Blocks of tissue that a single training section is cut into for validation.
    sampler, n_steps
        How draws are made by default.
    train_steps, batch_size, learning_rate, weight_decay, warmup, ema, clip, precision, validate_every, patience
        See ``TrainingOptions``.
    """

    method_name: ClassVar[str] = "hisdiff"

    denoiser: Denoiser = "mlp"
    scalings: tuple[Scaling, ...] = ("raw", "standardized", "both")
    standardize: bool = True
    n_components: int = 64
    linear: float = 0.3
    gammas: tuple[float, ...] = (0.3, 0.6, 1.5)
    penalties: tuple[float, ...] = (0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0)
    n_landmarks: int = 1000
    n_factors: int = 16
    n_condition: int = 6
    n_members: int = 4
    width: int = 64
    depth: int = 2
    heads: int = 8
    dropout: float = 0.2
    condition_dropout: float = 0.3
    fine: bool = True
    n_blocks: int = 5
    sampler: str = "heun"
    n_steps: int = 6
    train_steps: int = 300
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 20
    ema: float = 0.98
    clip: float | None = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    validate_every: int = 25
    patience: int | None = 4

    def __post_init__(self) -> None:
        one_of(self.denoiser, get_args(Denoiser), "denoiser")
        one_of(self.sampler, SAMPLERS, "sampler")
        if self.denoiser == "mlp" and self.sampler == "ddpm":
            raise ValueError(
                "sampler 'ddpm' adds noise at every step, which the flow of denoiser 'mlp' has no place for; one of "
                f"{listing(name for name in SAMPLERS if name != 'ddpm')} follows it."
            )
        for name in ("scalings", "gammas", "penalties"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, (str, int, float)) else tuple(value)
            if not value:
                raise ValueError(f"{name} of the hisdiff configuration is empty; there has to be a value to choose.")
            object.__setattr__(self, name, value)
        for scaling in self.scalings:
            one_of(scaling, get_args(Scaling), "scalings")
        for name in ("n_components", "n_landmarks", "n_factors", "n_condition", "n_members"):
            positive(getattr(self, name), name, integer=True)
        for name in ("width", "depth", "heads", "n_blocks", "n_steps"):
            positive(getattr(self, name), name, integer=True)
        if self.denoiser == "dit" and self.width % self.heads:
            raise ValueError(
                f"A width of {self.width} does not split into {self.heads} heads; heads has to divide width."
            )
        for name in ("gammas", "penalties"):
            for value in getattr(self, name):
                positive(value, name)
        for name in ("dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is from 0 to below 1, not {getattr(self, name)!r}.")
        if self.linear < 0:
            raise ValueError(f"linear is zero or above, not {self.linear!r}.")
        self.training()

    def training(self) -> TrainingOptions:
        """Return the settings of the training loop."""
        return TrainingOptions(
            n_steps=self.train_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            ema=self.ema,
            precision=self.precision,
            validate_every=self.validate_every,
            patience=self.patience,
        )

    @classmethod
    def preset(cls, name: str) -> HisDiffConfig:
        """Return the configuration of a name.

        ``"fast"``, the default: seconds to a few minutes on two cores. ``"paper"``: the published setting in full (raw
        log2 targets, 12 blocks of width 384, 1000 ancestral steps), for a GPU. ``"dit"``: the published network made
        small, with standardised genes, library size and fewer steps.
        """
        one_of(name, _PRESETS, f"preset of method {cls.method_name!r}")
        if name == "fast":
            return cls()
        # 2000 epochs of batch 128 over the sections of the study are some 150,000 steps.
        paper = cls(
            denoiser="dit",
            scalings=("raw",),
            standardize=False,
            width=384,
            depth=12,
            heads=12,
            dropout=0.0,
            condition_dropout=0.0,
            sampler="ddpm",
            n_steps=1000,
            train_steps=150_000,
            batch_size=128,
            learning_rate=1e-4,
            weight_decay=0.0,
            warmup=0,
            ema=0.0,
            clip=None,
            validate_every=1000,
            patience=None,
        )
        if name == "paper":
            return paper
        return replace(
            paper,
            scalings=("standardized",),
            standardize=True,
            width=64,
            depth=3,
            heads=4,
            sampler="dpm++2m",
            n_steps=20,
            train_steps=400,
            learning_rate=1e-3,
            ema=0.98,
            clip=1.0,
            warmup=20,
            validate_every=50,
            patience=3,
        )
