"""A fitted joint model: predictions at spots, and a field for anything finer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hisdiff._device import resolve_device
from hisdiff._geometry._grid import bins_touching, overlap
from hisdiff._keys import COUNTS, LOG2
from hisdiff._nn._weights import load_weights, weights_of
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._noise import BlockNoise
from hisdiff._section import needed
from hisdiff._training._calibration import Dispersion
from hisdiff._training._loop import generator_for
from hisdiff.methods._base import BaseFitted
from hisdiff.methods.xfuse._model import Covariate, XFuseModel
from hisdiff.methods.xfuse._render import Canvas, box_means
from hisdiff.methods.xfuse._slides import Slide
from hisdiff.methods.xfuse.config import XFuseConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hisdiff._json import State
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff.methods._base import PredictRun

# Counts drawn for every draw of the expected ones: the mean of log2(1 + count) needs more than one.
_COUNTINGS = 4
_EFFECTS, _COUNTING = 1, 2  # keep the noise of genes, of counting and of pixels apart
"""Streams of random numbers."""


@dataclass(frozen=True, eq=False)
class FittedXFuse(BaseFitted):
    """A fitted joint model.

    Attributes
    ----------
    config, model
        Settings and network.
    footprint_um2
        Area of the median training spot.
    log2_size
        log2 of the median total count over the panel of a section without effects of its own.
    known
        By what training sections are known by (``digest_of``): their number and library size.
    dispersion
        Of the counts of training spots around their predictions.
    """

    config: XFuseConfig
    model: XFuseModel
    footprint_um2: float
    log2_size: float
    known: Mapping[str, tuple[int, float]]
    dispersion: Dispersion | None = None

    def __post_init__(self) -> None:
        self.model.eval()

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return the mean over draws of all latent variables and of the counts given them.

        Each draw has several countings; in units ``"counts"`` the mean is that of expected counts.
        """
        field = self.field_with(section, run)
        exposure = field.exposure(locations)
        draws, mean = DrawAccumulator(run.units, run.keep_draws), np.zeros((len(locations), len(self.genes)))
        noise = BlockNoise.at(run.seed, locations)
        for k in range(run.n_draws):
            rate, odds, factor = field.rates(exposure[k], k)
            if run.units == COUNTS:
                mean += rate * odds * factor
            n_countings = 1 if run.units == COUNTS else _COUNTINGS
            values = np.empty((n_countings, *rate.shape))
            for row, generator in enumerate(noise.generators(k, _COUNTING)):
                levels = generator.gamma(rate[row], size=values[:, row].shape)
                values[:, row] = np.log2(1 + generator.poisson(levels * odds * factor))
            draws.add(values[0])
            if run.units == LOG2:
                mean += values.mean(axis=0)
        result = draws.result(self.genes)
        return replace(result, mean=(mean / run.n_draws).astype(np.float32))

    def field_with(self, section: Section, run: PredictRun) -> PixelField:
        """Prepare predictions finer than the spots: draws of the latent variables of the whole section."""
        if section.image is None:
            raise ValueError(f"XFuse predicts from an image, and section {section.name!r} has none.")
        slide = Slide.of(section, self.config.image_mpp, self.config.step_px)
        canvas = Canvas(self.model.to(resolve_device(run.device)), slide, run.n_draws, run.seed)
        return PixelField(self, canvas, self._trained_on(section), self._factor(section, run.library_size))

    def profiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Return log2 of each metagene's expression over the mean of all, and its posterior deviation, ``(K, G)`` each."""
        normal = self.model.metagenes.normal
        gamma = normal.mean.detach().cpu().numpy() / np.log(2)
        return gamma - gamma.mean(axis=0), normal.stddev.detach().cpu().numpy() / np.log(2)

    def _trained_on(self, section: Section) -> int | None:
        """Return the number of a section among those of the training, or None."""
        found = self.known.get(digest_of(section))
        return None if found is None else found[0]

    def _factor(self, section: Section, library_size: float | None) -> float:
        """Return what expected counts are multiplied by: the library size wanted over that which the model has for the section."""
        found = self.known.get(digest_of(section))
        wanted = section.library_size if library_size is None and found is None else library_size
        return 1.0 if wanted is None else float(wanted / 2.0 ** (self.log2_size if found is None else found[1]))

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        arrays = weights_of(self.model, "model.")
        if self.dispersion is not None:
            arrays |= self.dispersion.arrays()
        settings = {
            "config": self.config.to_dict(),
            "n_metagenes": self.model.n_metagenes,
            "n_sections": self.model.n_sections,
            "covariates": [[c.name, list(c.levels), list(c.codes)] for c in self.model.covariates],
            "footprint_um2": self.footprint_um2,
            "log2_size": self.log2_size,
            "known": {name: list(of) for name, of in self.known.items()},
        }
        return arrays, settings

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedXFuse:
        """Rebuild what ``state`` described."""
        config = XFuseConfig.from_dict(settings["config"])
        covariates = [Covariate(name, tuple(levels), tuple(codes)) for name, levels, codes in settings["covariates"]]
        model = XFuseModel(config, len(genes), settings["n_metagenes"], settings["n_sections"], covariates)
        load_weights(model, arrays, "model.")
        known = {name: (int(of[0]), float(of[1])) for name, of in settings["known"].items()}
        sizes = settings["footprint_um2"], settings["log2_size"]
        return cls(genes, config, model, *sizes, known, Dispersion.from_arrays(arrays))


