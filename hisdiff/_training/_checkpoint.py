"""A folder of arrays and plain values: the one format of saved models and of training checkpoints.

Nothing is pickled. A folder is written beside its place and moved there when it is whole, so that a reader never sees
half of one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS = "weights.safetensors"


def write_folder(path: str | Path, arrays: Mapping[str, np.ndarray], files: Mapping[str, Any]) -> None:
    """Write a folder, replacing one that stands there.

    Parameters
    ----------
    path
        Folder to write.
    arrays
        Named arrays, written to ``weights.safetensors``.
    files
        By file name: a string (text), or anything that JSON knows (for ``*.json``).
    """
    from safetensors.numpy import save_file

    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (path.is_dir() and (path / WEIGHTS).is_file()):
        raise FileExistsError(f"{path} exists and is no folder of a model; it is left alone. Choose another path.")
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, fresh / WEIGHTS)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
            (fresh / name).write_text(text, encoding="utf8")
        _swap(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, path: Path) -> None:
    """Move a whole folder to its place; a former one is kept until the new one stands."""
    if not path.exists():
        fresh.rename(path)
        return
    old = path.with_name(f".{path.name}-old-{os.getpid()}")
    path.rename(old)
    try:
        fresh.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_folder(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a folder: its arrays, and its other files by name (JSON parsed, the rest as text).

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a file is truncated or is no file of this format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}.")
    if not (path / WEIGHTS).is_file():
        raise ValueError(
            f"{path} is no folder of a hisdiff model: it has no {WEIGHTS} (it has {sorted(p.name for p in path.iterdir())[:8]})."
        )
    try:
        arrays = load_file(path / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{path / WEIGHTS} is truncated or no safetensors file: {error}") from error
    files: dict[str, Any] = {}
    for file in sorted(path.iterdir()):
        if file.suffix in {".json", ".txt", ".md"}:
            text = file.read_text(encoding="utf8")
            try:
                files[file.name] = json.loads(text) if file.suffix == ".json" else text
            except json.JSONDecodeError as error:
                raise ValueError(f"{file} is truncated or no JSON: {error}") from error
    return arrays, files
