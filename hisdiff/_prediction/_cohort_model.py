"""Predictions of a model of a cohort: the mean, what sections differ in, factors and counts; adapted or not to a section."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np

from hisdiff._keys import COUNTS, LOG2
from hisdiff._log import progress
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._noise import BlockNoise
from hisdiff._prediction._section_effects import MAX_REFERENCES, Places, SectionEffects
from hisdiff._section import Prediction, needed
from hisdiff._stats._counting import count, count_moments, latent, rate_moments
from hisdiff._training._given import Given, Posterior, posterior_of
from hisdiff._training._size_gauge import SizeGauge
from hisdiff._training._smooth import mixed
from hisdiff._training._spread import Spread
from hisdiff._training._suggest import greedy
from hisdiff._training._transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from hisdiff._json import State
    from hisdiff._log import Progress
    from hisdiff._section import Locations, Section

_CHUNK = 4096
# Values, locations times genes, that are worked on in double precision at once; and fewest locations.
_VALUES, _LEAST = 2**22, 64
UNCERTAINTY = "uncertainty"
"""Name of what is not known of the relation to the image at a location, in ``Prediction.obs``."""
SHAPES = {
    "spread/factors/loadings": "K G",
    "spread/factors/specific": "G",
    "spread/directions": "R G",
    "spread/scale": "G",
    "spread/levels/components": "R G",
    "spread/levels/shared": "R",
    "spread/levels/own": "G",
    "spread/relation/landmarks": "M P",
    "spread/relation/axes": "M Q",
    "spread/relation/open": "Q",
    "spread/relation/scale": "R",
    "transfer/root": "T T",
}
"""Sizes of the arrays of a saved model: factors, genes, components, landmarks and their features."""
# What the numbers of a draw are for; the second argument of the noise.
_SCORES, _SPECIFIC, _COUNTING, _SMOOTH_SCORES = range(4)


class Mean(Protocol):
    """Mean of log2(1 + count) at the cohort's library size, given morphology."""

    def __call__(self, section: Section, locations: Locations) -> np.ndarray: ...

    def state(self) -> State: ...


class Parts(TypedDict):
    """Parts of a model that are saved with it, all but the mean; see ``CohortModel``."""

    gauge: SizeGauge
    spread: Spread
    transfer: Transfer
    log2_size: float
    given: Given | None


