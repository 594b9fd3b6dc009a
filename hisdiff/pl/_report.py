"""One page on an object: what is in it, how accurate it is, maps, transfer, and where everything comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, names_of
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._expression import only_prediction, own_prediction
from hisdiff._sdata._genes import find_gene
from hisdiff._sdata._locate import check_sdata
from hisdiff._sdata._provenance import in_sample_of, notes, records
from hisdiff._sdata._selection import Selection
from hisdiff._stats._accuracy import pearson
from hisdiff._stats._structure import normalize_library_size
from hisdiff.pl._accuracy import is_unlike
from hisdiff.pl._coexpression import coexpression
from hisdiff.pl._contents import contents
from hisdiff.pl._embedding_map import embedding_map
from hisdiff.pl._enrichment import enrichment
from hisdiff.pl._evaluation import evaluation, pair_of
from hisdiff.pl._explore import tables_of_section
from hisdiff.pl._gene_map import gene_map
from hisdiff.pl._overview import sections_figure
from hisdiff.pl._page import Page, check_page, figure_source, fill
from hisdiff.pl._region_map import REGIONS, region_map
from hisdiff.pl._style import styled
from hisdiff.pl._uncertainty_map import uncertainty_map
from hisdiff.pl._values import best_genes, unknown
from hisdiff.pl._view import views_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

BEST, LISTED = 3, 10
"""Genes with maps unless others are named, and genes in lists."""


@dataclass
class Part:
    """A part of the page."""

    name: str
    words: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, str]] = field(default_factory=list)

    def table(
        self, name: str, rows: Sequence[Sequence[Any]], head: Sequence[str] = (), *, numbers: bool = False
    ) -> None:
        """Add a table, unless it is empty."""
        if rows:
            self.tables.append(
                {"name": name, "head": list(head), "rows": [list(row) for row in rows], "numbers": numbers}
            )

    def figure(self, caption: str, draw: Callable[[], Any]) -> None:
        """Add a figure; what cannot be drawn of an object becomes a line that says why."""
        try:
            drawn = draw()
        except (KeyError, ValueError) as error:
            self.words.append(f"{caption}: not shown. {error.args[0] if error.args else error}")
            return
        self.figures.append({"caption": caption, **figure_source(drawn if isinstance(drawn, Figure) else drawn.figure)})

    def __bool__(self) -> bool:
        return bool(self.words or self.tables or self.figures or self.records)


@documented
@checked
@styled
def report(
    sdata: SpatialData,
    path: str | Path | None = None,
    *,
    genes: str | Sequence[str] | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    title: str | None = None,
) -> Page:
    """Report on an object as one self-contained HTML page.

    The page has the contents of the object; for each prediction the accuracy to expect and, where spots were measured, the
    accuracy that was reached; maps of the best and of chosen genes, at spots and finer; uncertainty and transfer; embedding, regions,
    coexpression and pathways as far as they were computed; and the records by which everything can be traced. Nothing is
    computed anew and the object is not changed.

    Parameters
    ----------
    sdata
        An object with at least an image.
    path
        File to write the page to; None to return it only.
    genes
        Genes to map; None for those with the best expected accuracy.
    table_key, image_key
        Names of the table and the image; needed if there are several.
    %(mpp)s
    title
        Title of the page; None for the name of the store or of the section.

    Returns
    -------
    A page with ``html`` and ``save(path)``, which a notebook shows.

    Raises
    ------
    KeyError
        There is no such gene.
    ValueError
        There is nothing to show, or the table or image is ambiguous.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> page = hd.pl.report(sdata)
    >>> "Contents" in page.html
    True
    """
    check_sdata(sdata)
    if path is not None:
        check_page(path)
    selection = Selection(table_key, image_key, mpp=mpp)
    place: dict[str, Any] = {"image_key": image_key, "mpp": mpp}
    tables = tables_of_section(sdata) if table_key is None else [table_key]
    views = _views(sdata, selection, tables)
    table = views[0].table if views else None
    chosen = names_of(genes)
    for gene in chosen or ():
        if table is None:
            raise KeyError(f"There is no table with gene {gene!r}.")
        if find_gene(table, gene) is None:
            raise unknown(table, gene, views[0].what)
    first = figure_source(sections_figure(sdata, table_key=table_key, **place))
    parts = [Part("Contents", figures=[{"caption": "The sections of the object.", **first}])]
    parts[0].table("Elements", [(name.strip(), words) for name, words in contents(sdata)])
    if table is not None:
        names = [view.place.name for view in views if view.table is table]
        parts += [
            _predictions(table, names),
            _accuracy(sdata, table, views[0].what, names),
            _maps(sdata, table, tables, chosen, place),
            _regions(sdata, place),
            _relations(sdata, table, views[0].what, place),
        ]
    parts.append(_provenance(sdata))
    heading = title or (sdata.path.stem if sdata.path is not None else views[0].section_name if views else "Section")
    page = fill(
        "report.html",
        title=heading,
        version=_keys.VERSION,
        store=None if sdata.path is None else str(sdata.path),
        notes=[] if table is None else list(_notes(table)),
        parts=[part for part in parts if part],
    )
    if path is not None:
        logger.info("wrote %s", page.save(path))
    return page


def _views(sdata: SpatialData, selection: Selection, tables: list[str] | None) -> list[Any]:
    try:
        return views_of(sdata, selection, tables)
    except ValueError:  # an image alone
        return []


def _notes(table: AnnData) -> Iterator[str]:
    """Yield what a reader has to know before looking at anything else."""
    for stem, record in records(table, _keys.PREDICTIONS).items():
        transfer = record.get("transfer")
        by_section = transfer.items() if hasattr(transfer, "items") else [("the section", transfer)]
        unlike = [str(name) for name, value in by_section if value == _keys.UNLIKE]
        if unlike:
            yield (
                f"Prediction {stem}: {', '.join(unlike)} is unlike the tissue that the model was trained on. The accuracy to expect "
                f"is not known; a few measured spots help (hd.tl.adapt)."
            )
        if in_sample_of(record):
            yield f"Prediction {stem}: the model was trained on these spots; agreement with them does not estimate accuracy on new tissue."
        elif record.get("uses_section_counts"):
            yield f"Prediction {stem} was made from the counts of these spots; agreement with them does not measure accuracy."


def _predictions(table: AnnData, sections: Sequence[str]) -> Part:
    part = Part("Predictions and transfer")
    for stem, record in records(table, _keys.PREDICTIONS).items():
        rows = [
            ("method", record.get("method", "unknown")),
            ("model", record.get("model", "unknown")),
            ("genes", f"{record.get('n_genes', 0):,}"),
            ("draws", record.get("n_draws", "unknown")),
            ("units", record.get("units", "unknown")),
            ("library size", _listed(record.get("library_size"), record.get("library_size_from"))),
            ("trained on these spots", {True: "yes", False: "no", None: "unknown"}[in_sample_of(record)]),
            ("adapted with", f"{record.get('adapted', 0)} measured spots"),
        ]
        transfer, distance = record.get("transfer"), record.get("transfer_distance")
        for name in sections:
            value = transfer.get(name) if hasattr(transfer, "get") else transfer
            far = distance.get(name) if hasattr(distance, "get") else distance
            if value is not None:
                rows.append(
                    (
                        f"transfer to {name}",
                        f"{value}"
                        + ("" if far is None else f" the cohort (distance {float(far):.2f}; above 1: unlike)"),
                    )
                )
        part.table(stem, rows)
    return part


def _listed(values: Any, origin: Any) -> str:
    numbers = ", ".join(f"{float(value):,.0f}" for value in np.ravel(values)) if values is not None else "unknown"
    return (
        numbers
        if origin is None
        else f"{numbers} ({', '.join(dict.fromkeys(str(value) for value in np.ravel(origin)))})"
    )


def _accuracy(sdata: SpatialData, table: AnnData, what: str, sections: Sequence[str]) -> Part:
    part = Part("Accuracy")
    for stem in records(table, _keys.PREDICTIONS):
        if all(is_unlike(table, stem, section) for section in sections):
            part.words.append(
                f"{stem}: the accuracy to expect is not known, since the tissue is unlike that of the training sections."
            )
        else:
            _expected(part, table, stem)
        try:
            pair = pair_of(sdata, stem, None, what)
        except (KeyError, ValueError):
            continue  # nothing was measured, or it is in other units
        raw, norm = pearson(pair.measured, pair.mean), pearson(*map(normalize_library_size, (pair.measured, pair.mean)))
        rows = [
            (name, f"{np.nanmedian(values):.2f}", f"{np.nanmean(values):.2f}")
            for name, values in (("as it is", raw), ("library-size normalised", norm))
        ]
        part.table(f"{stem}: correlation with the measured spots", rows, ("", "median gene", "mean"), numbers=True)
        part.figure(
            f"{stem} against the measurement: all genes and spots, correlations of genes, means and variances.",
            partial(evaluation, sdata, layer=stem, table_key=what),
        )
    return part


def _expected(part: Part, table: AnnData, stem: str) -> None:
    """Add what left-out training tissue says of the accuracy of each gene."""
    for name, words in ((_keys.cv_pcc_norm(stem), "library size taken out"), (_keys.cv_pcc(stem), "as it is")):
        if name in table.var and np.isfinite(table.var[name].astype(float)).any():
            expected = table.var[name].astype(float).dropna().sort_values(ascending=False)
            part.words.append(
                f"{stem}: the correlation of a gene to expect, from left-out training tissue, {words}: median {expected.median():.2f}, "
                f"{(expected < 0.1).sum()} of {len(expected)} genes below 0.1."
            )
            rows = [(gene, f"{value:.2f}") for gene, value in expected.head(LISTED).items()]
            part.table(f"{stem}: best genes to expect", rows, ("gene", "r"), numbers=True)
            return


def _maps(
    sdata: SpatialData, table: AnnData, tables: list[str] | None, genes: list[str] | None, place: dict[str, Any]
) -> Part:
    part = Part("Maps")
    stem = only_prediction(table) or own_prediction(table)
    names = genes or best_genes(table, BEST)
    words = "Chosen genes" if genes else "Genes with the best expected accuracy" if stem else "Genes that vary most"
    for name in names:
        part.figure(f"{words}: {name}.", partial(gene_map, sdata, name, table_key=tables, **place))
    if stem is not None and _keys.uncertainty(stem) in table.obs:
        key = None if tables is None else tables[0]
        part.figure(
            "What the model does not know, relative to left-out training tissue.",
            lambda: uncertainty_map(sdata, layer=stem, table_key=key, **place),
        )
    return part


def _regions(sdata: SpatialData, place: dict[str, Any]) -> Part:
    part = Part("Regions")
    there = [key for key in REGIONS if any(key in table.obs for table in sdata.tables.values())]
    for key in there:
        part.figure(REGIONS[key][0].capitalize(), partial(region_map, sdata, key, **place))
    return part


def _relations(sdata: SpatialData, table: AnnData, what: str, place: dict[str, Any]) -> Part:
    part = Part("Embedding, coexpression, pathways")
    if records(table, _keys.EMBEDDING_RECORD):
        part.figure(
            "The embedding as colours: similar colours mean similar morphology.",
            lambda: embedding_map(sdata, table_key=what, **place),
        )
    if records(table, _keys.COEXPRESSION):
        part.figure("Coexpression.", lambda: coexpression(table))
    for key, home in table.uns.items():
        if (
            hasattr(home, "get")
            and home.get(_keys.ENRICHMENT_RECORD) is not None
            and "group" in home.get(_keys.ENRICHMENT, ())
        ):
            part.figure(f"Pathway enrichment {key}.", partial(enrichment, table, key))
    return part


def _provenance(sdata: SpatialData) -> Part:
    part = Part("Provenance")
    model = sdata.attrs.get(_keys.STEM, {}).get("model")
    if model:
        part.words.append(f"The model {model['id']}, in {model['path']}, was fitted on this object.")
    if sdata.attrs.get(_keys.STEM, {}).get(_keys.NAMES):
        part.words.append("Some names were changed when the files were read; the originals are kept.")
    for key, table in sdata.tables.items():
        home = {
            name: value
            for name, value in table.uns.get(_keys.STEM, {}).items()
            if name not in (_keys.ENRICHMENT, _keys.TYPE_ENRICHMENT)
        }
        if home:
            part.records.append({"name": f"Records of table {key}", "text": _as_text(home)})
    if notes(sdata):
        part.records.append({"name": "Elements that hisdiff wrote", "text": _as_text(notes(sdata))})
    return part


def _as_text(record: Any) -> str:
    return json.dumps(_plain(record), indent=1, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a record as JSON can hold it; long arrays in a few words."""
    if hasattr(value, "items") and not hasattr(value, "columns"):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "columns"):
        return f"table of {len(value):,} rows: {listing(value.columns)}"
    if isinstance(value, (np.ndarray, list, tuple)):
        flat = np.ravel(np.asarray(value))
        return flat.tolist() if len(flat) <= LISTED else f"{listing(flat[:3].tolist())} ... ({len(flat):,} values)"
    return value.item() if isinstance(value, np.generic) else value
