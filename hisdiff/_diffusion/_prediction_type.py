"""What a network predicts about a noisy value, and how each type gives the clean value and the noise in it.

All types carry the same information about x = alpha x0 + sigma eps:

- ``"epsilon"``: the noise eps
- ``"sample"``: the clean value
- ``"v_prediction"``: alpha eps - sigma x0 (Salimans and Ho, 2022), on variance-preserving paths
- ``"velocity"``: eps - x0, the direction of a straight path (Lipman et al., 2023; Liu et al., 2023)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

PredictionType = Literal["epsilon", "sample", "v_prediction", "velocity"]
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)


def clean_value(
    prediction_type: PredictionType, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float
) -> Tensor:
    """Return the x0 that a prediction stands for; undefined for ``"epsilon"`` where alpha is 0."""
    if prediction_type == "epsilon":
        return (x - sigma * output) / alpha
    if prediction_type == "sample":
        return output
    if prediction_type == "v_prediction":
        return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
    if prediction_type == "velocity":
        return (x - sigma * output) / (alpha + sigma)
    raise ValueError(f"prediction_type is one of {list(PREDICTION_TYPES)}, not {prediction_type!r}.")


def noise_value(
    prediction_type: PredictionType, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float
) -> Tensor:
    """Return the noise that a prediction stands for; undefined for ``"sample"`` where sigma is 0."""
    if prediction_type == "epsilon":
        return output
    if prediction_type == "sample":
        return (x - alpha * output) / sigma
    if prediction_type == "v_prediction":
        return (sigma * x + alpha * output) / (alpha**2 + sigma**2)
    if prediction_type == "velocity":
        return (x + alpha * output) / (alpha + sigma)
    raise ValueError(f"prediction_type is one of {list(PREDICTION_TYPES)}, not {prediction_type!r}.")


def target(
    prediction_type: PredictionType, x0: Tensor, noise: Tensor, alpha: Tensor | float, sigma: Tensor | float
) -> Tensor:
    """Return what a network of this type is trained to predict."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    if prediction_type == "v_prediction":
        return alpha * noise - sigma * x0
    if prediction_type == "velocity":
        return noise - x0
    raise ValueError(f"prediction_type is one of {list(PREDICTION_TYPES)}, not {prediction_type!r}.")
