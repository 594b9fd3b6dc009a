"""Settings of the method `stage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hisdiff._check import positive
from hisdiff._training._config import TrainingConfig


@dataclass(frozen=True, slots=True)
class StageConfig(TrainingConfig):
    """Settings of STAGE.

    Attributes
    ----------
    max_steps, max_epochs
        Steps of training, or passes over the spots; both None for 2,000 passes, as published.
    n_directions
        Directions of the sliced Wasserstein distance in a step; 1000 in the published code, of the same expectation.
    train_fraction
        Part of the spots that is trained on. The others tell how well expression between spots is recovered; with 1
        that stays unknown.
    last_relu
        Whether encoder and decoder end with a ReLU.
    decoder_only
        Train the decoder alone, on true coordinates: the ablation of the paper.
    section_spacing_um
        Distance of several sections, given from bottom to top and aligned; None where the spots state their height.
    reach_pitches
        Places farther than this from every spot, in distances between spots, are not predicted (NaN).
    """

    method_name: ClassVar[str] = "stage"
    unused: ClassVar[frozenset[str]] = frozenset({"patience", "validate_every"})
    own_epochs: ClassVar[int | None] = 2000

    n_directions: int = 100
    train_fraction: float = 0.8
    last_relu: bool = True
    decoder_only: bool = False
    section_spacing_um: float | None = None
    reach_pitches: float = 2.0
    batch_size: int = 512
    clip: float | None = None
    fused: bool = True

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        positive(self.n_directions, "n_directions", integer=True)
        for name in ("train_fraction", "reach_pitches"):
            positive(getattr(self, name), name)
        if self.batch_size < 3:
            raise ValueError("batch_size is at least 3: batches are normalised, and some are one row smaller.")
        if self.train_fraction > 1:
            raise ValueError(f"train_fraction is above 0 and at most 1, not {self.train_fraction!r}.")
        if self.section_spacing_um is not None:
            positive(self.section_spacing_um, "section_spacing_um")
        for name in ("last_relu", "decoder_only"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, not {getattr(self, name)!r}.")
