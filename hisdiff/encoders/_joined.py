"""Several encoders joined into one: the vectors that each gives for a place, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from hisdiff.encoders._anchored import anchored
from hisdiff.encoders._base import DenseSpec, EncoderSpec, dense_spec_of, is_reentrant, precision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Box, ImageSource
    from hisdiff.encoders._base import DenseEncoder, Encoder

JOIN = "+"
"""Between the names of encoders."""


class JoinedEncoder:
    """Encoders that look at the same place, each at its own patch and pixel size.

    A patch is read once, as large as the largest and as fine as the finest that a member was made for; each member sees
    the middle of it, resampled to its own pixels.

    Parameters
    ----------
    members
        Two encoders or more, each once.
    """

    def __init__(self, members: Sequence[Encoder]) -> None:
        specs = [member.spec for member in members]
        names = [spec.name for spec in specs]
        if len(set(names)) < max(len(names), 2):
            raise ValueError(f"Encoders are joined from two different ones or more, not from {names}.")
        side, mpp = max(spec.patch_um for spec in specs), min(spec.mpp for spec in specs)
        allowed = [spec.derivatives for spec in specs]
        pixels = round(side / mpp)
        self.members = tuple(members)
        self.spec = EncoderSpec(
            JOIN.join(names),
            JOIN.join(spec.revision for spec in specs),
            sum(spec.dim for spec in specs),
            pixels,
            side / pixels,
            JOIN.join(dict.fromkeys(spec.licence for spec in specs)),
            any(spec.gated for spec in specs),
            False if False in allowed else None if None in allowed else True,
        )
        self.batch_size = min(getattr(member, "batch_size", 32) for member in members)
        self.precision = JOIN.join(dict.fromkeys(precision_of(member) for member in members))
        self.reentrant = all(is_reentrant(member) for member in members)
        self.dense_spec = self._joined_dense_spec()
        self._images: WeakKeyDictionary[ImageSource, dict[float, ImageSource]] = WeakKeyDictionary()

    def _joined_dense_spec(self) -> DenseSpec | None:
        specs = [dense_spec_of(member) for member in self.members]
        known = [spec for spec in specs if spec is not None]
        if len(known) < len(specs):
            return None
        return DenseSpec(
            JOIN.join(spec.revision for spec in known),
            sum(spec.dim for spec in known),
            min(spec.mpp for spec in known),
            max(spec.patch_um for spec in known),
        )

    def to(self, device: str) -> None:
        """Move the members that can be moved to a device."""
        for member in self.members:
            if hasattr(member, "to"):
                member.to(device)

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Embed patches; see :class:`~hisdiff.encoders.Encoder`."""
        return np.concatenate([member.encode(self._seen_by(member, patches)) for member in self.members], axis=1)

    def _seen_by(self, member: Encoder, patches: np.ndarray) -> np.ndarray:
        whole, size = patches.shape[1], member.spec.input_px
        margin = whole * (1 - member.spec.patch_um / self.spec.patch_um) / 2
        box = margin, margin, whole - margin, whole - margin
        if margin == 0 and size == whole:
            return patches
        resized = [Image.fromarray(patch).resize((size, size), Image.Resampling.BILINEAR, box=box) for patch in patches]
        return np.stack([np.asarray(patch) for patch in resized])

    def encode_dense(self, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
        """Describe the bins of a box; see :class:`~hisdiff.encoders.DenseEncoder`."""
        parts = [
            member.encode_dense(self._at(image, member), box_um, resolution_um) for member in self._dense_members()
        ]
        return np.concatenate(parts, axis=2)

    def _dense_members(self) -> Sequence[DenseEncoder]:
        return self.members  # type: ignore[return-value]  # dense_spec is None where one has no dense form

    def _at(self, image: ImageSource, member: DenseEncoder) -> ImageSource:
        """Return the image at the pixel size of a member; what is read of it is kept for the next box."""
        assert member.dense_spec is not None
        mpp = member.dense_spec.mpp
        if image.mpp == mpp:
            return image
        known = self._images.setdefault(image, {})
        if mpp not in known:
            known[mpp] = anchored(image, mpp)
        return known[mpp]
