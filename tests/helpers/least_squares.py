"""A regression that is trained in milliseconds."""

import torch

from hisdiff._training._loop import LossOutput, generator_for

P = 3
"""Values of an observation."""


class Line(torch.nn.Module):
    """Least squares with noise on the input, so that randomness matters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(P))

    def loss(self, batch, generator) -> LossOutput:
        x = batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=generator)
        error = (x @ self.weight - batch["y"]).square().mean()
        return LossOutput(error, {"mse": error})


def line_data(n: int) -> dict[str, torch.Tensor]:
    """Return ``n`` observations of a line."""
    x = torch.randn((n, P), generator=generator_for(5, 0))
    return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5])}
