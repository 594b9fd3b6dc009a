"""How well methods predict sections that are left out, from plain arrays: the same metrics as ``hd.tl.evaluate``."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._scorer import Scorer
from hisdiff._stats._spatial import Layout
from hisdiff._training._config import config_from
from hisdiff.methods._registry import get
from hisdiff.methods.hisdiff.factor._closed import ClosedForm

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from hisdiff._section import Section

N_DRAWS = 16
AUC_DRAWS = 4
TOLD = (
    "pcc_all", "mse", "energy_score", "coexpression_mae", "rvd",
    "module_crps", "module_energy_score", "module_crps_centered", "module_energy_score_centered",
)  # fmt: skip


LONG = {"preset": "dit", "max_steps": 6000, "validate_every": 100, "patience": 10, "learning_rate": 3e-4, "ema": 0.995}
METHODS = {
    "ridge": "ridge:baseline",
    "fast": "hisdiff:fast",
    "dit": "hisdiff:dit",
    "dit long": "hisdiff:" + json.dumps(LONG),
    "dit of the mean": "hisdiff:" + json.dumps({**LONG, "with_embedding": False}),
    "dit dropout": "hisdiff:" + json.dumps({**LONG, "dropout": 0.5, "weight_decay": 0.1}),
}
"""Methods of the part ``accuracy``, as ``Entry.parse`` reads them."""


@dataclass(frozen=True)
class Split:
    """Sections to learn from and sections that are left out.

    Attributes
    ----------
    train, test
        Sections that share a panel.
    shares
        ``(n, C)`` of cell types at the spots of each test section, or None where they are not known.
    """

    train: list[Section]
    test: list[Section]
    shares: list[np.ndarray] | None = None

    def most_counted(self, n_genes: int | None) -> Split:
        """Return the split on the genes that are counted most in training."""
        genes = self.train[0].genes
        if n_genes is None or n_genes >= len(genes):
            return self
        total = sum(np.asarray(s.counts.sum(axis=0)).ravel() for s in self.train)
        panel = genes[np.sort(np.argsort(-total, kind="stable")[:n_genes])]
        taken = [[s.with_panel(panel) for s in part] for part in (self.train, self.test)]
        return Split(*taken, self.shares)


@dataclass(frozen=True)
class Entry:
    """A method as ``LABEL=NAME:CONFIG``, with a preset or a JSON mapping; ``@STEPS`` at the end is for sampling steps."""

    label: str
    method: str
    config: str | dict
    n_steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> Entry:
        text, _, steps = text.partition("@")
        label, _, rest = text.partition("=")
        method, _, config = rest.partition(":")
        settings = json.loads(config) if config.startswith("{") else config
        return cls(label, method, settings, int(steps) if steps else None)


@contextmanager
def one_closed_form() -> Iterator[None]:
    """Fit the closed-form part once for all models that have the same, which saves minutes of a card."""
    fit, kept = ClosedForm.__dict__["fit"], {}
    shared = ("scalings", "n_components", "linear", "gammas", "penalties", "n_landmarks", "profile", "n_blocks", "n_factors",
              "n_condition")  # fmt: skip

    def once(cls: Any, sections: Any, config: Any, run: Any) -> ClosedForm:
        key = repr([getattr(config, name) for name in shared])
        if key not in kept:
            kept[key] = fit.__func__(cls, sections, config, run)
        return kept[key]

    ClosedForm.fit = classmethod(once)
    try:
        yield
    finally:
        ClosedForm.fit = fit


def measure(entry: Entry, split: Split, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Fit a method, draw at the sections that are left out, and score that."""
    method = get(entry.method)
    start = time.perf_counter()
    fitted = method.fit(
        split.train, config_from(method.config_type, entry.config), seed=seed, device=str(device), progress=False
    )
    middle = time.perf_counter()
    told = [
        fitted.predict(
            replace(s, counts=None), s.spots, n_draws=N_DRAWS, keep_draws=N_DRAWS, n_steps=entry.n_steps, seed=1,
            device=str(device), progress=False,
        )
        for s in split.test
    ]  # fmt: skip
    end = time.perf_counter()
    counts = [s.counts.toarray() for s in split.test]
    layout = Layout(
        np.concatenate([s.spots.xy_um for s in split.test]), np.repeat(np.arange(len(counts)), [*map(len, counts)])
    )
    scorer = Scorer(np.concatenate(counts), layout, GeneModules.of_counts([s.counts for s in split.train]))
    draws = [np.concatenate([one.draws[i] for one in told]) for i in range(N_DRAWS)]
    point, law = scorer.metrics(np.concatenate([one.mean for one in told])), scorer.scores(draws)
    single = scorer.metrics(draws[0])
    found: dict[str, Any] = {}
    for end_of_name in ("", "_norm"):
        every = {**{f"draw_{k}": v for k, v in single[end_of_name].items()}, **point[end_of_name], **law[end_of_name]}
        for name in (*TOLD, "draw_coexpression_mae", "draw_rvd"):
            if name in every:
                found[name + end_of_name] = every[name]
    if split.shares is not None:
        modules = scorer.modules.raw
        drawn = [[np.asarray(one.draws[i]) @ modules for one in told] for i in range(AUC_DRAWS)]
        true = [np.log2(1 + each) @ modules for each in counts]
        found["auc"] = float(np.mean([told_apart(one, true, split.shares) for one in drawn]))
    scored = [row for row in fitted.history if "val_score" in row]
    if scored:
        found |= {"looks": len(scored), "val_start": scored[0]["val_score"]}
        found |= {"val_best": min(row["val_score"] for row in scored)}
        found["best_step"] = min(scored, key=lambda row: row["val_score"])["step"]
    if fitted.history:
        last = fitted.history[-1]
        found |= {"steps": last["step"], "loss": last.get("loss")}
    return found | {"fit_s": middle - start, "predict_s": end - middle, "score_s": time.perf_counter() - end}


def told_apart(drawn: list[np.ndarray], measured: list[np.ndarray], shares: list[np.ndarray]) -> float:
    """Return the AUC of a classifier that tells draws from measured spots, on sections that it has not seen."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    def rows(which: slice) -> tuple[np.ndarray, np.ndarray]:
        beside = np.concatenate(shares[which])
        parts = [np.hstack([np.concatenate(of[which]), beside]) for of in (drawn, measured)]
        return np.concatenate(parts), np.repeat([0, 1], len(beside))

    half = max(1, len(measured) // 2)
    classifier = HistGradientBoostingClassifier(random_state=0).fit(*rows(slice(None, half)))
    x, y = rows(slice(half, None))
    return float(roc_auc_score(y, classifier.predict_proba(x)[:, 1]))


def split_in(path: Path, section_of: Any) -> Split:
    """Return what ``gpu_sections.py`` wrote; without ``test`` the last section is the test."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    numbers = np.unique(arrays["section"])
    test = arrays.get("test", numbers[-1:])
    parts: dict[bool, list[Any]] = {True: [], False: []}
    shares = []
    for place, number in enumerate(numbers.tolist()):
        rows = arrays["section"] == number
        own = (arrays[name][rows] for name in ("counts", "embedding", "xy_um"))
        scale = tuple(arrays[name][place] for name in ("mean", "std")) if "mean" in arrays else None
        parts[number in test].append(section_of(f"s{number}", *own, arrays["genes"], scale))
        if number in test and "shares" in arrays:
            shares.append(arrays["shares"][rows])
    return Split(parts[False], parts[True], shares or None)
