"""What the settings of all methods have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from hisdiff._check import one_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


@dataclass(frozen=True, slots=True)
class Config:
    """Base of settings: plain values and tuples of them. The default is the preset ``"fast"``."""

    method_name: ClassVar[str]

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the settings of a name; without an own version of this there is one, ``"fast"``."""
        one_of(name, ("fast",), f"preset of method {cls.method_name!r}")
        return cls()

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Return the settings with the given options.

        ``preset`` names what the rest is taken from (``"fast"`` by default); an unknown name is a ``ValueError``.
        """
        options = dict(options)
        base = cls.preset(options.pop("preset", "fast"))
        known = ["preset", *(field.name for field in fields(cls))]
        for name in options:
            one_of(name, known, f"option of method {cls.method_name!r}")
        return replace(base, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return settings that JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
