"""AdamW for one group of parameters, the same numbers as ``torch.optim.AdamW``.

An optimiser of ``torch.optim`` imports torch's compiler when it is made, which takes a second and is used by nothing here; the update
itself, ``torch.optim.adamw.adamw``, does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim.adamw import adamw

from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

_BETAS, _EPS = (0.9, 0.999), 1e-8


class AdamW:
    """Adam whose decay of weights is not mixed with gradients (Loshchilov & Hutter, 2019); Adam where there is no decay.

    Parameters
    ----------
    parameters
        What is trained.
    learning_rate
        To begin with; ``learning_rate`` may be set before each step.
    weight_decay
        Part of the weights that is taken off, per unit of the rate.
    fused
        Whether a step is one pass over memory, for which the parameters have to be on the device already.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float = 0.0, fused: bool = False
    ) -> None:
        self.weight_decay, self.fused = weight_decay, fused
        self.parameters = list(parameters)
        # A step that is recorded on a card looks the rate up there.
        on_card = fused and any(parameter.is_cuda for parameter in self.parameters)
        self._rate: float | Tensor = (
            torch.tensor(learning_rate, dtype=torch.float32, device=self.parameters[0].device)
            if on_card
            else learning_rate
        )
        self._state: dict[int, dict[str, Tensor]] = {}

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        if isinstance(self._rate, torch.Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """The parameters as ``torch.amp.GradScaler`` looks for them."""
        return [{"params": self.parameters}]

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        moved = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        for i in moved:
            if i not in self._state:
                of = self.parameters[i]
                step = torch.zeros((), dtype=torch.float32, device=of.device if self.fused else None)
                moments = {name: torch.zeros_like(of) for name in ("exp_avg", "exp_avg_sq")}
                self._state[i] = {"step": step, **moments}
        own = [self._state[i] for i in moved]
        adamw(
            [self.parameters[i] for i in moved],
            [needed(self.parameters[i].grad) for i in moved],
            [state["exp_avg"] for state in own],
            [state["exp_avg_sq"] for state in own],
            [],
            [state["step"] for state in own],
            fused=self.fused or None,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self._rate,
            weight_decay=self.weight_decay,
            eps=_EPS,
            maximize=False,
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return steps and moments by name, from which ``load`` goes on."""
        return {f"{i}/{name}": value for i, own in self._state.items() for name, value in own.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned."""
        self._state = {}
        for key, tensor in tensors.items():
            index, name = key.split("/")
            own = self.parameters[int(index)]
            place = own.device if self.fused or name != "step" else "cpu"
            self._state.setdefault(int(index), {})[name] = tensor.to(place)
