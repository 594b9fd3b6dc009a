"""Time and memory of the coexpression of many genes over many bins: prints seconds, seconds of processor, and GB.

python tests/benchmarks/coexpression.py --genes 5000 --bins 50000 --method spearman --form sparse
"""

from __future__ import annotations

import argparse
import resource
import time

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import hisdiff as hd

N_PROGRAMMES = 20


def table_of(n_bins: int, n_genes: int, form: str) -> ad.AnnData:
    """Return counts of genes that follow one of twenty programmes each; about a fifth of them are not zero."""
    rng = np.random.default_rng(0)
    activity = rng.gamma(0.5, 1.0, (n_bins, N_PROGRAMMES)).astype(np.float32)
    programme, level = rng.integers(N_PROGRAMMES, size=n_genes), rng.gamma(1.0, 0.5, n_genes).astype(np.float32)
    blocks = []
    for start in range(0, n_bins, 2000):
        counts = rng.poisson(activity[start : start + 2000, programme] * level).astype(np.float32)
        blocks.append(sparse.csr_matrix(counts) if form == "sparse" else counts)
    values = sparse.vstack(blocks, format="csr") if form == "sparse" else np.concatenate(blocks)
    side = int(np.ceil(np.sqrt(n_bins)))
    place = np.stack(np.divmod(np.arange(n_bins), side), axis=1) * 20.0
    return ad.AnnData(values, var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]), obsm={"spatial": place})


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--bins", type=int, default=50_000)
    parser.add_argument("--method", choices=("spearman", "pearson", "lee"), default="spearman")
    parser.add_argument("--form", choices=("sparse", "dense"), default="sparse")
    args = parser.parse_args()
    table = table_of(args.bins, args.genes, args.form)
    hd.settings.verbosity = "warning"
    made, start, busy = peak_gb(), time.perf_counter(), time.process_time()
    hd.tl.coexpression(table, layer="X", method=args.method)
    took, work = time.perf_counter() - start, time.process_time() - busy
    print(
        f"{args.genes} genes x {args.bins} bins, {args.form}, {args.method}, modules and scores included: {took:.0f} s "
        f"({work:.0f} s of processor), peak memory {peak_gb():.2f} GB, of which the table and Python {made:.2f} GB"
    )


if __name__ == "__main__":
    main()
