"""What the settings of the simpler methods have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from hisdiff._check import one_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


@dataclass(frozen=True, slots=True)
class Options:
    """Base of settings that have one preset, ``"fast"``, and plain values only."""

    method_name: ClassVar[str]

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the settings of a name."""
        one_of(name, ("fast",), f"preset of method {cls.method_name!r}")
        return cls()

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Return the settings with the given options, the rest as in ``"fast"``; an unknown name is a ``ValueError``."""
        known = [field.name for field in fields(cls)]
        for name in options:
            one_of(name, known, f"option of method {cls.method_name!r}")
        return replace(cls(), **options)

    def to_dict(self) -> dict[str, Any]:
        """Return settings that JSON can hold."""
        return asdict(self)
