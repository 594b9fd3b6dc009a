"""Throughput of embedding: a bare encoder against `embed_locations`, and the texture encoder alone and in `hd.pp.embed`.

    python tests/benchmarks/embed.py [--architecture vit_base_patch16_224] [--patches 48] [--rounds 3] [--json FILE]
    python tests/benchmarks/embed.py --texture    # that alone, per second of processor

Weights are random, and images are in memory: noise for the encoders alone, the toy tissue for `hd.pp.embed`. A bare
pass and one through `embed_locations` over the same patches take turns, and their ratio is taken within each round,
so that other work on the machine cancels.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

import hisdiff as hd
from hisdiff._device import resolve_device
from hisdiff.encoders import EncoderSpec
from hisdiff.encoders._embed import embed_locations
from hisdiff.encoders._import_timm import import_timm
from hisdiff.encoders._recipes import IMAGENET
from hisdiff.encoders._texture import TextureEncoder
from hisdiff.encoders._timm import own_output
from hisdiff.encoders._torch import TorchEncoder


class NoiseImage:
    """Noise in memory at 0.35 um per pixel, resampled on reading."""

    mpp = 0.35

    def __init__(self, side_px: int = 6000) -> None:
        self.pixels = np.random.default_rng(0).integers(60, 240, (side_px, side_px, 3), dtype=np.uint8)

    @property
    def bounds_um(self) -> tuple[float, float, float, float]:
        return 0.0, 0.0, self.pixels.shape[1] * self.mpp, self.pixels.shape[0] * self.mpp

    def read(self, box_um: tuple[float, float, float, float], mpp: float) -> np.ndarray:
        x0, y0, x1, y1 = (round(edge / self.mpp) for edge in box_um)
        side = round((box_um[2] - box_um[0]) / mpp)
        return np.asarray(Image.fromarray(self.pixels[y0:y1, x0:x1]).resize((side, side), Image.Resampling.BILINEAR))


def seconds(work) -> float:
    """Return how long a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def texture_alone(rounds: int = 3) -> dict[str, float]:
    """Return patches per second of processor of the texture encoder, and through `embed_locations`, reading included."""
    image, encoder = NoiseImage(), TextureEncoder()
    xy = np.random.default_rng(1).uniform(200, 1800, (128, 2))
    half = encoder.spec.patch_um / 2
    patches = np.stack([image.read((x - half, y - half, x + half, y + half), encoder.spec.mpp) for x, y in xy[:64]])
    found: dict[str, list[float]] = {"encode": [], "embed_locations": []}
    for _ in range(rounds):
        start = time.process_time()
        encoder.encode(patches)
        found["encode"].append(len(patches) / (time.process_time() - start))
        start = time.process_time()
        embed_locations(encoder, image, xy, progress=False)
        found["embed_locations"].append(len(xy) / (time.process_time() - start))
    return {name: round(max(rates), 1) for name, rates in found.items()}


def whole_section() -> tuple[int, float]:
    """Return the number of spots of a toy section and the seconds of `hd.pp.embed`, tissue and lattice included."""
    sdata = hd.datasets.toy(size_um=2000)
    return sdata.tables["table"].n_obs, seconds(lambda: hd.pp.embed(sdata, "texture", progress=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="vit_base_patch16_224")
    parser.add_argument("--patches", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--texture", action="store_true", help="the texture encoder alone, per second of processor")
    arguments = parser.parse_args()
    if arguments.texture:
        print(f"patches per second of processor: {texture_alone()}")
        return
    n, device = arguments.patches, resolve_device(arguments.device)
    image = NoiseImage()
    xy = np.random.default_rng(1).uniform(200, 1800, (128, 2))

    def build():
        return import_timm().create_model(arguments.architecture, num_classes=0)

    with_dim = EncoderSpec(arguments.architecture, "random", build().num_features, 224, 0.5)
    vit = TorchEncoder(with_dim, build, own_output, *IMAGENET).to(device)
    patches = np.stack([image.read((x - 56, y - 56, x + 56, y + 56), 0.5) for x, y in xy[:n]])
    size = vit.batch_size
    vit.encode(patches[:size])
    bare, through = [], []
    for _ in range(arguments.rounds):
        bare.append(seconds(lambda: [vit.encode(patches[i : i + size]) for i in range(0, n, size)]))
        through.append(seconds(lambda: embed_locations(vit, image, xy[:n], progress=False)))
    texture = [seconds(lambda: embed_locations(TextureEncoder(), image, xy, progress=False)) for _ in range(3)]
    spots, section = whole_section()
    result = {
        "device": str(device),
        "architecture": arguments.architecture,
        "bare_per_s": round(n / min(bare), 2),
        "embed_per_s": round(n / min(through), 2),
        "ratio": round(float(np.median(np.divide(bare, through))), 3),
        "ratios": np.round(np.divide(bare, through), 3).tolist(),
        "texture_per_s": round(len(xy) / min(texture[1:]), 1),
        "section_spots": spots,
        "section_per_s": round(spots / section, 1),
    }
    for key, value in result.items():
        print(f"{key:14} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
