"""Settings of the joint model of image and counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from hisdiff._check import one_of, positive
from hisdiff._training._config import TrainingConfig

if TYPE_CHECKING:
    from hisdiff._json import Plain

Strategy = Literal["split", "extra", "none"]
Start = Literal["single", "profiles"]


@dataclass(frozen=True, slots=True)
class XFuseConfig(TrainingConfig):
    """Settings of XFuse.

    Attributes
    ----------
    image_mpp
        Micrometres per pixel of the reduced image, which is the resolution of the model.
    levels, channels
        Resolutions of the latent variables, each half of the one before, and channels of the finest; they double with
        each level.
    patch_px
        Side of the patches that training looks at, ``batch_size`` of them per step.
    image_weight
        What the image counts for against the expression; 1 as published. Less of it leaves more of a short training
        for the expression.
    start, n_metagenes
        ``"single"``: one metagene, from which the others are split, as published. ``"profiles"``: ``n_metagenes`` that
        start at the factors of the spots' counts.
    strategy
        ``"split"``: now and then every metagene that contributes is split in two, and those that do not are dropped.
        ``"extra"``: ``n_extra`` metagenes that do not contribute are always kept. ``"none"``: only the last pruning.
    grow_every
        Steps between changes of the number of metagenes; none happens in the last such stretch.
    max_metagenes, n_extra
        See ``strategy``.
    jitter
        Standard deviation of the noise that tells a copy of a metagene from its original.
    prune
        Whether metagenes that do not contribute are dropped in the end.
    augment
        Whether patches are turned, sheared, flipped and recoloured.
    covariates
        By name, the level of each training section in order, None where it is not known:
        ``{"patient": ["A", "A", "B", None]}``.
    section_effects
        Whether each of several sections is a level of a covariate of its own.
    precision
        As of every training; likelihoods of counts are in float32 all the same.
    """

    method_name: ClassVar[str] = "xfuse"
    presets: ClassVar[tuple[str, ...]] = ("fast", "paper")
    unused: ClassVar[frozenset[str]] = frozenset({"patience"})

    image_mpp: float = 4.0
    levels: int = 4
    channels: int = 8
    patch_px: int = 128
    image_weight: float = 0.05
    start: Start = "profiles"
    n_metagenes: int = 8
    strategy: Strategy = "none"
    grow_every: int = 200
    max_metagenes: int = 50
    n_extra: int = 4
    jitter: float = 1e-2
    prune: bool = True
    augment: bool = True
    covariates: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    section_effects: bool = True
    max_steps: int | None = 600
    batch_size: int = 4
    learning_rate: float = 2e-3
    clip: float | None = None

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        integers = ("levels", "channels", "patch_px", "n_metagenes", "grow_every")
        for name in (*integers, "max_metagenes", "n_extra"):
            positive(getattr(self, name), name, integer=True)
        for name in ("image_mpp", "image_weight", "jitter"):
            positive(getattr(self, name), name)
        one_of(self.start, ("single", "profiles"), "start")
        one_of(self.strategy, ("split", "extra", "none"), "strategy")
        if self.patch_px % self.step_px:
            raise ValueError(f"patch_px is a multiple of 2 ** (levels - 1) = {self.step_px}, not {self.patch_px}.")
        levels = {name: tuple(of) for name, of in dict(self.covariates).items()}
        if len({len(of) for of in levels.values()}) > 1:
            raise ValueError(
                f"Each covariate has one level for each section; there are { {n: len(of) for n, of in levels.items()} }."
            )
        object.__setattr__(self, "covariates", levels)

    @property
    def step_px(self) -> int:
        """Side of a pixel of the coarsest level, in pixels of the finest."""
        return 2 ** (self.levels - 1)

    @property
    def halo_px(self) -> int:
        """How far a pixel of the result looks, rounded up."""
        return 13 * self.step_px

    @classmethod
    def preset(cls, name: str) -> XFuseConfig:
        """Return the configuration of a name.

        ``"fast"``, the default: four levels of 8 to 64 channels at 4 um per pixel, minutes on two cores. ``"paper"``: the
        published sizes, for a GPU.
        """
        one_of(name, cls.presets, f"preset of method {cls.method_name!r}")
        if name == "fast":
            return cls()
        return cls(
            image_mpp=4.0,
            levels=6,
            channels=16,
            patch_px=768,
            batch_size=4,
            max_steps=20_000,
            learning_rate=3e-4,
            image_weight=1.0,
            start="single",
            n_metagenes=1,
            strategy="split",
            grow_every=1000,
        )

    def to_dict(self) -> Plain:
        """Return settings that JSON can hold."""
        covariates = {name: list(levels) for name, levels in self.covariates.items()}
        return TrainingConfig.to_dict(self) | {"covariates": covariates}
