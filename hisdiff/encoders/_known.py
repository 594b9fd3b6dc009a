"""The encoder that made an embedding: an object of the user's, or one that a name leads to."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from hisdiff.encoders import _registry

if TYPE_CHECKING:
    from hisdiff._section import FeatureSpec
    from hisdiff.encoders._base import Encoder


class KnownEncoder:
    """The encoder of an embedding, found by what is recorded of it and loaded when it is first needed.

    Parameters
    ----------
    spec
        What is recorded.
    given
        An encoder that the caller offers; it is used where it is the one that the record names.
    """

    def __init__(self, spec: FeatureSpec, given: Encoder | None = None) -> None:
        self.spec = spec
        offered = given if given is not None and _registry.is_of(given.spec, spec) else None
        self._object = offered if offered is not None else _registry.remembered(spec)

    @classmethod
    def of(cls, encoder: Encoder, spec: FeatureSpec) -> KnownEncoder:
        """Return an encoder that is there already."""
        known = cls(spec)
        known._object = encoder
        return known

    @property
    def is_found(self) -> bool:
        """Whether this process has the object, or a name leads to the encoder; told without its weights."""
        return self._object is not None or _registry.is_named(self.spec.encoder)

    @property
    def may_be_dense(self) -> bool:
        """Whether the encoder has a dense form; told without its weights."""
        return _registry.may_be_dense(self.spec.encoder if self._object is None else self._object)

    def check_offer(self, encoder: str | Encoder | None) -> None:
        """Raise where a caller gave another encoder than the one that made the embedding."""
        if encoder is None:
            return
        name = encoder if isinstance(encoder, str) else f"{encoder.spec.name} (revision {encoder.spec.revision})"
        same = (
            _registry.leads_to(encoder, self.spec)
            if isinstance(encoder, str)
            else _registry.is_of(encoder.spec, self.spec)
        )
        if not same:
            raise ValueError(
                f"encoder={name!r} is another than {self.spec.encoder!r} (revision {self.spec.revision}), which made the embedding; "
                f"to change it, embed all sections again with hd.pp.embed and fit a new model."
            )

    def check(self, what: str) -> None:
        """Raise where the encoder cannot be found, before any work that needs it.

        Parameters
        ----------
        what
            What needs it, for the message.
        """
        if not self.is_found:
            raise ValueError(
                f"{what} needs encoder {self.spec.encoder!r} (revision {self.spec.revision!r}, {self.spec.dim} numbers), which is "
                f"neither one of hd.encoders.list() nor an object that this process has seen; pass the object with encoder=, or run hd.pp.embed with it first."
            )

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder; its weights are read when they are first used."""
        if self._object is not None:
            return self._object
        self.check("The embedding of new places")
        found = _registry.get(self.spec.encoder)
        if found.spec.revision != self.spec.revision:
            raise ValueError(
                f"The stored embedding is of {self.spec.encoder!r} revision {self.spec.revision!r}, the encoder at hand is revision "
                f"{found.spec.revision!r}; pass the other one with encoder=, or embed again with hd.pp.embed."
            )
        return found
