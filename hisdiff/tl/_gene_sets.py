"""Gene sets from a file, a mapping, or a library that is downloaded once."""

from __future__ import annotations

import codecs
import os
import re
import socket
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

ENRICHR = "https://maayanlab.cloud/Enrichr/geneSetLibrary?mode=text&libraryName={}"
MSIGDB = "https://data.broadinstitute.org/gsea-msigdb/msigdb/release/{release}/{name}.gmt"
_MSIGDB_NAME = re.compile(r"[\w.]+\.v(?P<release>[\d.]+\.(Hs|Mm))\.symbols")
_BINARY = re.compile("[\x00-\x08\x0e-\x1f]")
"""Characters that no text has."""
RESOLVE_S, READ_S = 5.0, 20.0
"""Seconds to wait for the name server, and for each answer of the library's server."""


def read_gene_sets(gene_sets: str | Path | Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return gene sets by name, each gene once.

    Parameters
    ----------
    gene_sets
        A GMT file; a mapping; the name of a library of Enrichr, such as ``"MSigDB_Hallmark_2020"``; or that of a file of
        MSigDB, such as ``"h.all.v2024.1.Hs.symbols"``. Libraries are kept in ``settings.cache_dir/gene_sets``.
    """
    if isinstance(gene_sets, Mapping):
        sets = _from_mapping(gene_sets)
    elif isinstance(gene_sets, (str, Path)):
        path = Path(gene_sets).expanduser()
        if path.is_file() or path.suffix.lower() == ".gmt" or len(path.parts) > 1:
            sets = read_gmt(path)
        else:
            sets = _library(str(gene_sets))
    else:
        raise TypeError(f"gene_sets is a GMT file, a mapping or the name of a library, not {type(gene_sets).__name__}.")
    # AnnData files cannot hold a slash in the name of a column.
    renamed = {name.replace("/", "|"): genes for name, genes in sets.items()}
    if len(renamed) < len(sets):
        raise ValueError("Two gene sets have names that differ in / and | only; files cannot tell them apart.")
    return renamed


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Return the sets of a GMT file: per line a name, a description and genes, separated by tabs."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return _parse_gmt(_text(path), str(path))


def _text(path: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16 (as spreadsheets save it), else in the Latin-1 of older files."""
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        logger.info("%s is not in UTF-8 and was read as Latin-1", path)
    if _BINARY.search(text):
        raise ValueError(f"{path} is not a text file, so it is not a GMT file.")
    return text


def in_panel(sets: Mapping[str, list[str]], panel: np.ndarray, min_size: int, max_size: int) -> dict[str, np.ndarray]:
    """Return the positions in a panel of the genes of each set that has enough of them.

    Sets with fewer than ``min_size`` or more than ``max_size`` genes in the panel are left out and logged; none left is an
    error.
    """
    where: dict[str, int] = {}
    for i, gene in enumerate(panel):
        where.setdefault(gene, i)
    found = {name: np.array([where[gene] for gene in genes if gene in where], dtype=np.int64) for name, genes in sets.items()}  # fmt: skip
    kept = {name: rows for name, rows in found.items() if min_size <= len(rows) <= max_size}
    if not kept:
        most = max(found, key=lambda name: len(found[name]))
        folded = {gene.upper() for gene in panel}
        best = max(sum(gene.upper() in folded for gene in genes) for genes in sets.values())
        raise ValueError(
            f"None of the {len(sets)} gene sets has {min_size} to {max_size} genes among the {len(panel)} modelled ones; the most, "
            f"{len(found[most])} of {len(sets[most])}, has {most!r}. The sets name genes like {listing(sets[most], 3)}, the panel like "
            f"{listing(panel, 3)}."
            + (
                f" With upper and lower case ignored, {best} genes of a set would be found: are the sets of another species?"
                if best > len(found[most])
                else " Model the genes of the sets as well (hd.pp.select_genes(..., genes=...)), or lower min_size."
            )
        )
    if len(kept) < len(found):
        logger.info(
            "%d of %d gene sets have fewer than %d or more than %d genes among the %d modelled ones and are left out",
            len(found) - len(kept), len(found), min_size, max_size, len(panel),
        )  # fmt: skip
    return kept


def _from_mapping(gene_sets: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    if not gene_sets:
        raise ValueError("There is no gene set: the mapping is empty.")
    sets = {}
    for name, genes in gene_sets.items():
        listed = [] if isinstance(genes, str) else list(genes)
        if isinstance(genes, str) or not all(isinstance(gene, str) for gene in listed):
            raise TypeError(f"Gene set {name!r} has to be a list of gene names.")
        if not listed:
            raise ValueError(f"Gene set {name!r} has no gene.")
        sets[str(name)] = list(dict.fromkeys(listed))
    return sets


def _parse_gmt(text: str, what: str) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    empty: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\n").split("\t")
        # Libraries of Enrichr may give a gene a weight: GENE,1.0
        genes = [gene.strip().split(",")[0] for gene in rest[1:] if gene.strip()]
        if name.strip() and rest and not genes:
            empty.append(name.strip())
            continue
        if not name.strip() or not genes:
            raise ValueError(
                f"{what} is not a GMT file: line {number} has {len(rest) + 1} field(s) separated by tabs, and a set needs a name, a "
                f"description and at least one gene."
            )
        if name.strip() in sets:
            raise ValueError(f"{what} has gene set {name.strip()!r} more than once (again in line {number}).")
        sets[name.strip()] = list(dict.fromkeys(genes))
    if not sets:
        raise ValueError(f"{what} holds no gene set with a gene.")
    if empty:
        logger.info("%s: left out %d gene sets without a gene, such as %s", what, len(empty), listing(empty, 3))
    return sets


def _library(name: str) -> dict[str, list[str]]:
    if not re.fullmatch(r"[\w.\- ]+", name):
        raise ValueError(f"{name!r} is neither a file that exists nor the name of a library.")
    name = name.removesuffix(".gmt")
    cached = settings.cache_dir / "gene_sets" / f"{name}.gmt"
    if cached.is_file():
        return read_gmt(cached)
    msigdb = _MSIGDB_NAME.fullmatch(name)
    url = MSIGDB.format(release=msigdb["release"], name=name) if msigdb else ENRICHR.format(urllib.parse.quote(name))
    text = _download(url, name, cached)
    try:
        sets = _parse_gmt(text, f"The answer of {urllib.parse.urlsplit(url).netloc}")
    except ValueError as error:
        raise KeyError(f"{urllib.parse.urlsplit(url).netloc} has no library {name!r} ({error})") from error
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=cached.parent, delete=False, encoding="utf8") as file:
        file.write(text)
    os.replace(file.name, cached)  # noqa: PTH105 - a download that is cut short leaves no half file
    logger.info("downloaded %d gene sets of %s to %s", len(sets), name, cached)
    return sets


def _download(url: str, name: str, cached: Path) -> str:
    host = urllib.parse.urlsplit(url).netloc
    try:
        if not urllib.request.getproxies().get("https"):
            _resolve(host)
        with urllib.request.urlopen(url, timeout=READ_S) as answer:
            return answer.read().decode("utf8")
    except urllib.error.HTTPError as error:
        raise KeyError(f"{host} has no library {name!r} (answer {error.code}).") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectionError(
            f"{name!r} is not a local file, so it was taken as the name of a library; it is not in {cached.parent}, and {host} cannot be "
            f"reached ({error}). Give a GMT file or a mapping, or put the library at {cached}."
        ) from error


def _resolve(host: str) -> None:
    """Raise ``OSError`` where a host has no address; a name server that does not answer is given up on early.

    The system's own look-up takes no timeout and can hang for half a minute without a network.
    """
    problem: list[OSError] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            problem.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(RESOLVE_S)
    if thread.is_alive():
        raise TimeoutError(f"no answer of the name server within {RESOLVE_S:g} s")
    if problem:
        raise problem[0]
