"""Whether what a model says of itself is true, and what a few measured spots of a new section bring; prints tables, writes JSON.

    python tests/benchmarks/trust.py --data DATA --json trust.json
    python tests/benchmarks/trust.py --data DATA --parts adapt --methods ridge --choices 3
    python tests/benchmarks/trust.py --toy

``DATA`` holds ``her2st`` and ``mob`` (see ``sections.py``, whose splits are used). With ``--toy`` the same is done on small
synthetic sections: whether it runs, not how good it is.

`spread`: sections left out in turn. |X - y|: distance of 16 draws from the measurement, |X - X'|: of draws from each other; equal
where draws are as wide as they should be. coverage: of intervals of 90 %. rank: rank correlation, over the spots of a section, of
``obs["hisdiff_uncertainty"]`` with the squared residual, the section's mean residual taken out, over each gene's variance. seeds:
correlation over spots of the sd of two seeds, median over genes. ES: energy score, beside that of the baseline's draws.

`transfer`: ``transfer_distance`` of left-out sections, of other tissue and of spoilt images; above 1 a section is called unlike.

`adapt`: random choices of spots, judged on the half of the section that is never given. `none`: the section's own library size, of
all its counts; `cohort`: that of the cohort, where nothing is known; `alone`: the baseline fitted on these spots only.

`planted`: cohorts of a known law (levels and relations of sections drawn anew), two to eight sections in training, the same figures on
others of the cohort; `ridge` whatever the methods, since features are the law's own. standard error: of the ratio, over cohorts.

`regions`: synthetic cohorts, four sections in training and three new ones in each: how much lies in the interval of 90 % of draws, of the
means of quarters of a section, of whole sections, of what quarters differ by from these, and of single spots. se: over cohorts, whose sections share a model.

`suggest`: mean squared error over all other spots with suggested and with random spots, and how much of the relation to the image they leave open.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from sections import KEY, MOB, N_DRAWS, REPORTED, SPLITS, C, Entry, read
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import hisdiff as hd
from hisdiff._sdata._shallow_copy import shallow_copy
from hisdiff._stats._accuracy import mse, pearson
from hisdiff._stats._proper import coverage, energy_score
from hisdiff._stats._structure import normalize_library_size
from hisdiff.methods.ridge import Ridge, RidgeConfig

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
from planted import planted_cohort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spatialdata import SpatialData

    from hisdiff.models import Model

PARTS = ("spread", "transfer", "adapt", "suggest", "planted", "regions")
BASELINE = Entry("ridge", "ridge", "baseline")
# Sections to adapt to, with the cohort and the numbers of spots.
NEW = {"B4": (C, (6, 14, 28, 57)), "MOB1": (MOB[1:], (8, 20, 40)), "C5": (C[:3], (4,))}
SUGGESTED = {"B4": 14, "MOB1": 20}
COARSE = "texture-4um"
# Draws whose quantiles are taken.
N_REGION_DRAWS = 60
SPOILT: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "inverted": lambda image, rng: 255 - image,
    "blurred": lambda image, rng: gaussian_filter(image, (16, 16, 0)),
    "noisy": lambda image, rng: np.clip(image + rng.normal(0, 60, image.shape), 0, 255).astype(np.uint8),
    "noise": lambda image, rng: rng.integers(0, 256, image.shape, dtype=np.uint8),
    "white": lambda image, rng: np.full_like(image, 243),
}


@dataclass(frozen=True)
class Source:
    """Sections by name: real ones, or synthetic ones that stand for them."""

    folder: Path | None
    known: dict[str, SpatialData]

    def __getitem__(self, name: str) -> SpatialData:
        if name not in self.known:
            self.known[name] = self._toy(name) if self.folder is None else read(self.folder, name)
        return self.known[name]

    @staticmethod
    def _toy(name: str) -> SpatialData:
        seed = sum(map(ord, name)) + (300 if name in MOB else 0)
        sdata = hd.datasets.toy(seed=seed, size_um=600)
        hd.pp.embed(sdata)
        return sdata

    def coarse(self, name: str) -> SpatialData:
        """Return a section embedded as if its image were a coarse one."""
        sdata = shallow_copy(self[name])
        if self.folder is not None:
            hd.pp.embed(sdata, COARSE)
        return sdata


@dataclass(frozen=True)
class Told:
    """A prediction and what was measured, log2(1 + count)."""

    measured: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    draws: np.ndarray
    uncertainty: np.ndarray

    @classmethod
    def of(cls, sdata: SpatialData, model: Model, seed: int = 0, library_size: float | None = None) -> Told:
        options = {"n_draws": N_DRAWS, "keep_draws": N_DRAWS, "key_added": KEY, "rng": seed}
        hd.tl.predict(sdata, model, library_size=library_size, **options)
        table = sdata.tables["table"]
        known = table.obs.get(f"{KEY}_uncertainty", np.full(table.n_obs, np.nan))
        table = table[:, model.genes[np.isin(model.genes, table.var_names)]]
        draws = np.stack([np.asarray(table.layers[f"{KEY}_draw{i}"]) for i in range(N_DRAWS)])
        parts = np.asarray(table.layers[KEY], dtype=np.float64), np.asarray(table.layers[f"{KEY}_std"])
        return cls(np.log2(1 + table.X.toarray().astype(np.float64)), *parts, draws, np.asarray(known))

    def at(self, rows: np.ndarray) -> Told:
        return Told(self.measured[rows], self.mean[rows], self.std[rows], self.draws[:, rows], self.uncertainty[rows])

    @property
    def apart(self) -> tuple[float, float]:
        """Distance of draws from the measurement, and from each other."""
        others = [np.linalg.norm(self.draws[i] - self.draws[i - 1], axis=1).mean() for i in range(N_DRAWS)]
        return float(np.linalg.norm(self.draws - self.measured, axis=2).mean()), float(np.mean(others))

    @property
    def rank(self) -> float:
        residual = self.measured - self.mean
        residual = np.square(residual - residual.mean(axis=0)) / np.maximum(self.measured.var(axis=0), 0.05)
        return float(spearmanr(self.uncertainty, residual.mean(axis=1))[0])

    def scores(self) -> dict[str, float]:
        flat = [normalize_library_size(np.maximum(values, 0)) for values in (self.measured, self.mean)]
        return {
            "MSE": float(mse(self.measured, self.mean).mean()),
            "ES": float(energy_score(self.draws, self.measured).mean()),
            "PCC": float(np.nanmean(pearson(self.measured, self.mean))),
            "norm": float(np.nanmean(pearson(*flat))),
            "coverage": float(coverage(self.measured, self.mean, self.std, 1.645).mean()),
        }


def fitted(source: Source, names: Sequence[str], entry: Entry, sections: Sequence[SpatialData] | None = None) -> Model:
    train = [source[name] for name in names] if sections is None else list(sections)
    hd.pp.select_genes(train)
    return hd.tl.fit(train, method=entry.method, config=entry.config)


def show(row: dict[str, Any]) -> dict[str, Any]:
    print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def spread(source: Source, entry: Entry) -> list[dict[str, Any]]:
    rows = []
    for group in REPORTED:
        own = []
        for target, names in SPLITS[group]:
            model = fitted(source, names, entry)
            told, other = Told.of(source[target], model), Told.of(source[target], model, seed=1)
            plain = Told.of(source[target], fitted(source, names, BASELINE))
            row = {"section": target, "|X - y|": told.apart[0], "|X - X'|": told.apart[1], "rank": told.rank}
            row |= {"coverage": told.scores()["coverage"], "seeds": float(np.nanmedian(pearson(told.std, other.std)))}
            row |= {"ES": told.scores()["ES"], "ES baseline": plain.scores()["ES"]}
            own.append(show(row))
        if len(own) > 1:
            rows.append(show({"section": f"{group}, mean"} | {k: float(np.mean([r[k] for r in own])) for k in own[0] if k != "section"}))  # fmt: skip
        rows += own
    return rows


def transfer(source: Source, entry: Entry) -> list[dict[str, Any]]:
    rows = []

    def add(model: Model, cohort: str, name: str, sdata: SpatialData) -> None:
        hd.tl.predict(sdata, model, n_draws=2, key_added=KEY)
        table = sdata.tables["table" if "table" in sdata.tables else "lattice"]
        record = table.uns["hisdiff"]["predictions"][KEY]
        distance = float(record.get("transfer_distance", np.nan))
        rows.append(show({"cohort": cohort, "section": name, "distance": distance, "": record.get("transfer", "unknown")}))  # fmt: skip

    for group in REPORTED:
        for target, names in SPLITS[group]:
            model = fitted(source, names, entry)
            add(model, " ".join(names), target, source[target])
            if target == C[-1]:
                for how, change in SPOILT.items():
                    add(model, " ".join(names), f"{target}, {how}", spoilt(source[target], change))
    coarse = {name: source.coarse(name) for name in (*C, *MOB)}
    model = fitted(source, C, entry, [coarse[name] for name in C])
    for name in MOB:
        del coarse[name].tables["table"]  # of a mouse: the model knows none of its genes
        add(model, f"{' '.join(C)}, coarse", name, coarse[name])
    return rows


def spoilt(sdata: SpatialData, change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> SpatialData:
    """Return a section with another image, embedded."""
    result = shallow_copy(sdata)
    (name,) = sdata.images
    image = sdata.images[name]
    pixels = np.moveaxis(np.asarray(next(iter(image["scale0"].data_vars.values())).data), 0, -1)
    changed = np.moveaxis(change(pixels, np.random.default_rng(0)), -1, 0)
    placed = get_transformation(image, get_all=True)
    result.images[name] = Image2DModel.parse(
        changed, dims=("c", "y", "x"), transformations=placed, scale_factors=[2, 2]
    )
    encoder = str(sdata.tables["table"].uns["hisdiff"]["embedding"]["encoder"])
    hd.pp.embed(result, encoder)
    return result


def adapt(source: Source, entry: Entry, n_choices: int) -> list[dict[str, Any]]:
    rows = []
    for target, (names, sizes) in NEW.items():
        model, sdata = fitted(source, names, entry), source[target]
        told = {"none": Told.of(sdata, model), "cohort": Told.of(sdata, model, library_size=model.cohort.library_size)}
        n = len(told["none"].measured)
        for size in (size for size in sizes if size < n / 2):
            found = defaultdict(list)
            for seed in range(n_choices):
                order = np.random.default_rng(seed).permutation(n)
                given, rest = order[:size], order[n // 2 :]
                now = told | {"adapted": Told.of(sdata, hd.tl.adapt(model, sdata, spots=mask(given, n)))}
                if size >= 4:
                    now["alone"] = Told.of(sdata, alone(sdata, model, given))
                for name, of in now.items():
                    found[name].append(of.at(rest).scores())
            for name, scores in found.items():
                row = {"section": target, "spots": size, "": name}
                rows.append(show(row | {k: float(np.mean([s[k] for s in scores])) for k in scores[0]}))
    return rows


def mask(rows: np.ndarray, n: int) -> np.ndarray:
    return np.isin(np.arange(n), rows)


def alone(sdata: SpatialData, model: Model, rows: np.ndarray) -> Model:
    """Fit the baseline on some spots of a section only."""
    part = shallow_copy(sdata)
    part.tables["table"] = sdata.tables["table"][np.sort(rows)].copy()
    hd.pp.select_genes(part, genes=list(model.genes))
    return hd.tl.fit(part, method=BASELINE.method, config=BASELINE.config)


def suggest(source: Source, entry: Entry, n_choices: int) -> list[dict[str, Any]]:
    rows = []
    for target, size in SUGGESTED.items():
        names, _ = NEW[target]
        model, sdata = fitted(source, names, entry), source[target]
        n = sdata.tables["table"].n_obs
        size = min(size, n // 3)
        hd.tl.suggest_spots(sdata, model, size)
        chosen = np.flatnonzero(sdata.tables["table"].obs["hisdiff_suggested"] > 0)
        random = [np.random.default_rng(seed).permutation(n)[:size] for seed in range(n_choices)]
        errors, left = [], []
        for given in (chosen, *random):
            told = Told.of(sdata, hd.tl.adapt(model, sdata, spots=mask(given, n)))
            errors.append(told.at(~mask(given, n)).scores()["MSE"])
            left.append(float(told.uncertainty.mean()))
        row = {"section": target, "spots": size, "MSE": errors[0], "random": float(np.mean(errors[1:]))}
        row |= {"random, best": min(errors[1:]), "random, worst": max(errors[1:])}
        rows.append(show(row | {"open": left[0], "open, random": float(np.mean(left[1:]))}))
    return rows


def planted(source: Source, entry: Entry, n_choices: int) -> list[dict[str, Any]]:
    rows = []
    for size in (2, 3, 4, 8):
        cohorts = []
        for seed in range(n_choices):
            sections = planted_cohort(100 * size + seed, size + 6)
            fitted = Ridge().fit(sections[:size], RidgeConfig(scalings=("standardized",), n_components=(6,)))
            found = []
            for section in sections[size:]:
                number = 6 * seed + len(found)
                made = fitted.predict(section, section.spots, n_draws=N_DRAWS, keep_draws=N_DRAWS, seed=number)
                measured = np.log2(1 + section.counts.toarray())
                told = Told(measured, made.mean, made.std, made.draws, made.obs["uncertainty"])
                found.append((*told.apart, told.scores()["coverage"]))
            cohorts.append(np.mean(found, axis=0))
        away, apart, covered = (float(v) for v in np.mean(cohorts, axis=0))
        row = {"sections": size, "|X - y|": away, "|X - X'|": apart, "ratio": apart / away}
        rows.append(show(row | {"standard error": ratio_error(np.array(cohorts)), "coverage": covered}))
    return rows


def ratio_error(cohorts: np.ndarray) -> float:
    """Return the standard error of the ratio of the means of the second and the first column, rows left out in turn (jackknife)."""
    if len(cohorts) < 2:
        return float("nan")
    rest = cohorts.sum(axis=0) - cohorts
    ratios = rest[:, 1] / rest[:, 0]
    return float(np.sqrt((len(ratios) - 1) * ratios.var()))


def regions(source: Source, entry: Entry, n_choices: int) -> list[dict[str, Any]]:
    size_um = 1000 if source.folder is not None or n_choices > 2 else 600
    cohorts = []
    for seed in range(n_choices):
        sections = hd.datasets.toy(seed=500 + seed, n_sections=7, size_um=size_um)
        model, found = fitted(source, (), entry, sections[:4]), []
        for number, sdata in enumerate(sections[4:]):
            hd.tl.predict(sdata, model, n_draws=N_REGION_DRAWS, keep_draws=N_REGION_DRAWS, key_added=KEY, rng=number)
            table = sdata.tables["table"][:, model.genes]
            draws = np.stack([np.asarray(table.layers[f"{KEY}_draw{i}"]) for i in range(N_REGION_DRAWS)])
            measured, xy = np.log2(1 + table.X.toarray()), np.asarray(table.obsm["spatial"])
            quarter = (xy > np.median(xy, axis=0)) @ [2, 1]
            means = [
                np.stack([of[..., quarter == q, :].mean(axis=-2) for q in range(4)], -2) for of in (draws, measured)
            ]
            level = [of.mean(axis=-2, keepdims=True) for of in means]
            apart = [of - mean for of, mean in zip(means, level)]
            found.append([within(*of) for of in (means, level, apart, (draws, measured))])
        cohorts.append(np.mean(found, axis=0))
    names = "quarters", "whole sections", "quarters apart", "spots"
    error = np.std(cohorts, axis=0, ddof=1) / np.sqrt(len(cohorts)) if len(cohorts) > 1 else np.full(4, np.nan)
    row: dict[str, Any] = {"cohorts": len(cohorts)}
    for name, value, of in zip(names, np.mean(cohorts, axis=0), error):
        row |= {name: float(value), f"{name}, se": float(of)}
    return [show(row)]


def within(draws: np.ndarray, measured: np.ndarray) -> float:
    """Return the part of values that lie in the interval in which nine tenths of a further draw would."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0, method="weibull")
    return float(((measured >= low - 1e-6) & (measured <= high + 1e-6)).mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    root = os.environ.get("HISDIFF_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root) if root else None, help="folder with her2st and mob")
    parser.add_argument("--toy", action="store_true", help="small synthetic sections instead")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", default=['hisdiff=hisdiff:{"fine": false}'], help="as in sections.py")
    parser.add_argument(
        "--choices", type=int, default=10, help="random choices of spots, cohorts of `planted` and of `regions`"
    )
    parser.add_argument("--json", type=Path, help="where to write all rows")
    args = parser.parse_args(arguments)
    if args.data is None and not args.toy:
        parser.error("--data names the folder of her2st and mob; or set HISDIFF_TEST_DATA, or use --toy")
    hd.settings.verbosity = "error"
    source = Source(None if args.toy else args.data, {})
    results: dict[str, Any] = {"version": hd.__version__}
    for text in args.methods:
        entry = Entry.parse(text)
        entry = entry if entry.method != "ridge" else Entry(entry.label, "ridge", "fast")
        for part in args.parts:
            print(f"\n{entry.label}, {part}", flush=True)
            more = () if part in ("spread", "transfer") else (args.choices,)
            results.setdefault(entry.label, {})[part] = globals()[part](source, entry, *more)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
