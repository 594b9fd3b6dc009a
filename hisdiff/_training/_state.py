"""What a training run remembers from step to step, and its checkpoint."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch

from hisdiff._training._checkpoint import read_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from hisdiff._training._adamw import AdamW

_STATE = "state.json"


class TrainingState:
    """Weights, their average, the optimiser, the best weights so far and the history of a run.

    Parameters
    ----------
    module
        What is trained.
    optimizer
        Its optimiser.
    decay
        Of the exponential moving average of the weights.
    device
        Where tensors of a checkpoint are put.
    identity
        What a checkpoint has to agree on, as JSON holds it.
    """

    def __init__(
        self, module: nn.Module, optimizer: AdamW, decay: float, device: torch.device, identity: Mapping[str, Any]
    ) -> None:
        self.module, self.optimizer, self.device, self.identity = module, optimizer, device, identity
        self.decay = decay
        # Without an average there is no second copy, which large networks take long to keep up to date.
        self.averaged = copy.deepcopy(module).requires_grad_(requires_grad=False) if decay else module
        self._average, self._now = ([p.detach() for p in of.parameters()] for of in (self.averaged, module))
        self._buffers = list(zip(self.averaged.buffers(), module.buffers()))
        self.step, self.best_step, self.best_score, self.stale = 0, 0, math.inf, 0
        self.best: dict[str, Tensor] | None = None
        self.history: list[dict[str, float]] = []
        # Sums of what was logged since the last row of the history.
        self.since: dict[str, Tensor] = {}
        self.n_since = 0

    @torch.no_grad()
    def advance(self) -> None:
        """Count a step and follow its weights; without a look at values, which would wait for the device."""
        if self.averaged is not self.module:
            # Without the ramp the starting weights would weigh in for 1 / (1 - decay) steps; the first step replaces them.
            weight = 1 - min(self.decay, (1 + self.step) / (10 + self.step)) if self.step else 1.0
            torch._foreach_lerp_(self._average, self._now, weight)
            for mine, other in self._buffers:
                mine.copy_(other)
        self.step += 1

    def note_score(self, score: float) -> None:
        """Keep the averaged weights if their score is the lowest so far."""
        if score < self.best_score:
            self.best_score, self.best_step, self.stale = score, self.step, 0
            self.best = copied(self.averaged)
        else:
            self.stale += 1

    def save(self, folder: Path) -> None:
        """Write everything that the rest of the run depends on."""
        arrays: dict[str, Tensor] = {f"module/{k}": v for k, v in self.module.state_dict().items()}
        if self.averaged is not self.module:
            arrays |= {f"averaged/{k}": v for k, v in self.averaged.state_dict().items()}
        arrays |= {f"best/{k}": v for k, v in (self.best or {}).items()}
        arrays |= {f"optimizer/{key}": value for key, value in self.optimizer.state().items()}
        arrays |= {f"since/{name}": value for name, value in self.since.items()}
        state = {
            "identity": self.identity,
            "step": self.step,
            "best_step": self.best_step,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "stale": self.stale,
            "n_since": self.n_since,
            "since": list(self.since),
            "history": self.history,
        }
        write_folder(folder, {k: v.detach().cpu().numpy() for k, v in arrays.items()}, {_STATE: state})

    def load(self, folder: Path) -> None:
        """Go back to a saved state."""
        arrays, files = read_folder(folder)
        state = files.get(_STATE)
        if state is None or state["identity"] != self.identity:
            raise ValueError(
                f"The checkpoint {folder} is of another run (other data, options, seed or network); fit without resume."
            )
        groups: dict[str, dict[str, Tensor]] = {}
        for key, array in arrays.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = torch.from_numpy(array).to(self.device)
        self.module.load_state_dict(groups["module"])
        if self.averaged is not self.module:
            self.averaged.load_state_dict(groups["averaged"])
        self.best = {k: v.cpu() for k, v in groups["best"].items()} if "best" in groups else None
        self.optimizer.load(groups.get("optimizer", {}))
        since = groups.get("since", {})
        self.since = {name: since[name] for name in state["since"]}
        self.n_since = state["n_since"]
        self.step, self.best_step, self.stale = state["step"], state["best_step"], state["stale"]
        self.best_score = math.inf if state["best_score"] is None else state["best_score"]
        self.history = state["history"]


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
