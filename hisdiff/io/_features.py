"""One rule for the columns of all readers: gene expression of one genome, without antibodies and controls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from hisdiff._check import listing, one_of
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

EXPRESSION = "gene expression"
TYPES = ("feature_types", "feature_type")
"""Columns in which the field's readers keep what kind of feature a row of the matrix is."""
NO_GENES = (
    "antibody capture", "protein expression", "crispr guide capture", "multiplexing capture", "custom", "peaks",
    "negative control probe", "negative control codeword", "unassigned codeword", "deprecated codeword", "blank codeword",
    "genomic control",
)  # fmt: skip
GENOME = "genome"
# Features that measure no gene of the tissue: probes of Xenium, MERSCOPE, CosMx and GeoMx, spiked-in RNA, antibodies and tags of samples.
_CONTROL = re.compile(
    r"(NegControl(Probe|Codeword)|UnassignedCodeword|DeprecatedCodeword|GenomicControl|BLANK|antisense)_|"
    r"Blank-\d|NegPrb\d|NegativeControl|SystemControl\d|FalseCode|Intergenic_Region|"
    r"NegProbe|ERCC-\d{5}|Hashtag|(ADT|HTO)_|.+[-_]TotalSeq"
)


def genes_of(adata: AnnData, what: str, genome: str | None = None) -> AnnData:
    """Return the columns that are gene expression of one genome, by names that are all different; say what was left out."""
    adata = _expression_only(adata, what, genome)
    adata.var_names = unique_genes(adata.var_names, what)
    return adata


def _expression_only(adata: AnnData, what: str, genome: str | None) -> AnnData:
    keep = np.ones(adata.n_vars, dtype=bool)
    column = next((name for name in TYPES if name in adata.var), None)
    if column is not None:
        types = adata.var[column].astype(str)
        kind = types.str.lower()
        # Other words for genes are left to themselves; of those that are none, nothing can be learned.
        others = ~kind.eq(EXPRESSION) if kind.eq(EXPRESSION).any() else kind.isin(NO_GENES)
        keep &= ~others.to_numpy()
        if not keep.all():
            left = sorted(types[~keep].unique())
            logger.info(
                "%s: left out %d features that are not gene expression: %s.", what, (~keep).sum(), listing(left)
            )
    controls = adata.var_names.astype(str).str.match(_CONTROL) & keep
    if controls.any():
        logger.info(
            "%s: left out %d controls or antibodies, such as %s.",
            what,
            controls.sum(),
            listing(adata.var_names[controls], 3),
        )
        keep &= ~controls
    if adata.n_vars and not keep.any():
        raise ValueError(
            f"{what} has no gene expression: its {adata.n_vars} features are antibodies or controls, such as {listing(adata.var_names, 4)}."
        )
    if GENOME in adata.var:
        genomes = adata.var[GENOME].astype(str).to_numpy()
        keep &= np.isin(genomes, _genomes(sorted(set(genomes[keep])), genome, what))
    elif genome is not None:
        raise ValueError(f"{what} does not say of which genome its genes are (no var['genome']); leave genome= out.")
    return adata if keep.all() else adata[:, keep].copy()


def _genomes(there: list[str], wanted: str | None, what: str) -> list[str]:
    if wanted is not None:
        return [one_of(wanted, there, f"genome of {what}")]
    if len(there) > 1:
        raise ValueError(
            f"{what} has genes of several genomes, {listing(there)}; choose one, with genome= of a reader of folders, or the columns "
            f"adata[:, adata.var['genome'] == {there[0]!r}] of an AnnData."
        )
    return there


def unique_genes(names: Sequence[str], what: str) -> pd.Index:
    """Return gene names with their repeats numbered, as scanpy's readers do, and log it."""
    index = pd.Index(names)
    repeated = index[index.duplicated()].unique()
    if len(repeated) == 0:
        return index
    logger.info(
        "%s: %d gene names occur more than once and were numbered: %s", what, len(repeated), listing(repeated, 5)
    )
    return make_index_unique(index)
