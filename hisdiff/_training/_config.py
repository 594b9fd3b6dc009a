"""Settings: what those of all methods have in common, and those of the training loop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from hisdiff._arguments import check, kinds_of
from hisdiff._check import one_of, positive
from hisdiff._device import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from hisdiff._json import Plain


@dataclass(frozen=True, slots=True)
class Config:
    """Base of a method's settings: a frozen dataclass of plain values and tuples of them, all with defaults.

    Attributes
    ----------
    method_name
        The method they are of.
    presets
        Names of the presets of :meth:`preset`, the default first.
    unused
        Fields of a base class that the method has no use for; a value that is not the default is an error.
    alternatives
        Pairs of fields of which one is None: the one that is given in a mapping takes the place of the other.

    Examples
    --------
    >>> import hisdiff as hd
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, slots=True)
    ... class MineConfig(hd.methods.Config):
    ...     method_name = "mine"
    ...     width: int = 8
    >>> MineConfig.from_dict({"width": 16})
    MineConfig(width=16)
    """

    method_name: ClassVar[str]
    presets: ClassVar[tuple[str, ...]] = ("fast",)
    unused: ClassVar[frozenset[str]] = frozenset()
    alternatives: ClassVar[tuple[tuple[str, str], ...]] = ()

    @property
    def as_published(self) -> bool:
        """Whether genes and patches that are still to be chosen follow the published HisDiff code."""
        return False

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the settings of a name; without an own version of this, all names stand for the defaults."""
        one_of(name, cls.presets, f"preset of method {cls.method_name!r}")
        return cls()

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Return the names of the settings."""
        return tuple(field.name for field in fields(cls) if field.name not in cls.unused)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Return the settings with the given options.

        ``preset`` names what the rest is taken from, the default if it is left out; an unknown name is a ``ValueError``.
        """
        options = dict(options)
        base = cls.preset(options.pop("preset", cls.presets[0]))
        known = ["preset", *cls.settings()]
        kinds = {field.name: field.type if isinstance(field.type, str) else "" for field in fields(cls)}
        for name, value in options.items():
            one_of(name, known, f"setting of {cls.__name__}")
            if isinstance(getattr(base, name), tuple) and isinstance(value, (str, int, float)):
                options[name] = value = (value,)  # a single value stands for a sequence of it
            check(value, kinds_of(kinds[name]), name)
        for pair in cls.alternatives:
            for name, other in (pair, pair[::-1]):
                if options.get(name) is not None:
                    options.setdefault(other, None)
        return replace(base, **options)

    def to_dict(self) -> Plain:
        """Return settings that JSON can hold, from which :meth:`from_dict` makes the same."""
        known = self.settings()
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items() if name in known}
        return {"preset": self.presets[0], **values}


@dataclass(frozen=True, slots=True)
class TrainingConfig(Config):
    """Settings of the training loop, which those of every method that trains build on.

    Attributes
    ----------
    max_steps
        Steps of the optimiser at most; None where ``max_epochs`` says when training ends, or the method has a rule of its own.
    max_epochs
        Passes over all rows at most, instead of ``max_steps``; with either, each epoch is shuffled anew.
    batch_size
        Rows per step at most, over all processes together; batches of an epoch are of equal size to one row.
    learning_rate, weight_decay
        Of AdamW; the rate rises over ``warmup`` steps and, with ``cosine``, falls to zero at the last step.
    warmup
        Steps.
    cosine
        Whether the rate falls.
    clip
        Largest norm of the gradient; None for any.
    ema
        Decay of the exponential moving average of the weights, which is what is kept; 0 for the last weights.
    precision
        Of matrix products: ``"no"`` (float32), ``"tf32"`` (TF32 on CUDA cards, float32 elsewhere), ``"bf16"``, ``"fp16"``, or
        ``"auto"`` (bf16 on CUDA cards that have it, else as ``"tf32"``). Weights and sums are float32 with all of them. Where
        fp16 overflows or a device lacks the type, float32 takes its place, which is logged.
    validate_every
        Steps between rows of the history, and between looks at held-out tissue.
    patience
        Looks without a better score before stopping; None to go on to the last step.
    checkpoint_every
        Steps between checkpoints at most; there is one every half minute as well.
    fused
        Whether the optimiser's step is one kernel: seven times as quick on a CPU, with other rounding.
    """

    method_name: ClassVar[str] = "training"
    alternatives: ClassVar[tuple[tuple[str, str], ...]] = (("max_steps", "max_epochs"),)
    own_epochs: ClassVar[int | None] = None
    """Epochs where neither ``max_steps`` nor ``max_epochs`` is given; None where one of them has to be."""

    max_steps: int | None = None
    max_epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: int = 0
    cosine: bool = False
    clip: float | None = 1.0
    ema: float = 0.0
    precision: Precision = "tf32"
    validate_every: int = 50
    patience: int | None = None
    checkpoint_every: int = 500
    fused: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in self.unused and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name} is not a setting of {type(self).__name__}: its training does not use it."
                )
        for name in ("batch_size", "validate_every", "checkpoint_every"):
            positive(getattr(self, name), name, integer=True)
        for name in ("max_steps", "max_epochs", "patience"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), name, integer=True)
        self._check_length()
        positive(self.learning_rate, "learning_rate")
        if self.clip is not None:
            positive(self.clip, "clip")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay from 0 to below 1, not {self.ema!r}.")
        if self.weight_decay < 0 or self.warmup < 0:
            raise ValueError("weight_decay and warmup are zero or above.")
        one_of(self.precision, get_args(Precision), "precision")

    def _check_length(self) -> None:
        given = {name: getattr(self, name) for name in ("max_steps", "max_epochs")}
        if None not in given.values():
            raise ValueError(
                f"max_steps is {self.max_steps} and max_epochs is {self.max_epochs}; one of them says when training ends, and the other has to be None."
            )
        if not any(given.values()) and self.own_epochs is None and type(self) is not TrainingConfig:
            raise ValueError(f"max_steps and max_epochs of {type(self).__name__} are both None; give one of them.")

    def epoch_steps(self, n_rows: int) -> int:
        """Return the number of steps of an epoch."""
        return -(-n_rows // self.batch_size)

    def steps(self, n_rows: int) -> int:
        """Return the number of steps at most."""
        if self.max_steps is not None:
            return self.max_steps
        epochs = self.max_epochs or self.own_epochs
        if epochs is None:
            raise ValueError("max_steps and max_epochs are None: a training needs to know when it ends.")
        return epochs * self.epoch_steps(n_rows)

    def with_steps(self, n_steps: int) -> Self:
        """Return the same settings for a number of steps."""
        return replace(self, max_steps=n_steps, max_epochs=None)

    def of_training(self) -> Plain:
        """Return the settings of the loop alone."""
        return {field.name: getattr(self, field.name) for field in fields(TrainingConfig)}


def config_from(types: type[Config] | tuple[type[Config], ...], config: Any) -> Any:
    """Return settings from the name of a preset, a mapping of settings, or themselves.

    Parameters
    ----------
    types
        Class of the settings, or one for each model of the method; the first preset of the first is the default.
    config
        What the user gave.
    """
    types = types if isinstance(types, tuple) else (types,)
    if isinstance(config, types):
        return config
    if isinstance(config, str):
        return _with_preset(types, config).preset(config)
    if not hasattr(config, "keys"):
        names = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"config is the name of a preset, a mapping or a {names}, not {type(config).__name__}.")
    kind = _with_preset(types, config.get("preset", types[0].presets[0]))
    for name in config:
        owner = next((other for other in types if name in other.settings()), kind)
        if owner is not kind and name not in kind.settings():
            raise ValueError(
                f"{name!r} is a setting of {owner.__name__} (preset {' or '.join(map(repr, owner.presets))}), not of "
                f"{kind.__name__} (preset {' or '.join(map(repr, kind.presets))})."
            )
    return kind.from_dict(config)


def _with_preset(types: tuple[type[Config], ...], name: str) -> type[Config]:
    """Return the class that has a preset."""
    presets = {preset: kind for kind in types for preset in kind.presets}
    one_of(name, list(presets), f"preset of method {types[0].method_name!r}")
    return presets[name]
