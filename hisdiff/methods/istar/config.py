"""Settings of the superpixel network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from hisdiff._check import one_of, positive
from hisdiff._training._config import TrainingConfig

_ROWS_PER_STEP = 16  # the published batch is a sixteenth of the spots, up to 128


@dataclass(frozen=True, slots=True)
class IStarConfig(TrainingConfig):
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
    max_steps, max_epochs
        Steps of each network, or passes over the spots; both None for 400 passes, as published.
    footprint_sample
        Superpixels of each footprint that a step looks at, drawn in proportion to their area; None for all of them.
    reference_compat
        Follow the published code where it differs: raw embedding, footprints that are discs of whole superpixels around
        a rounded centre, counts that are not brought to a common library size.
    """

    method_name: ClassVar[str] = "istar"
    presets: ClassVar[tuple[str, ...]] = ("fast", "paper")
    unused: ClassVar[frozenset[str]] = frozenset({"patience"})
    own_epochs: ClassVar[int | None] = 400

    superpixel_um: float = 8.0
    n_members: int = 5
    width: int = 256
    n_components: int | None = 64
    min_batch: int = 32
    footprint_sample: int | None = 8
    reference_compat: bool = False
    max_steps: int | None = 300
    learning_rate: float = 2e-3
    clip: float | None = None

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        for name in ("n_members", "width", "min_batch"):
            positive(getattr(self, name), name, integer=True)
        for name in ("n_components", "footprint_sample"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), name, integer=True)
        positive(self.superpixel_um, "superpixel_um")

    def for_spots(self, n_spots: int) -> IStarConfig:
        """Return the settings with the batches that suit a number of spots."""
        batch = min(self.batch_size, max(n_spots // _ROWS_PER_STEP, min(self.min_batch, n_spots)))
        return replace(self, batch_size=batch)

    @classmethod
    def preset(cls, name: str) -> IStarConfig:
        """Return the configuration of a name.

        ``"fast"``, the default: principal components, few large steps, and a sample of each footprint per step.
        ``"paper"``: the published sizes and 400 epochs, with footprints by area and standardised features;
        ``{"preset": "paper", "reference_compat": True}`` for the published treatment of these as well.
        """
        one_of(name, cls.presets, f"preset of method {cls.method_name!r}")
        if name == "fast":
            return cls()
        return cls(n_components=None, min_batch=1, learning_rate=1e-4, max_steps=None, footprint_sample=None)