class PixelField:
    """Draws of the expected counts anywhere in a section; see :class:`~hisdiff.methods.Field`.

    One draw has one value of everything that concerns genes, and one image of latent variables.
    """

    fitted_to_section = False

    def __init__(self, fitted: FittedXFuse, canvas: Canvas, trained_on: int | None, factor: float) -> None:
        self.genes, self.footprint_um2, self.n_draws = fitted.genes, fitted.footprint_um2, canvas.n_draws
        self.dispersion = fitted.dispersion
        self._canvas, self._factor, self._mpp = canvas, factor, fitted.config.image_mpp
        self._genes = [self._draw_genes(k, trained_on) for k in range(canvas.n_draws)]

    @torch.no_grad()
    def _draw_genes(self, k: int, trained_on: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return profiles ``(K, G)`` and ``exp(logit)`` ``(G,)`` of one draw; a new section has no effects of its own."""
        model = self._canvas.model
        device = model.baseline_.device
        effects = model.effects(generator_for(self._canvas.seed, k, _EFFECTS, device))
        profile, logit = model.baseline + effects.metagenes, model.logit
        if trained_on is not None:
            profile, logit = profile + effects.rate[trained_on], logit + effects.logit[trained_on]
        return profile.exp().cpu().numpy(), logit.exp().cpu().numpy()

    def mean(self, bins: Locations) -> None:
        """Return None: the mean of draws is all there is."""

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield the expected counts of a footprint, one draw after the other, float32 ``(n, G)``."""
        area = self.footprint_um2 / self._mpp**2
        for k, density in enumerate(self.densities(bins)):
            profile, odds = self._genes[k]
            yield ((density @ profile) * odds * (area * self._factor)).astype(np.float32)

    def densities(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield scale times activity, the mean over the pixels of each bin, one draw after the other, ``(n, K)``."""
        if not len(bins):
            for _ in range(self.n_draws):
                yield np.empty((0, self._canvas.model.n_metagenes))
            return
        side = needed(bins.bin_um) / self._mpp
        corner = needed(bins.array_ij) * side
        first = np.floor(corner.min(axis=0) + 1e-9).astype(int)
        size = np.ceil(corner.max(axis=0) + side - 1e-9).astype(int) - first
        maps = self._canvas.window(tuple(first.tolist()), tuple(size.tolist()))
        near = np.clip(corner - first, 0, size)
        boxes = np.concatenate([near, np.minimum(near + side, size)], axis=1)
        for k in range(self.n_draws):
            yield box_means(maps[k], boxes).T

    def exposure(self, locations: Locations) -> np.ndarray:
        """Return scale times activity summed over the pixels of each footprint, ``(draws, n, K)``.

        A footprint that reaches over the edge of the image is taken to go on as it is inside.
        """
        ij = bins_touching(locations, self._mpp)
        share = overlap(locations, ij, self._mpp)
        out = np.zeros((self.n_draws, len(locations), self._canvas.model.n_metagenes))
        covered = np.zeros(len(locations))
        tile = 256
        _, which = np.unique(ij // tile, axis=0, return_inverse=True)
        for number in range(int(which.max(initial=-1)) + 1):
            columns = np.flatnonzero(which.ravel() == number)
            first = ij[columns].min(axis=0)
            size = ij[columns].max(axis=0) + 1 - first
            inside = ij[columns] - first
            maps = self._canvas.window(tuple(first.tolist()), tuple(size.tolist()))[..., inside[:, 0], inside[:, 1]]
            part = share[:, columns]
            covered += part @ np.isfinite(maps[0, 0])
            for k in range(self.n_draws):
                out[k] += part @ np.nan_to_num(maps[k]).T
        area = np.asarray(share.sum(axis=1)).ravel()
        return out * np.where(covered > 0, area / np.maximum(covered, 1e-9), 0)[:, None]

    def rates(self, exposure: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the rates of a draw ``(n, G)``, mean over rate ``(G,)``, and the factor of library size."""
        profile, odds = self._genes[k]
        return exposure @ profile + 1e-8, odds, self._factor


def digest_of(section: Section) -> str:
    """Return what a section is known by: its name and where its spots are."""
    if section.spots is None:
        return section.name
    places = np.sort(np.round(section.spots.xy_um * 10).astype(np.int64) @ np.array([1 << 32, 1]))
    return f"{section.name}:{hashlib.blake2b(np.ascontiguousarray(places).tobytes(), digest_size=8).hexdigest()}"
