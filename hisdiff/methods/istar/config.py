"""Settings of the superpixel network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hisdiff._check import one_of, positive
from hisdiff._training._config import Config
from hisdiff._training._loop import PRECISIONS, Precision, TrainingOptions

_PRESETS = ("fast", "paper")
_ROWS_PER_STEP = 16  # the published batch is a sixteenth of the spots, up to 128


@dataclass(frozen=True, slots=True)
class IStarConfig(Config):
    """Settings of iStar.

    Attributes
    ----------
    superpixel_um
        Side of a superpixel.
    n_members
        Networks of the ensemble; member k starts from seed + k.
    width
        Channels of the hidden layers.
    n_components
        Principal components of the dense embedding that the networks see; None for the embedding itself.
    batch_size
        Most spots per step; never more than a sixteenth of all spots, but at least ``min_batch``.
    min_batch
        Fewest spots per step, where there are as many.
    learning_rate
        Of Adam.
    epochs
        Passes over the spots.
    most_steps
        Steps at most, whatever ``epochs`` says; None for no limit.
    footprint_sample
        Superpixels of each footprint that a step looks at, drawn in proportion to their area; None for all of them.
    reference_compat
        Follow the published code where it differs: raw embedding, footprints that are discs of whole superpixels around
        a rounded centre, counts that are not brought to a common library size.
    precision
        Of the training: ``"no"`` (float32), ``"bf16"`` or ``"fp16"``.
    """

    method_name: ClassVar[str] = "istar"

    superpixel_um: float = 8.0
    n_members: int = 5
    width: int = 256
    n_components: int | None = 64
    batch_size: int = 128
    min_batch: int = 32
    learning_rate: float = 2e-3
    epochs: int = 400
    most_steps: int | None = 300
    footprint_sample: int | None = 8
    reference_compat: bool = False
    precision: Precision = "no"

    def __post_init__(self) -> None:
        for name in ("n_members", "width", "batch_size", "min_batch", "epochs"):
            positive(getattr(self, name), name, integer=True)
        for name in ("n_components", "most_steps", "footprint_sample"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), name, integer=True)
        for name in ("superpixel_um", "learning_rate"):
            positive(getattr(self, name), name)
        one_of(self.precision, PRECISIONS, "precision")

    def training(self, n_spots: int) -> TrainingOptions:
        """Return the settings of the training loop for a number of spots."""
        batch = min(self.batch_size, max(n_spots // _ROWS_PER_STEP, min(self.min_batch, n_spots)))
        steps = max(1, self.epochs * n_spots // batch)
        if self.most_steps is not None:
            steps = min(steps, self.most_steps)
        return TrainingOptions(
            n_steps=steps, batch_size=batch, learning_rate=self.learning_rate, clip=None, precision=self.precision
        )

    @classmethod
    def preset(cls, name: str) -> IStarConfig:
        """Return the configuration of a name.

        ``"fast"``, the default: principal components, few large steps, and a sample of each footprint per step.
        ``"paper"``: the published sizes and 400 epochs, with footprints by area and standardised features;
        ``{"preset": "paper", "reference_compat": True}`` for the published treatment of these as well.
        """
        one_of(name, _PRESETS, f"preset of method {cls.method_name!r}")
        if name == "fast":
            return cls()
        return cls(n_components=None, min_batch=1, learning_rate=1e-4, most_steps=None, footprint_sample=None)