@dataclass(frozen=True, eq=False, kw_only=True)
class CohortModel:
    """A conditional mean, and laws of what expression may differ by from it.

    Attributes
    ----------
    mean, gauge, spread, transfer
        The parts.
    log2_size
        log2 of the median total count over the panel of a usual section, to predict at where nothing else is known.
    given
        Measured spots of a new section that the model was adapted to, or None.
    """

    mean: Mean
    gauge: SizeGauge
    spread: Spread
    transfer: Transfer
    log2_size: float
    given: Given | None = None

    @cached_property
    def posterior(self) -> Posterior | None:
        """The posterior given measured spots, or None."""
        return None if self.given is None else posterior_of(self.spread, self.given)

    def adapted(self, section: Section, rows: np.ndarray, genes: np.ndarray) -> Self:
        """Return the model given the counts of some spots of a section; those it was given before are kept.

        ``genes`` are the model's; those that the section lacks are ignored.
        """
        spots = section.spots
        assert spots is not None
        assert section.counts is not None
        some = spots.take(rows)
        area = np.square(some.radius_um)
        counts = _counts_of(section, genes)[rows] / (area / np.median(area))[:, None]
        features = self.spread.features.at(section, some)
        center, along = self.aligned(section, some)
        given = Given(some.xy_um, features, center, counts, along, self._reference(section))
        return replace(self, given=given.once() if self.given is None else self.given.joined(given))

    def given_in(self, section: Section, genes: np.ndarray) -> np.ndarray:
        """Return which spots of a section the model was given, ``(n,)``; ``genes`` are the model's."""
        spots = needed(section.spots)
        if self.given is None:
            return np.zeros(len(spots), dtype=bool)
        return self.given.has(spots.xy_um, None if section.counts is None else _counts_of(section, genes))

    @property
    def n_given(self) -> int:
        """How many spots of a new section the model was given."""
        return 0 if self.given is None else len(self.given)

    @property
    def given_library_size(self) -> float | None:
        """Library size inferred from the given spots, in counts; None without any."""
        return None if self.posterior is None else float(2.0 ** (self.gauge.log2_size + self.posterior.shift))

    def transfer_distance(self, section: Section) -> float:
        """Return how far a section is from the cohort: above 1 it is unlike; NaN where that cannot be determined."""
        spots = section.spots
        if spots is None or not len(spots):
            return float("nan")
        return self.transfer.distance(self.transfer.features.at(section, spots))

    def suggested(self, section: Section, n: int) -> np.ndarray:
        """Return rows of the ``n`` spots of a section that leave the least open once measured, the first first.

        None of them is among the given ones; more than there are others is a ``ValueError``.
        """
        spots = needed(section.spots)
        features = np.concatenate([self.spread.features.at(section, part) for part in _parts(spots)])
        if self.given is None:
            return greedy(self.spread, features, n)
        known = self.given.has(spots.xy_um, None) & self.given.is_like(features)
        if n > len(spots) - known.sum():
            raise ValueError(
                f"n={n} spots are asked for, and {section.name!r} has {len(spots)}, of which the model was given {known.sum()}."
            )
        return greedy(self.spread, features, n, self.given.features, known)

    def means(self, section: Section, locations: Locations, bar: Progress | None = None) -> np.ndarray:
        """Return means, float32 ``(n, G)``, at the cohort's library size, not aligned; ``bar`` counts blocks."""
        out = np.empty((len(locations), len(self.spread.scale)), dtype=np.float32)
        for rows in self._blocks(len(locations)):
            out[rows] = self.mean(section, locations.take(rows))
            if bar is not None:
                bar.update()
        return out

    def _blocks(self, n: int) -> list[slice]:
        """Return blocks of locations, smaller ones where there are many genes."""
        return _chunks(n, min(_CHUNK, max(_LEAST, _VALUES // max(len(self.spread.scale), 1))))

    def aligned(
        self, section: Section, locations: Locations, bar: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return means ``(n, G)``, brought to the cohort's library size by what those at the section's spots amount to.

        And their leading component less that of the spots, ``(n,)``.
        """
        means = self.means(section, locations, bar)
        spots = section.spots
        whole = means if spots is None or spots is locations or not len(spots) else self.means(section, spots)
        aligned = self.gauge.align(means, whole)
        of_section = aligned if whole is means else self.gauge.align(whole, whole)
        return aligned, self.spread.along(aligned) - self.spread.along(of_section).mean()

    def effects(self, section: Section) -> SectionEffects:
        """Return what a section adds to the mean."""
        return SectionEffects(self.spread, self._reference(section), self.posterior)

    def _reference(self, section: Section) -> np.ndarray:
        """Return features of places from whose mean the relation of a section is measured, ``(m, p)``."""
        spots = section.spots
        if spots is None or not len(spots):
            return self.spread.relation.landmarks
        some = spots.take(slice(None, None, max(1, -(-len(spots) // MAX_REFERENCES))))
        return self.spread.features.at(section, some)

    def log2_size_of(self, section: Section, library_size: float | None) -> float:
        """Return log2 of the library size to predict at: as asked, as the given spots say, the section's own, the usual."""
        if library_size is None and self.posterior is not None:
            return self.gauge.log2_size + self.posterior.shift
        wanted = section.library_size if library_size is None else library_size
        return self.log2_size if wanted is None else float(np.log2(wanted))

    def predict(
        self,
        section: Section,
        locations: Locations,
        *,
        genes: np.ndarray,
        library_size: float | None,
        n_draws: int,
        keep_draws: int,
        units: str,
        seed: int,
        n_steps: int | None = None,
        device: str | None = None,
        show: bool | None = None,
    ) -> Prediction:
        """Predict: mean and spread are those of infinitely many draws, in closed form; those that are kept are made.

        ``show`` says whether there is a bar, None for the package's setting; False is silent.
        """
        effects, blocks = self.effects(section), self._blocks(len(locations))
        # Means, spreads, and each draw that is kept go over all blocks once.
        total = (2 + keep_draws) * len(blocks)
        with progress(desc=f"predicting {len(locations):,} locations", total=total, enabled=show, unit="blocks") as bar:
            bar.announced |= show is False  # the step that this is a part of is announced itself
            base, along = self.aligned(section, locations, bar)
            features = np.concatenate([self.spread.features.at(section, part) for part in _parts(locations)])
            shift = self.log2_size_of(section, library_size) - self.gauge.log2_size
            mean, std = np.empty((2, *base.shape), dtype=np.float32)
            uncertainty = np.empty(len(base), dtype=np.float32)
            center = np.empty(base.shape, dtype=np.float32)
            for rows in blocks:
                opened = effects.at(features[rows], along[rows])
                center[rows] = base[rows] + opened.mean
                variance = opened.variance + self.spread.factors.variance
                mean[rows], std[rows] = moments(center[rows], variance, shift, units)
                if keep_draws:
                    base[rows] += latent(center[rows], np.sqrt(variance)) - center[rows]
                uncertainty[rows] = opened.uncertainty
                bar.update()
            kept = DrawAccumulator(units, keep_draws)
            condition = self.score_condition(section, locations, center, device) if keep_draws else None
            places = effects.places(locations.xy_um, features, along) if keep_draws else None
            for draw in range(keep_draws):
                kept.add(
                    self._draw(effects, locations, needed(places), base, condition, shift, draw, seed, n_steps, device)
                )
                bar.update(len(blocks))
        draws = kept.result(genes).draws if keep_draws else None
        return Prediction(mean, std, genes, units, draws, {UNCERTAINTY: uncertainty}, n_draws)

    def _draw(
        self,
        effects: SectionEffects,
        locations: Locations,
        places: Places,
        base: np.ndarray,
        condition: Any,
        shift: float,
        draw: int,
        seed: int,
        n_steps: int | None,
        device: str | None,
    ) -> np.ndarray:
        """Return one draw of log2(1 + count) around levels of the cohort; ``condition`` is what scores depend on."""
        noise, smooth = BlockNoise.at(seed, locations), places.noise(seed, self.spread.smooth_um)
        factors, rows = self.spread.factors, np.arange(len(base))
        k, n_genes = factors.loadings.shape
        white, wide = noise.normal(draw, _SCORES, rows, k), smooth.normal(draw, _SMOOTH_SCORES, rows, k)
        start = mixed(white, wide, self.spread.smooth)
        scores = self.scores(condition, start, draw, n_steps=n_steps, device=device)
        out = np.empty((len(base), n_genes), dtype=np.float32)
        for part in self._blocks(len(base)):
            level = base[part] + effects.draw(places.take(part), seed, draw) + scores[part] @ factors.loadings
            level += factors.specific * noise.normal(draw, _SPECIFIC, rows[part], n_genes)
            out[part] = count(np.maximum(level, 0), noise.normal(draw, _COUNTING, rows[part], n_genes), shift)
        return out

    def score_condition(self, section: Section, locations: Locations, center: np.ndarray, device: str | None) -> Any:
        """Return what scores of factors depend on at locations, the same for all draws: the means ``(n, G)``, the section's in them."""
        return center

    def scores(
        self, condition: Any, start: np.ndarray, draw: int, *, n_steps: int | None, device: str | None
    ) -> np.ndarray:
        """Carry standard normal ``(n, K)`` to the scores of factors of one draw; they are normal here."""
        return start

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays, mean = self.mean.state()
        spread, of_spread = self.spread.state()
        transfer, of_transfer = self.transfer.state()
        parts = {"spread": spread, "transfer": transfer, "given": {} if self.given is None else self.given.state()}
        arrays = arrays | {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}
        gauge = {"log2_size": self.gauge.log2_size, "bias": self.gauge.bias}
        plain = {
            "mean": mean,
            "gauge": gauge,
            "spread": of_spread,
            "transfer": of_transfer,
            "log2_size": self.log2_size,
        }
        return arrays, plain

    @staticmethod
    def parts_of(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Parts:
        """Return the parts that ``state`` described, all but the mean, by the names of the arguments."""

        def part(name: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(f"{name}/"): a for n, a in arrays.items() if n.startswith(f"{name}/")}

        given = part("given")
        return {
            "gauge": SizeGauge(**settings["gauge"]),
            "spread": Spread.from_state(part("spread"), settings["spread"]),
            "transfer": Transfer.from_state(part("transfer"), settings["transfer"]),
            "log2_size": float(settings["log2_size"]),
            "given": Given.from_state(given) if given else None,
        }


def _counts_of(section: Section, genes: np.ndarray) -> np.ndarray:
    """Return the counts of a section in the order of ``genes``, float64 ``(n, G)``; NaN for those that it lacks."""
    column = {gene: i for i, gene in enumerate(section.genes)}
    there = np.array([column.get(gene, -1) for gene in genes])
    of = needed(section.counts)
    counts = np.full((of.shape[0], len(genes)), np.nan)
    counts[:, there >= 0] = of[:, there[there >= 0]].toarray()
    return counts


def moments(center: np.ndarray, variance: np.ndarray, shift: float, units: str = LOG2) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd, ``(n, G)``, around the mean log2(1 + count) of the cohort's library size, counting included."""
    sd = np.sqrt(variance)
    if units == COUNTS:
        of = rate_moments(center, sd, shift)
        return of.mean, np.sqrt(of.variance + of.mean)
    of = count_moments(center, sd, shift)
    return of.mean, np.sqrt(of.variance)


def _parts(locations: Locations) -> list[Locations]:
    return [locations.take(rows) for rows in _chunks(len(locations))] or [locations]


def _chunks(n: int, height: int | None = None) -> list[slice]:
    height = height or _CHUNK
    return [slice(start, start + height) for start in range(0, n, height)]
