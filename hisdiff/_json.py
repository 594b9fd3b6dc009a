"""Types at the border to JSON: settings of saved models, records in ``uns``, notes of stores, reports of the command line.

Inside the package a record is a frozen dataclass; ``dict[str, Any]`` stands here alone, and in modules that hand keyword
arguments to other libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Plain = dict[str, Any]
"""Names and what JSON, or ``uns``, can hold."""
State = tuple[dict[str, "np.ndarray"], Plain]
"""Named arrays and plain settings: what a fitted method is saved as."""
