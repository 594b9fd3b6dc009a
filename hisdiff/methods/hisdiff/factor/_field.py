r"""Predictions finer than the spots, from two models of two scales.

What a spot at a place would measure changes slowly, over the width of a patch; it is asked of the model of spots at nodes 70 um
apart and interpolated. How that is spread inside a spot's footprint is the matter of :class:`LocalRates`. With M the
interpolated expectation of a whole footprint, :math:`\lambda` the local rates, and :math:`\bar\lambda(x)` their mean over a
footprint around x, at the same nodes,

.. math:: r_g(c) = F_g(x_c) \, \frac{\lambda_g(z_c)}{\bar\lambda_g(x_c)} , \qquad
    F_g(x) = M_g(x)^{1 - s} \, \big(\langle M_g \rangle \, \bar\lambda_g(x)\big)^s .

Both models predict the whole footprint, from inputs of different scale, with different errors, so F is a weighted
geometric mean of the two, with the weight s that predicts left-out training spots best; :math:`\langle M \rangle`, the mean
over the section's spots, gives the relative rates a level.

Draws add what the model of spots leaves open as noise that varies smoothly in space, so that a draw is a plausible tissue:
factors, which genes share, over about a spot's width (100 um at most: how fast tissue varies is no matter of the spots), and the spread of
single genes over a third of it. Its variance is such that means over footprints have the variance that was found at spots. The two widths
are assumptions; spots tell nothing of them.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import TYPE_CHECKING

import numpy as np
import shapely

from hisdiff._cores import one_core
from hisdiff._device import resolve_device
from hisdiff._log import part_of_a_step
from hisdiff._prediction._field import SmoothNoise, StdPart
from hisdiff._prediction._following import Following
from hisdiff._prediction._section_effects import MAX_REFERENCES
from hisdiff._prediction._superpixels import Footprints, bin_parts, dense_rasters
from hisdiff._section import Locations, needed
from hisdiff._stats._counting import count_mean, count_rate, latent, rate_moments
from hisdiff._training._smooth import mixed
from hisdiff.methods.hisdiff.factor._nodes import Nodes, NodeValues, all_nodes, around, nodes_around

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from hisdiff._prediction._agreement import Certainty
    from hisdiff._prediction._section_effects import Open, Places
    from hisdiff._section import Section
    from hisdiff._training._calibration import Dispersion
    from hisdiff.methods.hisdiff.factor._local import LocalRates
    from hisdiff.methods.hisdiff.factor._model import FactorModel

_NODE_UM = 70.0
# Of the disc around a node whose rates are compared: what one patch tells, however wide the footprints of the training are.
_MAX_NODE_RADIUS_UM = 50.0
# Spots that tell the level of a section; a hundredth of their spread is left to chance.
_MAX_SPOTS = 10_000
# Octaves by which a bin may differ from the footprint around it.
_MAX_RATIO = 5.0
# A count that is treated as zero.
_MIN = 1e-3
_TINY = 1e-9
# Bins whose rates are computed at a time, so that the dozen arrays of it stay small.
_CHUNK = 8192
# Octaves, sd.
_MAX_SPECKLE = 1.5
_SCORES, _SPECIFIC, _SMOOTH_SCORES = 0, 1, 3
_OUTLINE = Lock()  # a prepared outline is for one thread at a time


@dataclass
class _Bins:
    """What is known of some bins.

    Attributes
    ----------
    center, ratio
        ``(n, G)``, the cohort's mean log2(1 + count) of a footprint, and log2 of the local ratio.
    open, moved
        What the section adds, at nodes of a lattice around the bins, and by how much its mean is that of draws moved.
    places, blend
        The nodes, and csr ``(n, nodes)`` weights of each.
    """

    bins: Locations
    center: np.ndarray
    ratio: np.ndarray
    open: Open
    moved: np.ndarray
    places: Places
    blend: sparse.csr_matrix

    def level(self, rows: slice) -> np.ndarray:
        """Return the mean log2(1 + count) of footprints around bins, the section's own in it."""
        own = self.open.mean
        return self.center[rows] + (own if len(own) == 1 else self.blend[rows] @ own)

    def sd(self, rows: slice, chance: np.ndarray) -> np.ndarray:
        """Return the sd of the level, with this variance ``(G,)`` of what is left to chance."""
        return np.sqrt(self.blend[rows] @ self.open.variance + chance)


