"""bfloat16 against float32 on this machine: matrix products, the forward pass of an encoder, steps of training.

    python tests/benchmarks/precision.py [--architecture vit_base_patch16_224] [--patches 8] [--device cpu] [--json FILE]
    python tests/benchmarks/precision.py --parts training --data DATA

Both take turns, and of each the quickest round counts. Weights are random; training is on the toy tissue, and its time is
that of a step beyond the first, looks at held-out tissue left out. With ``--data``, a folder that holds ``her2st``, it is on
sections C2 to C4, and C5 is predicted: its normalised mean squared error and PCC in either precision, and how far single
draws are apart, relative to what a draw varies by.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import hisdiff as hd
from hisdiff._device import multiplies_bf16, resolve_device
from hisdiff.encoders import EncoderSpec
from hisdiff.encoders._import_timm import import_timm
from hisdiff.encoders._recipes import IMAGENET
from hisdiff.encoders._timm import own_output
from hisdiff.encoders._torch import TorchEncoder

ROUNDS = 3
TRAINED = {
    "fast": {"scalings": ["raw"], "gammas": [0.3], "penalties": [1.5], "max_steps": 200},
    "dit": {"preset": "dit", "max_steps": 4, "batch_size": 32},
    "dit, all of expression": {"preset": "dit", "around": None, "max_steps": 20, "batch_size": 32},
}
PARTS = ("products", "encoder", "training")


def quickest(*works, rounds: int = ROUNDS) -> list[float]:
    """Return the shortest time of each piece of work; they take turns."""
    times = np.empty((rounds, len(works)))
    for row in times:
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            row[i] = time.perf_counter() - start
    return times.min(axis=0).tolist()


def products(size: int, device: torch.device) -> list[float]:
    """Return GFLOP/s of square products in float32 and bfloat16."""
    left, right = torch.randn(2, size, size, device=device)
    half = left.bfloat16(), right.bfloat16()
    n = max(1, 2**31 // size**3)

    def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
        for _ in range(n):
            c = a @ b
        c[0, 0].item()  # an accelerator is done when its result is here

    return [2e-9 * n * size**3 / t for t in quickest(lambda: multiply(left, right), lambda: multiply(*half))]


def encoder(architecture: str, n_patches: int, device: torch.device) -> tuple[list[float], float]:
    """Return patches a second in float32 and bfloat16, and how far embeddings are apart, relative."""

    def build() -> torch.nn.Module:
        return import_timm().create_model(architecture, num_classes=0)

    spec = EncoderSpec(architecture, "random", build().num_features, 224, 0.5)
    network = TorchEncoder(spec, build, own_output, *IMAGENET).to(device)
    patches = np.random.default_rng(0).integers(60, 240, (n_patches, 224, 224, 3), dtype=np.uint8)
    times = quickest(*(lambda b=b: network._forward(patches, bf16=b) for b in (False, True)), rounds=2)
    return [n_patches / t for t in times], network._bf16_error()


def accuracy(train, test, options: dict, device: torch.device) -> dict[str, list[float] | float]:
    """Return what is predicted after training in float32 and in bfloat16: PCC, MSE, and how far draws are apart."""
    pcc, mse, draws = [], [], []
    for precision in ("no", "bf16"):
        config = {**options, "precision": precision, "patience": None}
        model = hd.tl.fit(train, config=config, device=str(device), progress=False)
        hd.tl.predict(test, model, n_draws=8, keep_draws=1, key_added=precision, device=str(device), progress=False)
        summary = hd.tl.evaluate(test, layer=precision).attrs["summary"]["mean"]
        pcc.append(float(summary["pcc_all"]))
        mse.append(float(summary["mse"]))
        table = test.tables["table"]
        draws.append(np.asarray(table.layers[f"{precision}_draw0"])[:, table.var[f"{precision}_modelled"].to_numpy()])
    apart = np.linalg.norm(draws[1] - draws[0]) / np.linalg.norm(draws[0] - draws[0].mean(axis=0))
    return {"PCC": pcc, "MSE": mse, "draws apart, relative": float(apart)}


def training(sdata, options: dict, device: torch.device) -> list[float]:
    """Return milliseconds of a step in float32 and bfloat16."""

    def fit(precision: str, n: int) -> None:
        changed = {"max_steps": n, "precision": precision, "validate_every": 10**6, "patience": None}
        hd.tl.fit(sdata, config={**options, **changed}, device=str(device), progress=False)

    steps = options["max_steps"]
    runs = [lambda p=p, n=n: fit(p, n) for p in ("no", "bf16") for n in (1, 1 + steps)]
    short, long, short_half, long_half = quickest(*runs, rounds=2)
    return [1e3 * (long - short) / steps, 1e3 * (long_half - short_half) / steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    parser.add_argument("--patches", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, help="folder with her2st, to train on")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    hd.settings.verbosity = "error"
    device = resolve_device(args.device)
    result: dict = {}

    def note(name: str, value) -> None:
        result[name] = value
        print(f"{name:40}", *(f"{v:10.3g}" for v in value) if isinstance(value, list) else (value,), flush=True)

    note("device", str(device))
    note("has instructions for bfloat16", multiplies_bf16(device))
    if "products" in args.parts:
        for size in (256, 1024, 2048):
            note(f"product of {size}, GFLOP/s", products(size, device))
    if "encoder" in args.parts:
        rates, apart = encoder(args.architecture, args.patches, device)
        note(f"{args.architecture}, patches/s", rates)
        note("embeddings apart, relative", apart)
    if "training" in args.parts:
        if args.data is None:
            sections = [hd.datasets.toy(size_um=1200)]
        else:
            sections = [hd.io.her2st(args.data / "her2st", name) for name in ("C2", "C3", "C4", "C5")]
        train, test = (sections, None) if args.data is None else (sections[:-1], sections[-1])
        hd.pp.select_genes(train)
        for sdata in sections:
            hd.pp.embed(sdata, progress=False)
        for name, options in TRAINED.items():
            note(f"{name}, ms/step", training(train, options, device))
            for what, value in ({} if test is None else accuracy(train, test, options, device)).items():
                note(f"{name}, {what}", value)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
