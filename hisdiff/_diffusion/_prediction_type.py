"""What a network predicts about a noisy value, and how each kind tells the clean value and the noise in it.

All kinds carry the same information about x = alpha x0 + sigma eps:

- ``"epsilon"``: the noise eps
- ``"x0"``: the clean value
- ``"v"``: alpha eps - sigma x0 (Salimans and Ho, 2022), on variance-preserving paths
- ``"velocity"``: eps - x0, the direction of a straight path (Lipman et al., 2023; Liu et al., 2023)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["epsilon", "x0", "v", "velocity"]
KINDS: tuple[Kind, ...] = ("epsilon", "x0", "v", "velocity")


def clean_value(kind: Kind, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return the x0 that a prediction stands for; undefined for ``"epsilon"`` where alpha is 0."""
    if kind == "epsilon":
        return (x - sigma * output) / alpha
    if kind == "x0":
        return output
    if kind == "v":
        return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
    if kind == "velocity":
        return (x - sigma * output) / (alpha + sigma)
    raise ValueError(f"A prediction is one of {list(KINDS)}, not {kind!r}.")


def noise_value(kind: Kind, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return the noise that a prediction stands for; undefined for ``"x0"`` where sigma is 0."""
    if kind == "epsilon":
        return output
    if kind == "x0":
        return (x - alpha * output) / sigma
    if kind == "v":
        return (sigma * x + alpha * output) / (alpha**2 + sigma**2)
    if kind == "velocity":
        return (x + alpha * output) / (alpha + sigma)
    raise ValueError(f"A prediction is one of {list(KINDS)}, not {kind!r}.")


def target(kind: Kind, x0: Tensor, noise: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return what a network of this kind is trained to predict."""
    if kind == "epsilon":
        return noise
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * noise - sigma * x0
    if kind == "velocity":
        return noise - x0
    raise ValueError(f"A prediction is one of {list(KINDS)}, not {kind!r}.")
