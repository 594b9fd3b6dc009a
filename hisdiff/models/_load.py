"""Load models from folders and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff.methods._model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence
