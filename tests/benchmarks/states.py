"""Planted states that the image does not show: how much of the gap between ridge and the truth a generative model closes.

    python tests/benchmarks/states.py --cache states --spots 500 2000 8000 --json states.json --figure states.png
    python tests/benchmarks/states.py --cache states --methods fast=hisdiff:fast "wide=hisdiff:{\\"width\\": 128}"
    python tests/benchmarks/states.py --dry-run

Tissue of ``hd.datasets.toy(states=True)``, sections of some 185 spots from one laboratory (one stain, one library size), each
made and embedded once and kept in ``--cache`` without their images. A method is ``label=name:config`` with a preset or a JSON
mapping; the first one is what the others are compared with. Test sections are the same for all.

``--embedding cells`` (default) is the number of cells of each type under a spot and the grade of the tumour: all that the image
shows of expression, so that only the law of what is left decides. With ``texture`` the image is painted and embedded, and most of
the gap to the truth is that composition is not seen exactly, which no law makes up for.

``mCRPS`` and ``mES``: CRPS and energy score on the leading 8 modules of the training sections, raw; ``closed``: the part of the
gap between the first method and draws from the true law that is closed, by either. ``AUC``: how well gradient boosting tells a
single draw from the measured spots by the 8 module scores and the shares of the cell types, trained on half of the test
sections and read on the other half; .5 where it cannot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

import hisdiff as hd
from hisdiff._section import FeatureSpec, Locations, Section
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._proper import crps, energy_score
from hisdiff._training._config import config_from
from hisdiff.datasets._toy._genes import covered

if TYPE_CHECKING:
    from collections.abc import Sequence

N_DRAWS, N_TEST = 16, 12
FIRST_TEST_SEED = 100_000
AUC_DRAWS = 4
RIDGE, TRUTH = "ridge=ridge:baseline", "truth"
METHODS = (RIDGE, 'no flow=hisdiff:{"flow": false}', "fast=hisdiff:fast", "dit=hisdiff:dit")


class Bins(NamedTuple):
    """Bins of the grid of the truth."""

    row: np.ndarray
    col: np.ndarray


class Stored:
    """Embeddings of the spots of one section."""

    def __init__(self, xy_um: np.ndarray, values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
        self.spec = FeatureSpec("texture", "", values.shape[1], 1.0, 100.0)
        self.mean, self.std = mean, std
        self._values, self._places = values, cKDTree(xy_um)

    def at(self, locations: Locations) -> np.ndarray:
        distance, row = self._places.query(locations.xy_um)
        if (distance > 1).any():
            raise ValueError("Only spots were embedded.")
        return self._values[row]


@dataclass(frozen=True)
class Made:
    """A section, the shares of cell types at its spots ``(n, 4)``, and draws of its true law ``(k, n, G)`` in counts."""

    section: Section
    shares: np.ndarray
    truth: np.ndarray


def make(path: Path, seed: int, options: dict[str, Any], n_draws: int) -> None:
    """Make and embed a section, and keep what methods and scores need of it."""
    sdata = hd.datasets.toy(seed, states=True, **options)
    table, truth = sdata.tables["table"], sdata.tables["truth"]
    xy = np.asarray(table.obsm["spatial"]) * options["mpp"]
    bins = Bins(truth.obs["array_row"].to_numpy(), truth.obs["array_col"].to_numpy())
    cells, grade = truth.obsm["cells"].to_numpy(), truth.obs["grade"].to_numpy()
    under = covered(bins, xy, 27.5)
    number, tumour = under @ cells, cells[:, 0] + 1e-3
    if path.parent.name == "texture":
        hd.pp.embed(sdata, "texture")
        (note,) = table.uns["hisdiff"]["embedding"]["sections"].values()
        embedding, mean, std = table.obsm["hisdiff_embedding"], note["mean"], note["std"]
    else:
        embedding = np.column_stack([np.sqrt(number), (under @ (tumour * grade)) / (under @ tumour)]).astype(np.float32)
        mean, std = embedding.mean(axis=0), embedding.std(axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(
        part, xy=xy, counts=table.X.toarray(), genes=np.asarray(table.var_names, dtype=str), embedding=embedding,
        mean=np.asarray(mean), std=np.asarray(std), shares=number / np.maximum(number.sum(axis=1, keepdims=True), 1e-9),
        truth=hd.datasets.toy_draws(sdata, n_draws, rng=seed),
    )  # fmt: skip
    part.rename(path)


def load(path: Path) -> Made:
    """Read a section that was made."""
    with np.load(path) as kept:
        of = dict(kept)
    spots = Locations(of["xy"], 27.5)
    features = Stored(of["xy"], of["embedding"], of["mean"], of["std"])
    section = Section(path.stem, of["genes"], csr_matrix(of["counts"]), spots, None, features)
    return Made(section.with_panel(of["genes"]), of["shares"], of["truth"])


def sections(cache: Path, seeds: Sequence[int], options: dict[str, Any], n_draws: int) -> list[Made]:
    """Return sections of seeds, made where they are not yet there."""
    made = []
    for seed in seeds:
        path = cache / f"section{seed}.npz"
        if not path.exists():
            make(path, seed, options, n_draws)
        made.append(load(path))
    return made


def fit(text: str, train: list[Made]) -> Any:
    """Fit a method, as named on the command line, at the seam: without SpatialData."""
    name, _, config = text.partition(":")
    method = hd.methods.get(name)
    settings = config_from(method.config_type, json.loads(config) if config.startswith("{") else config)
    return method.fit([m.section for m in train], settings, seed=0, progress=False)


def drawn_by(fitted: Any, test: list[Made]) -> list[np.ndarray]:
    """Return draws ``(k, n, G)`` of log2(1 + count) at the spots of every test section."""
    draws = []
    for m in test:
        section = replace(m.section, counts=None)  # its library size stays
        seed = section.seed(1)  # as hd.tl.predict does, sections have noise of their own
        made = fitted.predict(section, m.section.spots, n_draws=N_DRAWS, keep_draws=N_DRAWS, seed=seed, progress=False)
        draws.append(np.stack([np.asarray(draw) for draw in made.draws]))
    return draws


def scores(draws: list[np.ndarray], test: list[Made], modules: np.ndarray) -> dict[str, float]:
    """Score draws ``(k, n, G)`` of each test section in log2(1 + count)."""
    drawn = [d @ modules for d in draws]
    measured = [np.log2(1 + m.section.counts.toarray()) @ modules for m in test]
    found = {
        "mCRPS": np.mean([crps(d, y).mean() for d, y in zip(drawn, measured)]),
        "mES": np.mean([energy_score(d, y).mean() for d, y in zip(drawn, measured)]),
        "AUC": np.mean(
            [told_apart([d[i] for d in drawn], measured, test) for i in range(min(AUC_DRAWS, len(drawn[0])))]
        ),
    }
    return {name: float(value) for name, value in found.items()}


def told_apart(drawn: list[np.ndarray], measured: list[np.ndarray], test: list[Made]) -> float:
    """Return the AUC of a classifier that tells draws from measured spots, on sections that it has not seen."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    def rows(which: slice) -> tuple[np.ndarray, np.ndarray]:
        shares = [m.shares for m in test[which]]
        parts = [np.hstack([np.concatenate(of[which]), np.concatenate(shares)]) for of in (drawn, measured)]
        return np.concatenate(parts), np.repeat([0, 1], len(parts[0]))

    half = len(test) // 2
    classifier = HistGradientBoostingClassifier(random_state=0).fit(*rows(slice(None, half)))
    x, y = rows(slice(half, None))
    return float(roc_auc_score(y, classifier.predict_proba(x)[:, 1]))


def measure(entries: Sequence[str], train: list[Made], test: list[Made]) -> dict[str, dict[str, float]]:
    """Fit all methods on some sections, and score them and the truth on others."""
    counts = [m.section.counts.toarray() for m in train]
    modules = GeneModules.fit(
        np.log2(1 + np.concatenate(counts)), np.repeat(np.arange(len(counts)), [*map(len, counts)])
    ).raw
    found = {TRUTH: scores([np.log2(1 + m.truth) for m in test], test, modules)}
    first = None
    for entry in entries:
        label, _, text = entry.partition("=")
        start = time.perf_counter()
        fitted = fit(text, train)
        middle = time.perf_counter()
        own = scores(drawn_by(fitted, test), test, modules)
        own |= {"fit s": middle - start, "predict s": time.perf_counter() - middle}
        first = own if first is None else first
        for name in ("mCRPS", "mES"):
            own[f"closed {name}"] = (first[name] - own[name]) / (first[name] - found[TRUTH][name])
        found[label] = own
        print(
            f"{sum(map(len, counts)):6d} {label:10s} " + "  ".join(f"{k} {v:.4g}" for k, v in own.items()), flush=True
        )
    print(
        f"{sum(map(len, counts)):6d} {TRUTH:10s} " + "  ".join(f"{k} {v:.4g}" for k, v in found[TRUTH].items()),
        flush=True,
    )
    return found


def figure(results: dict[str, dict], path: Path) -> None:
    """Draw the part of the gap that is closed, and the AUC, against the number of training spots."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    spots = sorted(map(int, results))
    labels = [label for label in results[str(spots[0])] if label != TRUTH]
    for ax, name, title in zip(axes, ("closed mCRPS", "AUC"), ("part of the gap closed", "AUC, draws against spots")):
        for label in labels:
            at = [n for n in spots if label in results[str(n)]]
            ax.plot(at, [results[str(n)][label][name] for n in at], marker="o", label=label)
        if name == "AUC":
            ax.plot(spots, [results[str(n)][TRUTH][name] for n in spots], color="0.5", ls=":", label="true law")
            ax.axhline(0.5, color="0.8", lw=0.8)
        else:
            ax.axhline(1, color="0.5", ls=":", label="true law")
        ax.set(xscale="log", xlabel="training spots", title=title, xticks=spots, xticklabels=[f"{n:,}" for n in spots])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, bbox_to_anchor=(1, 0.5), loc="center left")
    fig.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> dict[str, dict]:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for sections; a temporary one by default")
    parser.add_argument("--embedding", choices=("cells", "texture"), default="cells")
    parser.add_argument("--spots", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="LABEL=NAME:CONFIG")
    parser.add_argument("--json", type=Path, help="where to write the results, after every size")
    parser.add_argument("--figure", type=Path, help="where to draw them")
    parser.add_argument("--dry-run", action="store_true", help="everything in miniature")
    args = parser.parse_args(arguments)
    hd.settings.verbosity = "warning"
    # The image is of use to the texture encoder only.
    options: dict[str, Any] = {"size_um": 1600.0, "mpp": 1.0 if args.embedding == "texture" else 4.0, "n_genes": 120}
    n_test, n_draws, sizes = N_TEST, N_DRAWS, args.spots
    if args.dry_run:
        options |= {"size_um": 800.0, "n_genes": 60}
        n_test, n_draws, sizes = 2, 4, [60]
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = (args.cache or Path(folder)) / args.embedding
        test = sections(cache, range(FIRST_TEST_SEED, FIRST_TEST_SEED + n_test), options, n_draws)
        train: list[Made] = []
        for size in sorted(sizes):
            while sum(len(m.shares) for m in train) < size:
                train += sections(cache, [len(train)], options, 1)
            results[str(size)] = measure(args.methods, train, test)
            if args.json:
                args.json.write_text(json.dumps({"version": hd.__version__, "spots": results}, indent=1) + "\n")
            if args.figure:
                figure(results, args.figure)
    return results


if __name__ == "__main__":
    main()
