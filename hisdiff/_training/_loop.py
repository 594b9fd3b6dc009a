"""One training loop for every method that trains: Accelerate underneath, data in memory, resumable to the same numbers.

Nothing random is carried from step to step. What a step draws depends on (seed, step, process) only, so that a run that
was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from hisdiff._device import Products, resolve_device, without_denormals
from hisdiff._log import logger, progress
from hisdiff._training._adamw import AdamW
from hisdiff._training._batches import Epochs
from hisdiff._training._graph import Card, Replayed
from hisdiff._training._interrupt import deferred_interrupt
from hisdiff._training._state import TrainingState, copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from hisdiff._json import Plain
    from hisdiff._training._config import TrainingConfig

CHECKPOINT_S = 30.0
"""Seconds between checkpoints."""

# Spreads (seed, step, process) over 63 bits, so that neighbouring steps start unrelated generators.
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class LossOutput(NamedTuple):
    """A loss and the values worth logging.

    Attributes
    ----------
    total
        Scalar to descend.
    parts
        Scalars by name, for the history.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Trainable(Protocol):
    """A module with a loss. Any ``nn.Module`` with this method can be trained.

    One with an attribute ``recordable`` that is True says that all its steps are the same work on other values: nothing in the loss
    looks at values on the host or counts steps. On a CUDA card its steps are recorded once and replayed.
    """

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return the loss of a batch; all randomness comes from ``generator``."""


class Validation(NamedTuple):
    """Evaluation on held-out tissue: ``score`` (lower is better) decides when to stop, ``parts`` are logged."""

    score: float
    parts: dict[str, float]


class TrainingResult(NamedTuple):
    """The end of a run.

    Attributes
    ----------
    weights
        Tensors on the CPU: of the best look at held-out tissue where there is one, else of the end.
    best_step
        The step they are of.
    history
        Rows with ``step``, ``loss``, its parts, and ``val_...`` where validated.
    """

    weights: dict[str, Tensor]
    best_step: int
    history: list[dict[str, float]]


def generator_for(seed: int, step: int, process: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for an address; the same address gives the same numbers."""
    return torch.Generator(device).manual_seed(_seed_of(seed, step, process))


def _seed_of(seed: int, step: int, process: int) -> int:
    key = sum(part * mix for part, mix in zip((seed, step + 1, process + 1), _MIX))
    return (key ^ (key >> 31)) % 2**63


def train(
    module: nn.Module,
    data: Mapping[str, Tensor],
    config: TrainingConfig,
    *,
    seed: int,
    validate: Callable[[nn.Module], Validation] | None = None,
    device: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress_bar: bool | None = None,
    desc: str = "training",
) -> TrainingResult:
    """Train a module.

    Parameters
    ----------
    module
        A ``Trainable``; left with the resulting weights, in evaluation mode, on the device.
    data
        Tensors with one row per observation, all of one length. They are moved to the device as a whole: batches are
        gathered by index, without a data loader in the way.
    config
        Settings.
    seed
        Decides batches, noise and dropout.
    validate
        Called with the averaged module every ``validate_every`` steps, on every process; the score decides which
        weights are kept, and when to stop.
    device
        Name; None for the package's setting. Under ``accelerate launch`` the launcher decides.
    checkpoint
        Folder for checkpoints, or None.
    resume
        Go on from ``checkpoint`` if it is there.
    progress_bar
        Show a bar; None for the package's setting.
    desc
        Text of the bar.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once the step is finished and a checkpoint is written.
    FloatingPointError
        If the loss is not finite.
    ValueError
        If the tensors differ in length, or the checkpoint is of another run.
    """
    n_rows = _n_rows(data)
    n_steps = config.steps(n_rows)
    wanted = resolve_device(device)
    accelerator = accelerator_on(wanted)
    # Under a launcher every process has a device of its own.
    products = Products.of(config.precision, wanted if accelerator.num_processes == 1 else accelerator.device)
    run = _Run(module, data, config, seed, accelerator, products, n_rows)
    if resume and checkpoint is not None and checkpoint.exists():
        run.state.load(checkpoint)
        logger.info("resuming %s at step %d of %d", desc, run.state.step, n_steps)
    writes = checkpoint if accelerator.is_main_process else None
    shown = progress_bar if accelerator.is_main_process else False
    at_most = "steps at most" if config.patience is not None and validate is not None else "steps"
    bars = progress(desc=desc, total=n_steps, initial=run.state.step, enabled=shown, unit=at_most, keep=True)
    kept = time.monotonic()
    with without_denormals(), products.allowed(), bars as bar, deferred_interrupt() as interrupted:
        try:
            if validate is not None and run.state.step == 0:
                run.state.history.append({"step": 0.0})
                run.look(validate)  # the weights a module starts with may be good, and none may be better
            while run.state.step < n_steps and not run.finished:
                run.advance()
                if validate is not None and run.at_row:
                    run.look(validate)
                bar.update()
                bar.show(run.shown())
                due = run.state.step % config.checkpoint_every == 0 or time.monotonic() - kept > CHECKPOINT_S
                if writes is not None and due:
                    run.state.save(writes)
                    kept = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
            if run.state.step < n_steps:
                bar.stop(f"stopped early: held-out tissue was predicted best at step {run.state.best_step}")
        except KeyboardInterrupt:
            if writes is not None and run.whole:  # pressed twice, it may come within a step: the last checkpoint stays
                run.state.save(writes)
            raise
    if writes is not None:
        run.state.save(writes)
    return run.result(module)


