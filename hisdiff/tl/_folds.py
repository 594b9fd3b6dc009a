"""The folds of a cross-validation: their fits, at once where there are workers, and the rows that are kept of them."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._workers import LazyItems, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hisdiff.tl._comparison import Comparison, Entry, Rows, Terms
    from hisdiff.tl._grouped import GroupedSections

# How rows of the sections of a fold become one; all other columns are averaged.
_JOINED: dict[str, str | Callable[[Iterable[str]], str]] = {
    "section": ", ".join,
    "n_spots": "sum",
    "has_draws": "all",
    "predict_s": "sum",
    "peak_gb": "max",
}


class Ledger:
    """Rows of the table that are done, one file of a folder for each fit."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"save={str(folder)!r} is not a folder, in which finished folds could be kept.")

    def file(self, entry: Entry, seed: int, **facts: object) -> Path:
        """Return where the rows of a fit are kept, which ``facts`` identify."""
        fit = {"label": entry.label, "method": entry.name, "config": entry.config.to_dict(), "seed": seed}
        text = json.dumps({"version": VERSION, **fit, **facts}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    @staticmethod
    def keep(rows: Rows, file: Path) -> None:
        """Write rows by one rename, so that a file is whole or not there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".part")
        fresh.write_text(json.dumps(rows, default=lambda value: value.item()), encoding="utf8")
        fresh.replace(file)


@dataclass(frozen=True)
class _Fit:
    """One fit of a fold; without a method, the controls."""

    fold: str
    entry: Entry | None = None
    seed: int = 0


class Folds:
    """The fits of all folds; the comparison of a fold is made with its first fit, and dropped with the next fold."""

    def __init__(self, sections: GroupedSections, entries: Sequence[Entry], terms: Terms, by: str) -> None:
        self.sections, self.terms, self.by = sections, terms, by
        some = [(entry, seed) for entry in entries for seed in terms.seeds]
        self.fits = [_Fit(fold, *fit) for fold in sections.folds for fit in (*some, (None, 0))]
        self._comparison = functools.lru_cache(maxsize=1)(self._made)

    def _made(self, fold: str) -> Comparison:
        logger.info(
            "fold %d of %d: %s %r is left out",
            list(self.sections.folds).index(fold) + 1,
            len(self.sections.folds),
            self.by,
            fold,
        )
        return self.sections.comparison(fold)

    def rows(self, ledger: Ledger | None) -> Rows:
        """Return the rows of all folds, kept ones and those that are computed now."""
        files = [None if ledger is None else self._file(ledger, fit) for fit in self.fits]
        done: dict[int, Rows] = {}
        for number, file in enumerate(files):
            if file is not None and file.exists():
                logger.info("fold %r: taken from %s", self.fits[number].fold, file)
                done[number] = json.loads(file.read_text(encoding="utf8"))
        todo = [number for number in range(len(self.fits)) if number not in done]
        work, items = functools.partial(_rows_of, self.terms), LazyItems(todo, self._with_comparison)
        for k, rows in spread(work, items, "the cross-validation"):
            done[todo[k]] = rows
            if ledger is not None and (file := files[todo[k]]) is not None:
                ledger.keep(rows, file)
        of_fold: dict[str, Rows] = {}
        for number, fit in enumerate(self.fits):
            of_fold.setdefault(fit.fold, []).extend(done[number])
        return [row for fold, rows in of_fold.items() for row in _joined(rows, fold)]

    def _file(self, ledger: Ledger, fit: _Fit) -> Path | None:
        if fit.entry is None:
            return None
        genes = None if self.sections.genes is None else [str(gene) for gene in self.sections.genes]
        asked = {"genes": genes, "n_draws": self.terms.n_draws, "library_size": self.terms.library_size}
        return ledger.file(fit.entry, fit.seed, sections=self.sections.digest(fit.fold), **asked)

    def _with_comparison(self, number: int) -> tuple[Comparison, _Fit]:
        return self._comparison(self.fits[number].fold), self.fits[number]


def _rows_of(terms: Terms, item: tuple[Comparison, _Fit]) -> Rows:
    comparison, fit = item
    return comparison.controls(terms) if fit.entry is None else comparison.run(fit.entry, fit.seed, terms)


def _joined(rows: Rows, fold: str) -> Rows:
    """Make one row of those of the sections of a fold."""
    table = pd.DataFrame(rows)
    how = {name: _JOINED.get(name, "mean") for name in table.columns if name not in ("method", "seed")}
    joined = table.groupby(["method", "seed"], sort=False).agg(how).reset_index()
    joined.insert(1, "fold", fold)
    kept = joined[["method", "fold", "section", "seed", *(n for n in how if n != "section")]]
    return [dict(zip(kept.columns, row)) for row in kept.itertuples(index=False)]
