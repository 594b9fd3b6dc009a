"""The method layer on a GPU: the same numbers as on the CPU, how fast, and how well methods predict what is left out.

    python tests/benchmarks/gpu.py --json gpu.json [--sections FILE.npz ...] [--minutes 5] [--parts NAME ...]
    python tests/benchmarks/gpu.py --parts about accuracy --sections states.npz --methods "dit=hisdiff:dit" --json states.json
    python tests/benchmarks/gpu.py --dry-run        # all of it in miniature, on the CPU

Needs torch, numpy, scipy, scikit-learn, pandas, accelerate and tqdm; no SpatialData and no data, and the package need not be
installed: times are of sections that are made up. ``--sections`` takes what ``gpu_sections.py`` writes, for the part ``accuracy``:
methods learn from all sections but the left-out ones, and are scored on these. Vision transformers are timed where timm is
installed. The JSON file is written after every part, and every method; a part that fails is noted with its error and does not stop
the others, and what does not fit into the minutes is left out. On an H200 training, kernels and ``fast`` take 197 s, and noise,
equality and ``sampling_dit`` 45 s; draws of ``paper`` take 40 s, and ``accuracy`` some minutes for each file.

Training and sampling are reported as a share of the peak of a large matrix product on the same card, by the operations that torch
counts in products and attention. Steps of training are taken as they are (``eager``), replayed as a CUDA graph (``graph``), with
compiled parts (``compiled``), and both; losses of all are to agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import traceback
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpu_alone  # noqa: F401  # lets the package be imported, so it comes first
import numpy as np
import torch
from gpu_accuracy import METHODS, Entry, Split, measure, one_closed_form, split_in
from gpu_networks import MINIATURE, Networks, Scale, made_up, random_model, section_of
from gpu_profile import Window, ceilings

from hisdiff._device import Products, resolve_device
from hisdiff._nn._compile import compile_forward
from hisdiff._prediction._device_noise import DeviceNoise
from hisdiff._prediction._noise import BlockNoise
from hisdiff._settings import settings
from hisdiff._training._loop import train
from hisdiff.methods.hisdiff import FactorConfig, HisDiff

if TYPE_CHECKING:
    from collections.abc import Callable

    from hisdiff._section import Section

SAME = {"no": 1e-4, "tf32": 2e-2, "bf16": 2e-2}
"""How far draws may be from those of the CPU, relative, by precision."""
WAYS = {"eager": (False, False), "graph": (True, False), "compiled": (False, True), "compiled_graph": (True, True)}
"""Ways to take a step: whether it is replayed, and whether parts of the network are compiled."""


class Bench:
    """Runs parts one after the other and keeps what they found."""

    def __init__(self, device: torch.device, scale: Scale, file: Path | None, minutes: float) -> None:
        self.device, self.scale, self.file, self.networks = device, scale, file, Networks(scale)
        self.until = time.monotonic() + 60 * minutes
        if device.type == "cuda":
            torch.cuda.init()
        self.result: dict[str, Any] = {}
        self.peak: dict[str, float] = {}

    def run(self, name: str, part: Callable[[], dict[str, Any]]) -> None:
        """Run a part, note what it found, how long it took and the memory it took on the card."""
        if time.monotonic() > self.until:
            found: dict[str, Any] = {"left out": "no time is left"}
        else:
            start = time.perf_counter()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            try:
                found = part()
            except Exception as error:  # noqa: BLE001  # the other parts are worth having
                found = {"failed": f"{type(error).__name__}: {error}", "at": traceback.format_exc().splitlines()[-3:]}
            if self.device.type == "cuda":
                found["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            found["seconds"] = time.perf_counter() - start
        print(f"{name}: {json.dumps(_rounded(found))}", flush=True)
        self.keep(name, found)

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """Keep what was found."""
        self.result[name] = found
        if self.file is not None:
            self.file.write_text(json.dumps(self.result, indent=2) + "\n")

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """Return the shortest time of some work, after one round that is not timed."""
        work()
        times = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return min(times)

    def wait(self) -> None:
        """Wait for the card."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # ------------------------------------------------------------------------------------------------ parts

    def about(self) -> dict[str, Any]:
        """Say what all of it ran on."""
        card = torch.cuda.get_device_properties(self.device) if self.device.type == "cuda" else None
        return {
            "date": date.today().isoformat(),
            "device": platform.processor() or platform.machine() if card is None else card.name,
            "device_gb": None if card is None else card.total_memory / 1e9,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "auto": str(Products.of("auto", self.device)),
        }

    def products(self) -> dict[str, Any]:
        """Time a large matrix product: the peak that shares refer to."""
        n = self.scale.product
        a, b = torch.randn(2, n, n, device=self.device)
        for precision in ("no", "tf32", "bf16"):
            products = Products.of(precision, self.device)
            left, right = (a, b) if products.half is None else (a.to(products.half), b.to(products.half))
            with products.allowed():
                times = self.seconds(lambda left=left, right=right: [left @ right for _ in range(5)])
            self.peak[precision] = 5 * 2 * n**3 / times / 1e12
        return {f"{precision}_tflops": value for precision, value in self.peak.items()}

    def noise(self) -> dict[str, Any]:
        """Compare noise that the device makes with that of numpy."""
        noise = BlockNoise.for_places(0, made_up(self.scale.spots, 1, 1, 0).spots.xy_um)
        there, rows = DeviceNoise(noise, self.device), np.arange(self.scale.spots)
        apart = np.abs(
            there(3, 999, rows, self.scale.genes).cpu().numpy() - noise.normal(3, 999, rows, self.scale.genes)
        )
        return {
            "apart": float(apart.max()),
            "same": bool(apart.max() < 2e-6),
            "device_ms": 1e3 * self.seconds(lambda: there(0, 1, rows, self.scale.genes)),
            "numpy_ms": 1e3 * self.seconds(lambda: noise.normal(0, 1, rows, self.scale.genes)),
        }

    def equality(self) -> dict[str, Any]:
        """Compare draws, and the gradient of the loss for given noise, with those of the CPU."""
        found: dict[str, Any] = {}
        for preset in ("dit", "paper"):
            s = self.networks.section(preset, self.scale.same_spots)
            config = replace(self.networks.config(preset), depth=2)
            model = random_model(config, s)
            asked: dict[str, Any] = {"log2_size": s.log2_size, "n_draws": 1, "n_steps": 20, "seed": 0}
            cpu = next(replace(model, config=replace(config, precision="no")).draws(s, s.spots, device="cpu", **asked))
            for precision, bound in SAME.items():
                own = replace(model, config=replace(config, precision=precision))
                apart = relative(next(own.draws(s, s.spots, device=str(self.device), **asked)), cpu)
                found[f"{preset}_draws_{precision}"] = {"apart": apart, "same": apart <= bound}
            gradients = [
                self.networks.gradient(preset, torch.device(device), s) for device in ("cpu", str(self.device))
            ]
            apart = relative(gradients[1], gradients[0])
            found[f"{preset}_gradient_no"] = {"apart": apart, "same": apart <= SAME["no"]}
        found["same"] = all(part.get("same", True) for part in found.values())
        return found

    def training(self, preset: str) -> dict[str, Any]:
        """Time steps of training: in bf16 in all ways, in the others in the usual one."""
        s = self.networks.section(preset, self.scale.spots)
        found: dict[str, Any] = {"flop": self.networks.flop_of_a_step(preset, s)}
        card = self.device.type == "cuda"
        most = list(WAYS) if preset == "paper" else ["eager", "graph"]  # around the mean nothing is compiled
        ways = {"bf16": most if card else ["eager"], "tf32": ["graph"] if card else ["eager"]}
        ways["no"] = ["eager", "graph"] if card else ["eager"]
        apart: dict[str, float] = {}
        for precision, each in ways.items():
            n = self.scale.steps if precision == "bf16" else self.scale.steps_whole
            for way in each:
                try:
                    now = self._rate(preset, precision, n, s, way, found["flop"])
                except Exception as error:  # noqa: BLE001  # a machine without a compiler
                    now = {"failed": f"{type(error).__name__}: {error}"[:300]}
                found[f"{precision}_{way}"] = now
                plain = found.get(f"{precision}_eager", {}).get("losses")
                if plain and way != "eager" and "losses" in now:
                    apart[f"{precision}_{way}"] = relative(np.array(now["losses"]), np.array(plain))
        same = all(value <= SAME[name.partition("_")[0]] for name, value in apart.items())
        return {**found, "losses_apart": apart, "same": same}

    def kernels(self) -> dict[str, Any]:
        """Look at the kernels of a step of ``paper`` in bf16, and at what its shapes allow."""
        s, config = self.networks.section("paper", self.scale.spots), self.networks.config("paper")
        rows, half = min(config.batch_size, self.scale.spots), self.scale.profiled
        found: dict[str, Any] = {"flop": self.networks.flop_of_a_step("paper", s)}
        found["at_peak_ms"] = found["flop"] / self.peak["bf16"] / 1e9 if self.peak else None
        found["shapes"] = ceilings(self.seconds, self.device, rows, len(s.genes), config.width, config.heads)
        for way in WAYS if self.device.type == "cuda" else ("eager",):
            window = Window(self.device)
            self._trained("paper", "bf16", 2 * half, s, way, every=half, look=window)
            found[way] = window.table(half)
        return found

    def accuracy(self, split: Split, entries: list[Entry], n_genes: int | None, name: str) -> dict[str, Any]:
        """Fit methods and score what they predict of the sections that are left out."""
        split = split.most_counted(n_genes)
        found: dict[str, Any] = {
            "spots": sum(len(s.spots) for s in split.train),
            "left_out": sum(len(s.spots) for s in split.test),
            "genes": len(split.train[0].genes),
        }
        with one_closed_form():
            for entry in entries:
                if time.monotonic() > self.until:
                    found[entry.label] = {"left out": "no time is left"}
                    continue
                try:
                    found[entry.label] = measure(entry, split, self.device)
                except Exception as error:  # noqa: BLE001  # the other methods are worth having
                    at = traceback.format_exc().splitlines()[-5:]
                    found[entry.label] = {"failed": f"{type(error).__name__}: {error}"[:300], "at": at}
                print(f"{name}, {entry.label}: {json.dumps(_rounded(found[entry.label]))}", flush=True)
                self.keep(name, found)
        failed = [label for label, of in found.items() if isinstance(of, dict) and "failed" in of]
        return {**found, "failed": failed} if failed else found

    def sampling(self, preset: str) -> dict[str, Any]:
        """Time draws; those of ``paper`` with few steps, scaled to all of them."""
        s = self.networks.section(preset, self.scale.spots)
        config = self.networks.config(preset)
        model = random_model(config, s)
        n_draws = self.scale.draws if preset == "dit" else 1
        n_steps = config.n_steps if preset == "dit" else self.scale.paper_draw_steps
        asked: dict[str, Any] = {"log2_size": s.log2_size, "n_steps": n_steps, "seed": 0, "device": str(self.device)}
        asks = 2 if config.sampler == "heun" else 1  # of the network in a step
        flop = asks * self.networks.flop_of_a_row(model) * len(s.spots) * n_steps
        found: dict[str, Any] = {
            "spots": len(s.spots),
            "genes": len(s.genes),
            "draws": n_draws,
            "steps": config.n_steps,
        }
        ways = [(precision, False) for precision in SAME]
        if preset == "paper":  # of which the others take minutes
            ways = [("bf16", compiled) for compiled in ((False, True) if self.device.type == "cuda" else (False,))]
        for precision, compiled in ways:
            own = replace(model, config=replace(config, precision=precision, compile=compiled))
            asked["n_draws"] = n_draws if precision == "bf16" else 1
            seconds = self.seconds(lambda own=own: list(own.draws(s, s.spots, **asked)), repeats=1)
            whole = seconds * (config.n_steps / n_steps) * (n_draws / asked["n_draws"])
            found[f"{precision}_compiled" if compiled else precision] = {
                "seconds": whole,
                "spots_per_s": n_draws * len(s.spots) / whole,
                "share_of_peak": self._share(flop * asked["n_draws"] / seconds, precision),
            }
        return found

    def encoder(self) -> dict[str, Any]:
        """Time an encoder against the bare forward pass of its network."""
        from hisdiff.encoders._base import EncoderSpec
        from hisdiff.encoders._import_timm import import_timm
        from hisdiff.encoders._torch import TorchEncoder

        try:
            timm = import_timm()
        except ImportError as error:
            return {"skipped": f"timm is not to be had: {error}"}
        bare = timm.create_model(self.scale.vit, num_classes=0).eval()
        spec = EncoderSpec(self.scale.vit, "random", bare.num_features, 224, 0.5)
        encoder = TorchEncoder(spec, lambda: bare, lambda network, batch: network(batch), (0.5,) * 3, (0.5,) * 3)
        encoder.to(self.device)
        n = self.scale.patches
        patches = np.random.default_rng(0).integers(60, 240, (n, 224, 224, 3), dtype=np.uint8)
        batch = torch.randn((min(n, encoder.batch_size), 3, 224, 224), device=self.device)
        half = torch.bfloat16 if encoder.precision == "bf16" else None

        def forward() -> None:
            with torch.inference_mode(), Products(self.device, half).autocast():
                bare(batch)

        def encode() -> None:
            for first in range(0, n, encoder.batch_size):
                encoder.encode(patches[first : first + encoder.batch_size])

        ours, alone = n / self.seconds(encode, repeats=2), len(batch) / self.seconds(forward)
        return {
            "precision": encoder.precision,
            "patches_per_s": ours,
            "bare_per_s": alone,
            "share_of_bare": ours / alone,
        }

    def fast(self) -> dict[str, Any]:
        """Time fit and prediction of ``fast``, and compare its mean with that of the CPU."""
        *train_on, test = (made_up(self.scale.spots // 8, self.scale.genes, self.scale.dim, seed) for seed in (1, 2, 3))
        config = FactorConfig.from_dict({"fine": False, **dict(self.scale.fast)})
        found: dict[str, Any] = {"spots": sum(len(s.spots) for s in train_on), "genes": len(test.genes)}
        means = {}
        for device in dict.fromkeys((str(self.device), "cpu")):
            start = time.perf_counter()
            fitted = HisDiff().fit(train_on, config, device=device, progress=False)
            fit_s = time.perf_counter() - start
            start = time.perf_counter()
            told = fitted.predict(
                test, test.spots, n_draws=self.scale.draws, keep_draws=1, device=device, progress=False
            )
            means[device] = told.mean
            found[device] = {"fit_s": fit_s, "predict_s": time.perf_counter() - start}
        apart = relative(means[str(self.device)], means["cpu"])
        return {**found, "apart": apart, "same": apart <= SAME["no"]}

    # ------------------------------------------------------------------------------------------------ helpers

    def _trained(
        self, preset: str, precision: str, n_steps: int, s: Section, way: str, *, every: int, look: Any = None
    ) -> tuple[list[float], float]:
        """Train in one of the ways; return the losses and the seconds."""
        module, data = self.networks.loss(preset, s)
        module.recordable, compiled = WAYS[way]
        if compiled:
            compile_forward(module.network.denoiser)
        config = replace(self.networks.config(preset).with_steps(n_steps), precision=precision, validate_every=every)
        start = time.perf_counter()
        result = train(module, data, config, seed=0, validate=look, device=str(self.device), progress_bar=False)
        # The result is on the CPU, so that the card has been waited for.
        return [row["loss"] for row in result.history if "loss" in row], time.perf_counter() - start

    def _rate(self, preset: str, precision: str, n: int, s: Section, way: str, flop: float) -> dict[str, Any]:
        """Return steps a second, between a short and a long run, so that start and compilation do not count."""
        begun = time.perf_counter()
        self._trained(preset, precision, n, s, way, every=n)
        begun = time.perf_counter() - begun
        runs = [self._trained(preset, precision, steps, s, way, every=n) for steps in (n, 3 * n)]
        rate = 2 * n / max(runs[1][1] - runs[0][1], 1e-9)
        share = self._share(flop * rate, precision)
        return {"steps_per_s": rate, "share_of_peak": share, "first_run_s": begun, "losses": runs[1][0]}

    def _share(self, flops: float, precision: str) -> float | None:
        peak = self.peak.get(precision)
        return None if not peak else flops / 1e12 / peak


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return how far arrays are apart in their norm."""
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-12))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(of) for name, of in value.items()}
    if isinstance(value, list):
        return [_rounded(of) for of in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sections", type=Path, nargs="+", default=[], help="an .npz of sections for accuracy")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[f"{label}={text}" for label, text in METHODS.items()],
        help="of accuracy, LABEL=NAME:CONFIG[@SAMPLING_STEPS]",
    )
    parser.add_argument("--genes", type=int, default=200, help="of accuracy at most, those that are counted most")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--minutes", type=float, default=5.0, help="no part is begun later")
    parser.add_argument("--dry-run", action="store_true", help="everything in miniature")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    settings.verbosity = "info"
    device = resolve_device("cpu" if args.dry_run and args.device == "auto" else args.device)
    bench = Bench(device, MINIATURE if args.dry_run else Scale(), args.json, args.minutes)
    entries = [Entry.parse(text) for text in args.methods]
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "about": bench.about,
        "products": bench.products,
        "training_dit": lambda: bench.training("dit"),
        "training_paper": lambda: bench.training("paper"),
        "kernels": bench.kernels,
        "fast": bench.fast,
    }
    for path in args.sections:
        name = f"accuracy {path.stem}"
        parts[name] = lambda path=path, name=name: bench.accuracy(split_in(path, section_of), entries, args.genes, name)
    parts |= {
        "sampling_paper": lambda: bench.sampling("paper"),
        "sampling_dit": lambda: bench.sampling("dit"),
        "encoder": bench.encoder,
        "equality": bench.equality,
        "noise": bench.noise,
    }
    for name, part in parts.items():
        if args.parts is None or name.split()[0] in args.parts:
            bench.run(name, part)
    return bench.result


if __name__ == "__main__":
    main()
