"""Time the prediction of one section with the `fast` model and with the published setting; prints their ratio.

    python tests/benchmarks/paper_speed.py --json paper_speed.json

Expression is invented, since time does not depend on it. The `fast` model is fitted and its whole prediction is timed,
context included. The published network (width 384, 12 blocks) has random weights; on a processor its 1000 steps for all
spots and draws would take days, so some steps are timed for some spots and scaled up linearly, the conditioner left out
in its favour.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from hisdiff._nn._initialize import initialize
from hisdiff._section import FeatureSpec, Locations, Section, library_size_of
from hisdiff._training._loop import generator_for
from hisdiff.encoders import get
from hisdiff.methods.hisdiff import FactorConfig, FittedHisDiff, GeneConfig, HisDiff
from hisdiff.methods.hisdiff.gene._model import GeneModel, GeneNetwork, Sizes
from hisdiff.methods.hisdiff.gene._scale import GeneScale

UNI_DIM = 1024


class RandomFeatures:
    """Embeddings of random numbers, the same at the same place."""

    def __init__(self, dim: int, n_spots: int, seed: int) -> None:
        self.spec = FeatureSpec("random", "1", dim, 0.5, 112.0)
        self.mean, self.std = np.zeros(dim, np.float32), np.ones(dim, np.float32)
        self._values = np.random.default_rng(seed).standard_normal((n_spots, dim), dtype=np.float32)

    def at(self, locations: Locations) -> np.ndarray:
        return self._values[np.round(locations.xy_um[:, 0] / 200).astype(int)]


def section(n_spots: int, n_genes: int, dim: int, seed: int) -> Section:
    """Spots in a row at 200 um."""
    spots = Locations(np.stack([200.0 * np.arange(n_spots), np.zeros(n_spots)], axis=1), 50.0)
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(1, 4, n_genes), (n_spots, n_genes)).astype(np.float32))
    genes = np.array([f"gene{i}" for i in range(n_genes)])
    return Section(
        f"s{seed}",
        genes,
        counts,
        spots,
        features=RandomFeatures(dim, n_spots, seed),
        library_size=library_size_of(counts),
    )


def fast_seconds(n_spots: int, n_genes: int, n_draws: int, repeats: int) -> float:
    """Return the shortest time of a whole prediction."""
    dim = get("texture").spec.dim
    training = [section(n_spots, n_genes, dim, seed) for seed in (1, 2, 3)]
    # One choice of each setting, the one with the widest embedding, so that the fit is short; sizes are the preset's.
    single = {"scalings": ("both",), "gammas": (0.3,), "penalties": (1.5,)}
    config = FactorConfig.from_dict({"max_steps": 2, "validate_every": 2, **single})
    watched = [section(8, n_genes, dim, 4)]  # few spots, since looks at held-out tissue are most of so short a fit
    fitted = HisDiff().fit(training, config, validation=watched, device="cpu", progress=False)
    target = section(n_spots, n_genes, dim, 0)
    return min(timed(fitted, target, n_draws, fitted.config.n_steps) for _ in range(repeats))


def paper_step_seconds(n_spots: int, n_genes: int, n_steps: int) -> float:
    """Return the time of one step for one draw."""
    config = GeneConfig.preset("paper")
    sizes = Sizes.of(config, n_genes, UNI_DIM)
    network = initialize(GeneNetwork.of(config, sizes), generator_for(0, -1))
    model = GeneModel(config, sizes, network, GeneScale.identity(UNI_DIM, n_genes), log2_size=0.0, pitch_um=None)
    target = section(n_spots, n_genes, UNI_DIM, 0)
    fitted = FittedHisDiff(target.genes, config, model)
    once = min(timed(fitted, target, 1, 1) for _ in range(2))
    return (timed(fitted, target, 1, 1 + n_steps) - once) / n_steps


def timed(fitted: FittedHisDiff, target: Section, n_draws: int, n_steps: int) -> float:
    """Return the time of one prediction."""
    start = time.perf_counter()
    fitted.predict(target, target.spots, n_draws=n_draws, n_steps=n_steps, device="cpu", progress=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=180)
    parser.add_argument("--genes", type=int, default=270)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--timed-spots", type=int, default=4, help="spots that the published network is timed for")
    parser.add_argument("--timed-steps", type=int, default=1, help="steps that it is timed over")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    n_steps = GeneConfig.preset("paper").n_steps
    fast = fast_seconds(args.spots, args.genes, args.draws, repeats=3)
    step = paper_step_seconds(args.timed_spots, args.genes, args.timed_steps)
    paper = step * args.spots / args.timed_spots * n_steps * args.draws
    results = {
        "spots": args.spots, "genes": args.genes, "draws": args.draws, "threads": torch.get_num_threads(),
        "fast_s": fast, "paper_step_s": step, "paper_timed_spots": args.timed_spots,
        "paper_timed_steps": args.timed_steps, "paper_scaled_s": paper, "ratio": paper / fast,
    }  # fmt: skip
    print(f"{args.spots} spots x {args.genes} genes x {args.draws} draws, {results['threads']} threads")
    print(f"fast   {fast:12.2f} s")
    print(f"paper  {paper:12.0f} s  ({paper / 3600:.1f} h; scaled from {args.timed_steps} steps of one draw at")
    print(
        f"       {args.timed_spots} spots, {step:.2f} s each, to {n_steps} steps, {args.draws} draws, {args.spots} spots)"
    )
    print(f"ratio  {paper / fast:12.0f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
