"""Training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import listing, present
from hisdiff.pl import _canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hisdiff.methods._model import Model

CRITERION = "energy_score"
"""Value on held-out tissue that decides which weights are kept: those of its lowest point."""
KEPT_COLOUR = "#b2182b"


def training(model: Model, *, names: str | Sequence[str] | None = None, ax: Axes | None = None) -> Axes | Figure:
    """Show the course of training, and the step at which it was best on held-out tissue.

    Parameters
    ----------
    model
        A fitted model.
    names
        Values of ``model.history`` to show, each in a panel of its own; None for all.
    ax
        Axes to draw into, for a single value.

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
    >>> hd.pl.training(model)  # doctest: +SKIP
    """
    curves = _curves(model)
    names = list(curves) if names is None else [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("There is no value to show: names is empty.")
    for name in names:
        present(name, curves, "value in the training history:")
    if ax is not None and len(names) > 1:
        raise ValueError(f"ax= takes one panel, not {len(names)}; choose one value with names=, of {listing(curves)}.")
    if ax is None:
        figure, axes = _canvas.new_figure(1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained")
    else:
        axes = np.array([[ax]])
    for panel, name in zip(axes[0], names):
        steps, values = curves[name]
        panel.plot(steps, values, color="0.25", linewidth=1.2, marker="." if len(steps) < 40 else "")
        panel.set_xlabel("step")
        panel.set_ylabel(name.replace("_", " "))
        panel.spines[["top", "right"]].set_visible(False)
        if CRITERION in curves:
            steps, values = curves[CRITERION]
            best = steps[np.argmin(values)]
            panel.axvline(best, color=KEPT_COLOUR, linestyle="--", linewidth=1, label=f"best: step {best:g}")
            panel.legend(frameon=False, fontsize="small")
    return axes[0, 0] if len(names) == 1 else figure


def _curves(model: Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
