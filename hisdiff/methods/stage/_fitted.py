"""The fitted method: expression decoded at the coordinates of a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from hisdiff._device import resolve_device
from hisdiff._geometry import pitch_of
from hisdiff._nn._weights import load_weights, weights_of
from hisdiff._prediction._point import PointField
from hisdiff._section import needed
from hisdiff.methods._base import PointFitted
from hisdiff.methods.stage._frame import Frame
from hisdiff.methods.stage._network import StageNetwork
from hisdiff.methods.stage.config import StageConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff.methods._base import PredictRun

TARGET = 1e4
"""Total that every spot is scaled to before the logarithm."""
# Places decoded at once.
_CHUNK = 8192


class StageField(PointField):
    """Expected counts anywhere in one section; see :class:`~hisdiff.methods.Field`."""

    def __init__(self, fitted: FittedStage, section: Section, library_size: float | None, device: Any) -> None:
        known = fitted.frame.find(section, fitted.genes)
        self.genes = fitted.genes
        self.footprint_um2 = float(np.pi * np.median(needed(section.spots).radius_um) ** 2)
        self._fitted, self._known, self._device = fitted, known, device
        self._spots = cKDTree(known.xy_um)
        self._reach = fitted.config.reach_pitches * pitch_of(known.xy_um)
        own = float(np.median(known.totals[known.totals > 0]))
        self._factor = (own if library_size is None else library_size) / TARGET

    def at(self, locations: Locations) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return expected counts, NaN far from all spots.

        ``generated`` flags locations that no spot was measured at, ``held_out`` spots that were not trained on.
        """
        values = self._fitted.decode(self._fitted.frame.of_locations(self._known, locations), self._device)
        counts = np.expm1(values, out=values) * np.float32(self._factor)
        distance, row = self._spots.query(locations.xy_um)
        if np.isfinite(self._reach):
            counts[distance > self._reach] = np.nan
        generated = distance > 1e-3
        return counts, {"generated": generated, "held_out": ~generated & ~self._known.trained[row]}


@dataclass(frozen=True, eq=False)
class FittedStage(PointFitted):
    """A trained STAGE, which predicts the sections that it was trained on, at heights of their own where they have any.

    Attributes
    ----------
    config
        Settings.
    frame
        The sections it was trained on and the scale of their coordinates, with the split of the spots.
    network
        Encoder and decoder, in evaluation mode.
    position_error_um
        Mean distance per axis between a spot and where the encoder puts it: the blur of the map.
    """

    config: StageConfig
    frame: Frame
    network: StageNetwork
    position_error_um: float

    def __post_init__(self) -> None:
        self.network.eval()

    def decode(self, coordinates: np.ndarray, device: Any) -> np.ndarray:
        """Return log1p of expression scaled to 1e4 at coordinates ``(n, d)``, float32 ``(n, G)``, not below zero."""
        out = np.empty((len(coordinates), len(self.genes)), dtype=np.float32)
        decoder = self.network.decoder.to(device)
        with torch.inference_mode():
            for start in range(0, len(coordinates), _CHUNK):
                part = torch.from_numpy(coordinates[start : start + _CHUNK]).to(device)
                out[start : start + _CHUNK] = decoder(part).clamp_min(0).cpu().numpy()
        return out

    def field_with(self, section: Section, run: PredictRun) -> StageField:
        """Prepare predictions anywhere in a section it was trained on."""
        return StageField(self, section, run.library_size, resolve_device(run.device))

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        settings = {
            "config": self.config.to_dict(),
            "sections": [known.name for known in self.frame.sections],
            "levels_um": [known.z_um for known in self.frame.sections],
            "position_error_um": self.position_error_um,
        }
        return weights_of(self.network, "network.") | self.frame.state(), settings

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedStage:
        """Rebuild what ``state`` described."""
        config = StageConfig.from_dict(settings["config"])
        frame = Frame.from_state(arrays, settings["sections"], settings["levels_um"])
        network = network_for(len(genes), frame.n_dims, config)
        load_weights(network, arrays, "network.")
        return cls(genes, config, frame, network, settings["position_error_um"])


def network_for(n_genes: int, n_dims: int, config: StageConfig) -> StageNetwork:
    """Return a network with the settings of a configuration, not trained."""
    return StageNetwork(
        n_genes,
        n_dims,
        last_relu=config.last_relu,
        decoder_only=config.decoder_only,
        n_directions=config.n_directions,
    )