class _Run:
    """A run: its data, and how a step and a look at held-out tissue are done."""

    def __init__(
        self,
        module: nn.Module,
        data: Mapping[str, Tensor],
        config: TrainingConfig,
        seed: int,
        accelerator: Any,
        products: Products,
        n_rows: int,
    ) -> None:
        self.config, self.seed, self.accelerator, self.products = config, seed, accelerator, products
        self.device, self.n_steps = products.device, config.steps(n_rows)
        module.to(self.device)
        self.data = {name: tensor.to(self.device) for name, tensor in data.items()}
        self.epochs = Epochs(
            lambda epoch: torch.randperm(n_rows, generator=generator_for(seed, epoch)),
            config.epoch_steps(n_rows),
            self.device,
        )
        decayed = [p for p in module.parameters() if p.requires_grad]
        fused = self.device.type == "cuda" or (config.fused and self.device.type == "cpu")
        self.optimizer = AdamW(
            decayed, learning_rate=config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )
        self.wrapped = accelerator.prepare(_Loss(module))
        # Gradients in fp16 are scaled up by as much as does not overflow; the factor starts high and finds its place.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=products.half is torch.float16)
        # In fp16 the host looks at every step's gradients, and between processes they are added up.
        alone = accelerator.num_processes == 1 and products.half is not torch.float16
        recorded = self.device.type == "cuda" and alone and getattr(module, "recordable", False)
        self.replayed: Replayed[LossOutput] | None = Replayed(Card(self.device)) if recorded else None
        identity = _identity(config, seed, n_rows, module)
        self.whole = True  # whether weights, optimiser and step are of the same moment
        self.state = TrainingState(module, self.optimizer, config.ema, self.device, identity)

    @property
    def finished(self) -> bool:
        return self.config.patience is not None and self.state.stale >= self.config.patience

    @property
    def at_row(self) -> bool:
        """Whether this step ends with a row of the history."""
        return self.state.step % self.config.validate_every == 0 or self.state.step == self.n_steps

    def advance(self) -> None:
        """Take one step. Nothing in it waits for the device, but for the scale of gradients in fp16."""
        config, accelerator, step = self.config, self.accelerator, self.state.step
        rows = self.epochs.rows(step, accelerator.process_index, accelerator.num_processes)
        # Every process draws noise of its own, from another seed than the rows.
        seed = _seed_of(self.seed ^ 0x5DEECE66D, step, accelerator.process_index)
        self.optimizer.learning_rate = config.learning_rate * _rate(config, step, self.n_steps)
        if not self.state.module.training:
            self.state.module.train()
        self.whole = False
        try:
            if self.replayed is None:
                made = self._step(rows, torch.Generator(self.device).manual_seed(seed))
            else:
                made = self.replayed(self._step, rows, seed)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(
                f"A step of training on {len(rows)} rows needs more memory than {self.device} has; a smaller batch_size needs less. {error}"
            ) from error
        self.state.advance()
        self._note({"loss": made.total, **made.parts})
        self.whole = True

    def _step(self, rows: Tensor, generator: torch.Generator) -> LossOutput:
        """Do what of a step runs on the device: gather rows, descend their loss."""
        self.optimizer.zero_grad()
        batch = {name: tensor[rows] for name, tensor in self.data.items()}
        with self.products.autocast():
            total, parts = self.wrapped(batch, generator)
        self.accelerator.backward(self.scaler.scale(total))
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # it has what a scaler looks at
            torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.config.clip)
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]
        self.scaler.update()
        return LossOutput(total.detach(), {name: part.detach() for name, part in parts.items()})

    def _note(self, values: dict[str, Tensor]) -> None:
        state = self.state
        for name, value in values.items():
            state.since[name] = state.since.get(name, 0) + value
        state.n_since += 1
        if self.at_row:
            stacked = torch.stack([value.float() for value in state.since.values()])
            means = self.accelerator.reduce(stacked, "mean") / state.n_since
            row = {"step": float(state.step), **dict(zip(state.since, means.tolist()))}
            if not math.isfinite(row["loss"]):
                self._leave_half_precision(row["loss"])
            state.history.append({name: value for name, value in row.items() if math.isfinite(value)})
            state.since, state.n_since = {}, 0

    def _leave_half_precision(self, loss: float) -> None:
        """Go on in float32 where fp16 overflowed, which leaves the weights as they were; else raise."""
        sound = all(bool(p.isfinite().all()) for p in self.state.module.parameters())
        if self.products.half is not torch.float16 or not sound:
            raise FloatingPointError(
                f"The loss is {loss} at step {self.state.step}; a lower learning_rate, or precision='no', may help."
            )
        logger.warning("the loss overflows in fp16 at step %d; going on in float32", self.state.step)
        self.products = replace(self.products, half=None)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=False)

    def shown(self) -> dict[str, float]:
        """Return the text of the progress bar."""
        last = self.state.history[-1] if self.state.history else {}
        return {name: last[name] for name in ("loss", "val_score") if name in last}

    @torch.no_grad()
    def look(self, validate: Callable[[nn.Module], Validation]) -> None:
        """Look at held-out tissue and keep the weights if they are the best so far."""
        score, parts = validate(self.state.averaged.eval())
        # Every process has to decide alike.
        score = float(self.accelerator.reduce(torch.tensor(score, device=self.device), "mean"))
        self.state.history[-1].update(
            {"val_score": score, **{f"val_{name}": float(value) for name, value in parts.items()}}
        )
        self.state.note_score(score)

    def result(self, module: nn.Module) -> TrainingResult:
        """Return the weights to keep, also in ``module``."""
        state = self.state
        weights = copied(state.averaged) if state.best is None else state.best
        module.load_state_dict(weights)
        module.eval()
        return TrainingResult(weights, state.step if state.best is None else state.best_step, state.history)


