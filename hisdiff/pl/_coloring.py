"""How values become colours, and how that is explained beside a panel: a colour bar, or a legend of categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, ListedColormap, hsv_to_rgb, is_color_like
from matplotlib.patches import Patch

from hisdiff._check import listing
from hisdiff.pl import _canvas
from hisdiff.pl._style import CYCLE, MORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize

COLORS = CYCLE + MORE
NEUTRAL = "#bdbdbd"
NEUTRAL_NAMES = frozenset({"outside", "unclassified", "no", "none", "unknown", "other", "background", "nan"})
"""Categories that say what a location is not: grey, unless the user has given them a colour."""
MAX_CATEGORIES = 60
LEGEND_ROWS = 18


@dataclass(frozen=True)
class Gradient:
    """Numbers on a scale."""

    label: str
    norm: Normalize
    cmap: str
    extend: str = "neither"

    width = 1.0
    """Room of its explanation, in colour bars."""

    @property
    def style(self) -> dict[str, Any]:
        return {"norm": self.norm, "cmap": self.cmap}

    def explain(self, ax: Axes, drawn: ScalarMappable) -> None:
        ax.figure.colorbar(drawn, ax=ax, label=self.label, extend=self.extend, fraction=0.04, pad=0.02, aspect=22)


@dataclass(frozen=True)
class Palette:
    """Categories, each with a colour; values are their positions."""

    label: str
    names: tuple[str, ...]
    colors: tuple[Any, ...]

    @property
    def width(self) -> float:
        longest = max((len(name) for name in (*self.names, self.label)), default=1)
        return (0.5 + 0.085 * longest) * -(-len(self.names) // LEGEND_ROWS) / 0.8

    @property
    def style(self) -> dict[str, Any]:
        n = len(self.colors)
        cmap: Colormap = ListedColormap(list(self.colors))
        return {"norm": BoundaryNorm(np.arange(n + 1) - 0.5, n), "cmap": cmap}

    def explain(self, ax: Axes, drawn: ScalarMappable) -> None:
        handles = [Patch(color=color, label=name) for name, color in zip(self.names, self.colors)]
        ax.legend(
            handles=handles, title=self.label, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, alignment="left", handlelength=1, ncols=-(-len(handles) // LEGEND_ROWS),
        )  # fmt: skip


Scale = Gradient | Palette


def is_categorical(column: pd.Series) -> bool:
    """Whether a column of ``obs`` is of categories: strings, categories or flags."""
    return not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)


def palette_of(
    columns: Sequence[tuple[AnnData, str]], label: str, given: Mapping[str, str] | Sequence[str] | None
) -> Palette:
    """Return the colours of the categories of a column in all tables that have it.

    Colours that the user gives come first, then those of ``uns["<column>_colors"]``, where scanpy keeps them.
    """
    names: list[str] = []
    kept: dict[str, Any] = {}
    for table, name in columns:
        own = categories(table.obs[name])
        names += [category for category in own if category not in names]
        stored = table.uns.get(f"{name}_colors")
        if stored is not None and len(stored) >= len(own):
            kept = {**dict(zip(own, (str(color) for color in stored))), **kept}
    if len(names) > MAX_CATEGORIES:
        raise ValueError(
            f"obs[{columns[0][1]!r}] has {len(names)} different values, such as {listing(names, 4)}: more than the {MAX_CATEGORIES} that a legend "
            f"can hold. Make it numbers, or group them."
        )
    if given is not None:
        kept |= dict(given) if isinstance(given, Mapping) else dict(zip(names, given))
    wrong = {name: color for name, color in kept.items() if not is_color_like(color)}
    if wrong:
        raise ValueError(f"palette has values that are not colours: {wrong}.")
    colored = [name for name in names if name.lower() not in NEUTRAL_NAMES]
    fresh = dict(zip(colored, _distinct(len(colored))))
    return Palette(label, tuple(names), tuple(kept.get(name, fresh.get(name, NEUTRAL)) for name in names))


def categories(column: pd.Series) -> list[str]:
    """Return the categories of a column in their order; of a flag, ``yes`` before ``no``."""
    if pd.api.types.is_bool_dtype(column.dtype):
        return ["yes", "no"]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [str(category) for category in column.cat.categories]
    return sorted({str(value) for value in column.dropna()})


def codes_of(column: pd.Series, names: Sequence[str]) -> np.ndarray:
    """Return the position of each value among the names, float64 ``(n,)``; NaN where it is missing."""
    if pd.api.types.is_bool_dtype(column.dtype):
        column = column.map({True: "yes", False: "no"})
    where = {name: float(i) for i, name in enumerate(names)}
    return np.array([np.nan if pd.isna(value) else where[str(value)] for value in column], dtype=float)


def gradient(
    label: str,
    values: Sequence[np.ndarray],
    cmap: str,
    percentiles: tuple[float, float],
    vmin: float | None = None,
    vmax: float | None = None,
) -> Gradient:
    """Return one scale for the values of several panels; ``vmin`` and ``vmax`` replace the percentiles."""
    norm = _canvas.shared_norm(values, percentiles)
    norm.vmin, norm.vmax = norm.vmin if vmin is None else float(vmin), norm.vmax if vmax is None else float(vmax)
    if norm.vmin >= norm.vmax:  # type: ignore[operator]
        raise ValueError(f"vmin={norm.vmin:g} is not below vmax={norm.vmax:g} for {label!r}.")
    return Gradient(label, norm, cmap, _canvas.extend_of(norm, [v for v in values if np.isfinite(v).any()]))


def _distinct(n: int) -> list[Any]:
    if n <= len(COLORS):
        return list(COLORS[:n])
    if n <= 20:
        return [colormaps["tab20"](i) for i in range(n)]
    # The golden ratio spreads hues; lightness alternates, so that neighbours differ in print too.
    hues = (np.arange(n) * 0.618034) % 1.0
    return [hsv_to_rgb((hue, 0.75, 0.9 if i % 2 else 0.6)) for i, hue in enumerate(hues)]
