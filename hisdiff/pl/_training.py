"""Training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._arguments import checked
from hisdiff._check import listing, names_of, present
from hisdiff._docs import documented
from hisdiff.pl import _canvas
from hisdiff.pl._style import BLUE, WARNING, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hisdiff.models._model import Model

HELD_OUT = "val_"
CRITERION = "val_score"
"""Value on held-out tissue that decides which weights are kept: those of its lowest point."""
TRAINING_COLOR, HELD_OUT_COLOR, BEST_COLOR = "0.45", BLUE, WARNING

AXES = {
    "loss": "training loss",
    "score": "score on held-out tissue\n(lower is better)",
    "velocity": "squared error of\nthe flow's velocity",
    "module_crps": "CRPS of gene modules\n(lower is better)",
    "mse": "mean squared error",
    "latent": "squared error of places",
    "reconstruction": "squared error of expression",
}
"""What a reader calls a value of the history; others have its name."""

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, and the value at each."""


@documented
@checked
@styled
def training(model: Model, *, names: str | Sequence[str] | None = None, ax: Axes | None = None) -> Axes | Figure:
    """Show the course of training, and the step at which it was best on held-out tissue.

    Parameters
    ----------
    model
        A fitted model.
    names
        Values of ``model.history`` to show, each in a panel of its own; None for all. ``"loss"`` stands for the loss in
        training and, where it was measured, on held-out tissue (``"val_loss"``).
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    ValueError
        If the model's method is not trained in steps.
    KeyError
        If a name is not in the history.

    Examples
    --------
    >>> import hisdiff as hd
    >>> model = hd.tl.fit(hd.datasets.toy(size_um=400), config={"max_steps": 50})
    >>> figure = hd.pl.training(model)
    """
    curves = _curves(model)
    panels = _panels(curves)
    names = list(panels) if names is None else names_of(names)
    if not names:
        raise ValueError("There is no value to show: names is empty.")
    for name in names:
        present(name, panels, "value in the training history:")
    if ax is not None and len(names) > 1:
        raise ValueError(f"ax= takes one panel, not {len(names)}; choose one value with names=, of {listing(panels)}.")
    if ax is None:
        _, axes = _canvas.new_figure(1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained")
    else:
        axes = np.array([[ax]])
    for panel, name in zip(axes[0], names):
        for key in panels[name]:
            held_out = key.startswith(HELD_OUT)
            steps, values = curves[key]
            panel.plot(
                steps, values, color=HELD_OUT_COLOR if held_out else TRAINING_COLOR, linewidth=1.2,
                marker="." if len(steps) < 40 else "", label="held-out tissue" if held_out else "training",
            )  # fmt: skip
        if CRITERION in curves:
            steps, values = curves[CRITERION]
            best = steps[np.argmin(values)]
            panel.axvline(best, color=BEST_COLOR, linestyle="--", linewidth=1, label=f"best: step {best:g}")
        panel.set_xlabel("training step")
        panel.set_ylabel(AXES.get(name, name.replace("_", " ")))
        panel.legend()
    return axes[0, 0] if len(names) == 1 else axes[0, 0].figure


def _curves(model: Model) -> dict[str, Curve]:
    """Return steps and finite values of every curve; a value need not be known at every step."""
    rows = model.history
    if not rows:
        raise ValueError(f"Method {model.method!r} is not trained in steps, so there is no curve to show.")
    curves = {}
    for name in dict.fromkeys(key for row in rows for key in row if key != "step"):
        points = np.array([(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])])
        if len(points):
            curves[name] = (points[:, 0], points[:, 1])
    return curves


def _panels(curves: dict[str, Curve]) -> dict[str, list[str]]:
    """Return the curves of each panel: a value in training and on held-out tissue together."""
    shown = dict(curves)
    if CRITERION in curves:  # where it is one of the named values, under its name only
        others = [name for name in curves if name.startswith(HELD_OUT) and name != CRITERION]
        if any(np.array_equal(curves[name], curves[CRITERION]) for name in others):
            del shown[CRITERION]
    panels: dict[str, list[str]] = {}
    for name in shown:
        panels.setdefault(name.removeprefix(HELD_OUT), []).append(name)
    return panels