def _identity(config: TrainingConfig, seed: int, n_rows: int, module: nn.Module) -> Plain:
    """Return what a checkpoint has to agree on; the number of steps may grow unless the rate depends on it."""
    settings = config.of_training()
    del settings["checkpoint_every"]
    if not config.cosine:  # the rate then depends on where the run is to end
        del settings["max_steps"], settings["max_epochs"]
    shapes = {name: list(parameter.shape) for name, parameter in module.state_dict().items()}
    return {"config": settings, "seed": seed, "rows": n_rows, "shapes": shapes}


def _n_rows(data: Mapping[str, Tensor]) -> int:
    lengths = {name: len(tensor) for name, tensor in data.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"Training tensors have one row per observation each, and at least one; these have {lengths}.")
    return next(iter(lengths.values()))


def accelerator_on(device: torch.device) -> Any:
    """Return what processes that train together meet in; a single one is alone in it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # Accelerate keeps one global state; what an earlier fit chose must not decide this one.
    if AcceleratorState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    # Device and precision are decided here: it would take the first card, and cannot leave half precision on the way.
    return Accelerator(mixed_precision="no", cpu=device.type == "cpu", device_placement=False)


def _rate(config: TrainingConfig, step: int, n_steps: int) -> float:
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = 0.5 * (1 + math.cos(math.pi * step / n_steps)) if config.cosine else 1.0
    return rise * fall


class _Loss(torch.nn.Module):
    """Makes the loss the forward pass, which is what Accelerate and its data parallelism wrap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        return self.module.loss(batch, generator)  # type: ignore[operator]