class TwoScaleField:
    """Predictions of the fast model at the bins of any grid; see :class:`~hisdiff.methods._protocols.Field`.

    Parameters
    ----------
    model, local
        The model of spots, and the model of bins inside them.
    section
        With image, features and a dense embedding.
    genes, dispersion
        See ``Field``.
    radius_um
        Of a training spot.
    log2_size, n_draws, n_steps, seed, device
        As in ``predict``.
    """

    fitted_to_section = False

    def __init__(
        self,
        model: FactorModel,
        local: LocalRates,
        section: Section,
        *,
        genes: np.ndarray,
        dispersion: Dispersion | None,
        radius_um: float,
        log2_size: float,
        n_draws: int,
        n_steps: int,
        seed: int,
        device: str | None,
    ) -> None:
        self.genes, self.dispersion, self.n_draws = genes, dispersion, n_draws
        self.footprint_um2 = float(np.pi * radius_um**2)
        self._model, self._local, self._section = model, local, section
        self._n_steps, self._seed, self._device = n_steps, seed, device
        self._seen = local.sees(needed(section.dense))
        self._shift = log2_size - model.gauge.log2_size
        spots = section.spots
        # Without spots, how much a section has of each gene is not known.
        self._align, self._level, self._leading = 0.0, None, None
        needed(section.dense).mean.sum()  # what several threads would compute, each for itself
        with one_core():
            self._effects = self._drawn = model.effects(section)
            if spots is not None and len(spots):
                means = model.means(section, spots.take(slice(None, None, -(-len(spots) // _MAX_SPOTS))))
                self._align = model.gauge.shift(means)
                means = count_mean(means, self._align)
                self._level = np.maximum(count_rate(means).mean(axis=0), _MIN)
                self._leading = float(model.spread.along(means).mean())
        self._node_radius_um = min(radius_um, _MAX_NODE_RADIUS_UM)
        self._spacing_um = 2 * self._node_radius_um
        # Smooth noise loses variance in the mean over a footprint; spread as it was found at spots has lost it already.
        spread, lost = model.spread, SmoothNoise.variance_of_mean
        narrow = (1 - spread.smooth) / lost(radius_um, self._spacing_um)
        wide = spread.smooth / lost(radius_um, spread.smooth_um)
        self._inflation, self._smooth = np.sqrt(narrow + wide), wide / (narrow + wide)
        # Single genes scatter over a third of a spot's width: so finely that draws scatter around the truth as measured.
        self._speckle_um = 2 * local.bin_um
        self._speckle = spread.factors.specific / np.sqrt(lost(radius_um, self._speckle_um))
        self._speckle = np.minimum(self._speckle, _MAX_SPECKLE)
        # Scores of single bins vary more than those of footprints; the scatter of single genes is a factor of its own.
        self._shared = np.square(spread.factors.loadings).sum(axis=0) * self._inflation**2
        self._lift = np.log(2) / 2 * np.square(self._speckle)  # log2 of the mean of exp2(speckle)
        self.nodes = Nodes()
        self._last: dict[int, _Bins] = {}  # by thread

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": {}}

    @property
    def reentrant(self) -> bool:
        """Whether several threads may ask at once, each on one core, once what is known at nodes is there."""
        sources = needed(self._section.features), needed(self._section.dense)
        on_cpu = resolve_device(self._device).type == "cpu"
        return on_cpu and all(getattr(source, "reentrant", False) for source in sources)

    def given_counts(self, rows: np.ndarray) -> TwoScaleField:
        """Return the field whose draws know the level of the section and its relation to the image from counts of spots ``rows``.

        What is expected stays: there the counts act by the factors of spots.
        """
        other = copy(self)
        with one_core():
            some = rows[:: -(-len(rows) // MAX_REFERENCES)]
            other._drawn = self._model.adapted(self._section, some, self.genes).effects(self._section)
        other._last = {}
        return other

    def nodes_around(self, bins: Locations, *, draws: bool) -> np.ndarray:
        """Return the nodes that predictions of bins are interpolated from, ``(n, 2)``; ``draws`` need some more."""
        nodes = nodes_around(bins.xy_um, _NODE_UM)
        if not draws:
            return nodes
        points = nodes_around(bins.xy_um, self._node_radius_um)[:, ::-1] * self._node_radius_um
        return all_nodes([nodes, nodes_around(points, _NODE_UM)])

    def compute(self, nodes: np.ndarray) -> NodeValues:
        """Return the values at nodes ``(n, 2)`` that lie together; ``nodes.learn`` takes them over."""
        footprints = Locations(self._inside(nodes[:, ::-1] * _NODE_UM), self._node_radius_um)
        with part_of_a_step():
            center = self._model.means(self._section, footprints)
            features = self._model.spread.features.at(self._section, footprints)
        local = np.log2(self._local_means(footprints))
        return NodeValues(*(values.astype(np.float32) for values in (center, local, features)))

    def mean(self, bins: Locations) -> np.ndarray:
        """Return the expectation, residuals taken as normal; see ``Field``."""
        of = self._prepare(bins)
        return self._moments(bins, of.blend @ of.open.variance + self._model.spread.factors.variance)[0]

    def std(self, bins: Locations) -> np.ndarray:
        """Return the standard deviation of infinitely many draws that follow no counts."""
        return np.sqrt(sum(np.square(part.std) for part in self.std_parts(bins)))

    def std_parts(
        self, bins: Locations, known: Certainty | None = None, weights: sparse.csr_matrix | None = None
    ) -> list[StdPart]:
        """Return parts of the standard deviation of infinitely many draws.

        ``known`` is what counts of spots say of the bins, and ``weights``, csr ``(m, n)`` with sums of 1, of what shapes parts are asked for.
        """
        of = self._prepare(bins)
        mean, variance = self._moments(bins, of.blend @ of.open.variance + self._shared)
        at = Following(bins.xy_um, known)
        views = [at] if weights is None else [at, Following(bins.xy_um, known, weights)]
        chance, speckle, left = zip(*((self._chance(view), self._scatter(view), view.left) for view in views))
        own = (of.blend @ of.open.variance) * np.square(1 - at.reach * at.followed)
        if known is not None:  # what is undone is undone in logarithms
            after = self._moments(bins, own + chance[0])
            variance = after[1] * np.square(mean / np.maximum(after[0], _TINY))
        part, mean_square = own / np.maximum(own + chance[0], _TINY), variance + np.square(mean)
        return [
            StdPart(np.sqrt(variance * part)),
            StdPart(np.sqrt(variance * (1 - part)), views[-1].kept(chance[-1], chance[0])),
            StdPart(np.sqrt(mean_square * left[0]), views[-1].kept(left[-1], left[0])),
            StdPart(
                np.sqrt(mean_square * (1 + left[0]) * np.expm1(speckle[0])), views[-1].kept(speckle[-1], speckle[0])
            ),
        ]

    def _chance(self, view: Following) -> np.ndarray:
        """Return the variance of scores times loadings that is left, ``(m, G)``."""
        factors, wide_um = self._model.spread.factors, self._model.spread.smooth_um
        noise = view.noise(self._spacing_um).mixed(view.noise(wide_um), self._smooth)
        pooled = np.zeros(len(self.genes)) if view.known is None else view.known.pooled
        return noise.variance_of(self._inflation * factors.loadings, view.followed, pooled)

    def _scatter(self, view: Following) -> np.ndarray:
        """Return the variance of the logarithm of the factors of single genes that is left, ``(m, G)``."""
        return view.noise(self._speckle_um).variance(view.followed) * np.square(np.log(2) * self._speckle)

    def uncertainty(self, bins: Locations) -> np.ndarray:
        """Return what is not known of the relation to the image, float32 ``(n,)``; see ``Field``."""
        of = self._prepare(bins)
        return (of.blend @ of.open.uncertainty).astype(np.float32)

    def _moments(self, bins: Locations, of_level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the expected counts of bins, whose levels have this variance ``(n, G)``."""
        of = self._prepare(bins)
        mean, variance = np.empty((2, *of.center.shape), dtype=np.float32)
        for rows in _chunks(len(bins)):
            found = rate_moments(of.level(rows), np.sqrt(of_level[rows]), self._shift)
            ratio = np.exp2(of.ratio[rows])
            mean[rows], variance[rows] = found.mean * ratio, found.variance * np.square(ratio)
        return mean, variance

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield draws; see ``Field``."""
        of, spread = self._prepare(bins), self._model.spread
        noise = SmoothNoise(self._seed, bins.xy_um, self._speckle_um)
        # Smooth noise and a smooth condition give smooth scores: they are made at points half a spot's width apart.
        places, blend = around(bins.xy_um, self._node_radius_um)
        points = places[:, ::-1] * self._node_radius_um
        center, _ = self._spots_model(points)
        at_points = SmoothNoise(self._seed, points, self._spacing_um)
        wide = SmoothNoise(self._seed, points, spread.smooth_um)
        # Blending takes variance away, more of it midway between points than at them.
        kept = (1 - self._smooth) * at_points.deviation(blend) ** 2 + self._smooth * wide.deviation(blend) ** 2
        inflation = (self._inflation / np.sqrt(kept))[:, None]
        k, n_genes = spread.factors.loadings.shape
        lift = [latent(of.level(part), of.sd(part, self._shared)) - of.level(part) for part in _chunks(len(bins))]
        for draw in range(self.n_draws):
            rows = np.arange(len(points))
            start = mixed(
                at_points.normal(draw, _SCORES, rows, k), wide.normal(draw, _SMOOTH_SCORES, rows, k), self._smooth
            )
            scores = blend @ self._model.scores(center, start, draw, n_steps=self._n_steps, device=self._device)
            scores *= inflation
            effect = self._drawn.draw(of.places, self._seed, draw) + of.moved
            speckle = noise.normal(draw, _SPECIFIC, np.arange(len(bins)), n_genes) * self._speckle
            out = np.empty((len(bins), n_genes), dtype=np.float32)
            for part, up in zip(_chunks(len(bins)), lift):
                level = of.center[part] + up + of.blend[part] @ effect + scores[part] @ spread.factors.loadings
                out[part] = count_rate(level, self._shift) * np.exp2(of.ratio[part] + speckle[part] - self._lift)
            yield out

    def _prepare(self, bins: Locations) -> _Bins:
        last = self._last.get(get_ident())
        if last is not None and last.bins is bins:  # mean and draws of the same bins cost one pass
            return last
        center, footprint = self._spots_model(bins.xy_um)
        ratio = np.empty(center.shape, dtype=np.float32)
        for rows, parts, seen in bin_parts(self._seen, bins, 2 * self._local.bin_um):
            rates = self._local(seen).reshape(len(rows), parts, -1).mean(axis=1)
            ratio[rows] = np.log2(rates) - footprint[rows] + self._correction(center[rows], footprint[rows])
        ratio = np.clip(ratio, -_MAX_RATIO, _MAX_RATIO)
        nodes, blend = around(bins.xy_um, _NODE_UM)
        known = self._at_nodes(nodes)
        features, along = known.features.astype(np.float64), None
        if self._leading is not None:
            along = self._model.spread.along(count_mean(known.center, self._align)) - self._leading
        places = self._drawn.places(nodes[:, ::-1] * _NODE_UM, features, along)
        expected, drawn = (effects.at(features, along) for effects in (self._effects, self._drawn))
        made = _Bins(
            bins, center, ratio, expected._replace(variance=drawn.variance), expected.mean - drawn.mean, places, blend
        )
        self._last[get_ident()] = made
        return made

    def _correction(self, center: np.ndarray, footprint: np.ndarray) -> np.ndarray | float:
        """Return log2 of F / M, from the mean log2(1 + count) of footprints and log2 of their mean local rate."""
        if self._level is None:
            return 0.0
        relative = np.log2(np.maximum(count_rate(center), _MIN) / self._level)
        return self._local.local_weight * (footprint - relative)

    def _spots_model(self, xy_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean log2(1 + count) of a footprint at places and log2 of the mean local rate in it, float32 ``(n, G)``."""
        nodes, blend = around(xy_um, _NODE_UM)
        known = self._at_nodes(nodes)
        center = count_mean(blend @ known.center, self._align)
        return center.astype(np.float32), (blend @ known.local).astype(np.float32)

    def _at_nodes(self, nodes: np.ndarray) -> NodeValues:
        """Return what is interpolated, at nodes ``(n, 2)``; computed where it is not known."""
        for group in self.nodes.groups([nodes]):
            self.nodes.learn(group, self.compute(group))
        return self.nodes.at(nodes)

    def _inside(self, xy_um: np.ndarray) -> np.ndarray:
        """Return the points of the tissue that are nearest to points."""
        tissue = self._section.tissue
        if tissue is None:
            return xy_um
        with _OUTLINE:
            shapely.prepare(tissue)
            outside = np.flatnonzero(~shapely.contains_xy(tissue, *xy_um.T))
        xy = xy_um.copy()
        lines = shapely.shortest_line(tissue, shapely.points(xy_um[outside]))
        if len(outside):
            xy[outside] = shapely.get_coordinates(lines)[::2]
        return xy

    def _local_means(self, footprints: Locations) -> np.ndarray:
        """Return the mean of the local rates over footprints, ``(n, G)``."""
        under = Footprints.of(footprints, self._local.bin_um)
        share = under.share.tocsc()
        total = np.zeros((len(footprints), len(self.genes)))
        for rows, seen in dense_rasters(self._seen, under.ij, self._local.bin_um):
            total += share[:, rows] @ self._local(seen)
        return total


def _chunks(n: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]
