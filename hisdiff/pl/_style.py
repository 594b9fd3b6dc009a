"""One style sheet for all plots, which users can change."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib as mpl
from cycler import cycler

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

# Okabe-Ito: told apart with any colour vision.
CYCLE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
BLUE, ORANGE = CYCLE[:2]
MORE = ("#8c6bb1", "#8c510a", "#80cdc1")
"""Of equal weight, where seven are not enough."""
WARNING = "#b2182b"
"""What a reader has to know before looking at a plot, and negative relations."""

style: dict[str, Any] = {
    "axes.formatter.useoffset": False,  # a number at a tick is its value, not what to add to another
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "legend.fontsize": "small",
    "legend.frameon": False,
    "legend.title_fontsize": "small",
}
"""Settings of matplotlib (``rcParams``) within the plots of hisdiff, over those of the session; changes hold for later plots."""


def styled(function: F) -> F:
    """Draw with the style sheet, and leave the session's settings as they are."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # Not rc_context: that would undo what a notebook's backend sets while it is loaded by the first plot.
        current: Any = mpl.rcParams  # whose stubs list the names of one release of matplotlib
        before = {name: current[name] for name in style}
        current.update(style)
        try:
            return function(*args, **kwargs)
        finally:
            current.update(before)

    return call  # type: ignore[return-value]
