"""Settings of the factor model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from hisdiff._check import listing, one_of, positive
from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._training._config import TrainingConfig
from hisdiff._training._context import Scaling


@dataclass(frozen=True, slots=True)
class FactorConfig(TrainingConfig):
    """Settings of the factor model, preset ``"fast"``: seconds to a few minutes on two cores.

    Attributes
    ----------
    scalings
        How embeddings are scaled; the mean is averaged over them.
    n_components
        Principal components of the embedding that the mean depends on.
    linear, gammas, penalties, n_landmarks
        Weight of the linear kernel beside the Gaussian one; widths and penalties that are averaged over, by their error on
        left-out tissue; spots that carry the kernel at most.
    profile
        Weight, from 0 to 1, of the mean fitted to expression with library size taken out, beside that of expression as it is.
    flow
        Whether a flow over factors is trained; without it their scores are normal.
    n_factors, n_condition
        Factors of what the mean leaves, and leading components of the predicted mean that their flow sees.
    n_members
        Networks whose draws are pooled.
    width, depth
        Of each network.
    dropout, condition_dropout
        Part of the hidden values, and of the condition's, that is set to zero in training.
    fine
        Whether it is also learned how expression is spread inside spots, for predictions finer than they are; without
        it, or where the encoder has no dense form, every bin is predicted like a spot around it.
    n_blocks
        Blocks of tissue that a single training section is cut into for validation.
    sampler, n_steps
        How draws are made by default.
    """

    method_name: ClassVar[str] = "hisdiff"

    scalings: tuple[Scaling, ...] = ("raw", "standardized", "both")
    n_components: int = 64
    linear: float = 0.3
    gammas: tuple[float, ...] = (0.3, 0.6, 1.5)
    penalties: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)
    n_landmarks: int = 1000
    profile: float = 0.5
    flow: bool = True
    n_factors: int = 16
    n_condition: int = 6
    n_members: int = 4
    width: int = 64
    depth: int = 2
    dropout: float = 0.1
    condition_dropout: float = 0.1
    fine: bool = True
    n_blocks: int = 5
    sampler: str = "heun"
    n_steps: int = 6
    max_steps: int | None = 1500
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 20
    ema: float = 0.995
    validate_every: int = 50
    patience: int | None = 3
    fused: bool = True

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        one_of(self.sampler, SAMPLERS, "sampler")
        if self.sampler == "ddpm":
            raise ValueError(
                "sampler 'ddpm' adds noise at every step, which the flow of the factor model has no place for; one of "
                f"{listing(name for name in SAMPLERS if name != 'ddpm')} follows it."
            )
        for name in ("scalings", "gammas", "penalties"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, (str, int, float)) else tuple(value)
            if not value:
                raise ValueError(f"{name} of FactorConfig is empty; there has to be a value to choose.")
            object.__setattr__(self, name, value)
        for scaling in self.scalings:
            one_of(scaling, get_args(Scaling), "scalings")
        for name in ("n_components", "n_landmarks", "n_factors", "n_condition", "n_members"):
            positive(getattr(self, name), name, integer=True)
        for name in ("width", "depth", "n_blocks", "n_steps"):
            positive(getattr(self, name), name, integer=True)
        for name in ("gammas", "penalties"):
            for value in getattr(self, name):
                positive(value, name)
        for name in ("dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is from 0 to below 1, not {getattr(self, name)!r}.")
        if not 0 <= self.profile <= 1:
            raise ValueError(f"profile is from 0 to 1, not {self.profile!r}.")
        if self.linear < 0:
            raise ValueError(f"linear is zero or above, not {self.linear!r}.")
