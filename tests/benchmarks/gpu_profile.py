"""What a card does in a step of training: kernels by kind, and what products and attention of its shapes could reach at best."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from hisdiff._training._loop import Validation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

_KINDS = (
    ("attention", r"flash|fmha|scaled_dot|attention"),
    ("optimiser", r"adam|multi_tensor|_foreach"),
    ("fused (compiled)", r"triton"),
    ("products", r"gemm|gemv|nvjet|cutlass|xmma|cublas|splitk|aten::(addmm|mm|bmm|baddbmm)"),
    ("norm", r"layer_norm|LayerNorm|GammaBeta"),
    ("copies", r"copy|memcpy|memset|Cat|_to_copy"),
    ("gather and scatter", r"index|scatter|gather|embedding"),
    ("noise", r"distribution|philox|randn|normal_|uniform_"),
    ("reductions", r"reduce|softmax|aten::(sum|mean)"),
    ("elementwise", r"elementwise|vectorized|gelu|silu|aten::(add|mul|addcmul|gelu|lerp)"),
)
"""Kinds of kernels by what their names hold, the first that fits."""


class Window:
    """Profiles the steps between two looks at left-out tissue: as ``validate`` of a training, from its second call to its third."""

    def __init__(self, device: torch.device) -> None:
        self.card = device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.card else [])]
        self.profile = profile(activities=activities)
        self.calls, self.seconds = 0, 0.0

    def __call__(self, module: nn.Module) -> Validation:
        self.calls += 1
        if self.card:
            torch.cuda.synchronize()
        if self.calls == 2:
            with warnings.catch_warnings():  # that events of one cycle are kept, and there is one
                warnings.filterwarnings("ignore", message=".*Profiler clears events")
                self.profile.start()
            self.seconds = -time.perf_counter()
        if self.calls == 3:
            self.seconds += time.perf_counter()
            self.profile.stop()
        return Validation(0.0, {})  # always the same, so that no weights are kept

    def table(self, n_steps: int) -> dict[str, Any]:
        """Return milliseconds per step by kind, those of the longest kernels, and how long the card was busy."""
        spent, times, launches = Counter[str](), Counter[str](), 0
        wanted = torch.autograd.DeviceType.CUDA if self.card else torch.autograd.DeviceType.CPU
        for event in self.profile.events() or ():
            if event.device_type != wanted:
                continue
            ms = (event.time_range.elapsed_us() if self.card else event.self_cpu_time_total) / 1e3
            spent[event.name] += ms
            times[event.name] += 1
            launches += 1
        kinds = Counter[str]()
        for name, ms in spent.items():
            kinds[next((kind for kind, found in _KINDS if re.search(found, name, re.I)), "other")] += ms
        total = sum(spent.values())
        return {
            "wall_ms": 1e3 * self.seconds / n_steps,
            "busy_ms": total / n_steps,
            "busy_share": total / (1e3 * self.seconds),
            "kernels": launches / n_steps,
            "ms_by_kind": {kind: ms / n_steps for kind, ms in kinds.most_common()},
            "longest": {
                f"{name[:100]} x {times[name] / n_steps:g}": ms / n_steps for name, ms in spent.most_common(14)
            },
        }


def ceilings(
    seconds: Callable[[Callable[[], Any]], float], device: torch.device, rows: int, tokens: int, width: int, heads: int
) -> dict[str, Any]:
    """Return the rate of each product of a block in bf16, milliseconds of its attention, and GB/s of a copy."""
    half, n = torch.bfloat16, rows * tokens
    found: dict[str, Any] = {}
    for name, n_in, n_out in (("qkv", 1, 3), ("proj", 1, 1), ("widen", 1, 4), ("narrow", 4, 1)):
        x = torch.randn((n, n_in * width), device=device, dtype=half)
        w = torch.randn((n_out * width, n_in * width), device=device, dtype=half)
        up = torch.randn((n, n_out * width), device=device, dtype=half)
        flop = 2 * n * n_in * n_out * width**2
        for part, work in (
            ("forward", lambda x=x, w=w: F.linear(x, w)),
            ("to input", lambda up=up, w=w: up @ w),
            ("to weight", lambda up=up, x=x: up.T @ x),
        ):
            found[f"{name} {part} tflops"] = 5 * flop / seconds(lambda work=work: [work() for _ in range(5)]) / 1e12
    q, k, v = (
        torch.randn((rows, heads, tokens, width // heads), device=device, dtype=half, requires_grad=True)
        for _ in range(3)
    )
    up = torch.randn(q.shape, device=device, dtype=half)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), up)

    found["attention ms"] = 1e3 * seconds(both)
    with torch.no_grad():
        found["attention forward ms"] = 1e3 * seconds(lambda: F.scaled_dot_product_attention(q, k, v))
    x = torch.randn((n, width), device=device)
    found["copy gb_s"] = 2 * 4 * x.numel() / seconds(x.clone) / 1e9
    return found
