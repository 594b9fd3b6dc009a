"""Sizes of the texture encoder: what filters respond to, and at which pixel sizes they run.

The filters run at one of a fixed set of pixel sizes, each an encoder of its own name: ``texture`` at 0.7 um for scans,
``texture-2um`` and ``texture-4um`` for reduced images, which any finer image can be embedded with too.
"""

from __future__ import annotations

from dataclasses import dataclass

from hisdiff.encoders._base import EncoderSpec

STAINS = 3
KINDS = ("dx", "dy", "density", "slope", "bright", "dark", "line")
"""Responses, each for every stain; see ``_texture_kernels.window_sums``."""
SCALARS = STAINS * (len(KINDS) - 2)
"""Responses that do not change when the image is turned: all but the two derivatives."""
_FEATURES = 2 * SCALARS + SCALARS * (SCALARS - 1) + 2 * STAINS


@dataclass(frozen=True)
class Form:
    """At which pixel size filters run, and over what their responses are averaged.

    Attributes
    ----------
    name, mpp, input_px
        Of the encoder's specification.
    windows_px
        For each level of the pyramid, each half as fine as the one before, the sides of centred windows in pixels of the
        finest level, smallest first.
    dense_um
        For each level of the dense form, side of the square with the variance of its Gaussian window. Coarse responses need
        more ground.
    """

    name: str
    mpp: float
    input_px: int
    windows_px: tuple[tuple[int, ...], ...]
    dense_um: tuple[float, ...]

    @property
    def coarsest_mpp(self) -> float:
        """Micrometres per pixel of the coarsest image to read: enlarged more than this, filters see nothing but blur."""
        return 1.5 * self.mpp

    @property
    def spec(self) -> EncoderSpec:
        """Facts about the encoder."""
        return EncoderSpec(
            name=self.name,
            revision="1",
            dim=_FEATURES * sum(map(len, self.windows_px)),
            input_px=self.input_px,
            mpp=self.mpp,
            licence="BSD-3-Clause",
            gated=False,
            derivatives=True,
        )


# The finest level of scans is the dearest, and what it adds far from the centre is in the neighbours' patches.
FORMS = (
    Form("texture", 0.7, 448, ((224,), *((224, 448),) * 4), (16.0, 16.0, 22.4, 32.0)),
    Form("texture-2um", 2.0, 160, ((40, 80, 160),) * 4, (24.0, 32.0, 32.0)),
    Form("texture-4um", 4.0, 80, ((20, 40, 80),) * 3, (32.0, 48.0)),
)
"""Finest first."""
