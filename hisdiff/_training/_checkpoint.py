"""A folder of arrays and plain values: the one format of saved models and of training checkpoints.

Nothing is pickled. A folder is written in a hidden one beside its place and moved there when it is whole, so that a reader
never sees half of one. What is read is checked before memory is taken: it may come from anywhere.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._files import check_writable, locked, put_in_place, token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hisdiff._json import State

WEIGHTS = "weights.safetensors"
_NEW, _OLD = "new", "old"
# Far above what a panel, a configuration and a history take.
_LONGEST_TEXT = 256 * 1024**2
_LAYERS = {"depth", "levels"}
_TEXTS = {".json", ".txt", ".md"}


def check_place(path: Path, what: str) -> None:
    """Raise where a folder cannot be written: something else stands there, or the folder around it cannot be written.

    Raises
    ------
    FileExistsError
        If there is something that is not a folder of this format.
    OSError
        If the folder around it is missing and cannot be made, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and (path / WEIGHTS).is_file()):
        raise FileExistsError(f"{path} exists and is not a model directory; it is left alone. Choose another path.")
    check_writable(path.absolute().parent, what)


def write_folder(path: str | Path, arrays: Mapping[str, np.ndarray], files: Mapping[str, Any]) -> None:
    """Write a folder, replacing one that stands there.

    Parameters
    ----------
    path
        Folder to write.
    arrays
        Named arrays, written to ``weights.safetensors``.
    files
        By file name: a string (text), or anything that JSON can hold (for ``*.json``).
    """
    from safetensors.numpy import save_file

    path = Path(path).expanduser().absolute()
    check_place(path, f"{path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    around = path.parent / f".{path.name}.hisdiff"
    with locked(around / "lock", f"{path}"):
        _clear(around, path)
        fresh = around / f"{_NEW}-{token()}"
        fresh.mkdir()
        try:
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, fresh / WEIGHTS)
            (fresh / WEIGHTS).chmod(fresh.stat().st_mode & 0o666)  # it is made for its owner alone
            for name, content in files.items():
                text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
                (fresh / name).write_text(text, encoding="utf8")
            put_in_place(fresh, path, around / f"{_OLD}-{token()}")
        finally:
            _clear(around, path)


def _clear(around: Path, path: Path) -> None:
    """Remove what was written before, or by a process that has ended; a former folder without a new one goes back."""
    for folder in sorted(around.glob(f"{_OLD}-*")):
        if not path.exists():
            folder.rename(path)
    for folder in (*around.glob(f"{_OLD}-*"), *around.glob(f"{_NEW}-*")):
        if all(file.is_file() and _is_ours(file) for file in folder.iterdir()):
            shutil.rmtree(folder)


def _is_ours(file: Path) -> bool:
    """Whether a file is one of this format, or hidden, as is one that its writer was killed at."""
    return file.name.startswith(".") or file.suffix in {*_TEXTS, Path(WEIGHTS).suffix}


def read_folder(path: str | Path) -> State:
    """Read a folder: its arrays, and its other files by name (JSON parsed, the rest as text).

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a file is truncated, has another format, or lies outside the folder.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}.")
    if not (path / WEIGHTS).exists():
        raise ValueError(
            f"{path} is not the folder of a hisdiff model: it has no {WEIGHTS} (it has {sorted(p.name for p in path.iterdir())[:8]})."
        )
    files = {}
    for file in sorted(path.iterdir()):
        if file.suffix in _TEXTS:
            files[file.name] = _read_text(file)
    return _read_arrays(path / WEIGHTS), files


def _check_file(file: Path) -> int:
    """Return the size of a file that is one, and inside its folder."""
    if file.is_symlink():
        home, target = file.parent.resolve(), file.resolve()
        blobs = home.parent.parent / "blobs"  # where the hub's cache keeps what its snapshots link to
        if home not in target.parents and not (home.parent.name == "snapshots" and blobs in target.parents):
            raise ValueError(f"{file} is a link that leads out of its folder, to {target}; it is not read.")
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file} is not a regular file.")
    return found.st_size


def _read_text(file: Path) -> Any:
    if (size := _check_file(file)) > _LONGEST_TEXT:
        raise ValueError(f"{file} has {size / 1e6:.0f} MB, more than a file of a model has.")
    try:
        text = file.read_text(encoding="utf8")
        return json.loads(text) if file.suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is truncated or no {'JSON' if file.suffix == '.json' else 'text'}: {error}"
        ) from error


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read arrays, whose sizes the library compares with that of the file before it makes any."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    _check_file(file)
    try:
        return load_file(file)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # KeyError: a type that numpy lacks
        raise ValueError(f"{file} is truncated or no safetensors file: {error}") from error


def check_shapes(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, str], **sizes: int) -> None:
    """Raise a ``ValueError`` where the shapes of arrays do not agree.

    Parameters
    ----------
    arrays
        By name; each of ``wanted`` has to be there (``KeyError``).
    wanted
        Letters for the sizes of each array, such as ``"D K"``; equal letters are equal sizes.
    sizes
        Letters whose size is known.
    """
    for name, letters in wanted.items():
        shape, needed = arrays[name].shape, letters.split()
        agree = len(shape) == len(needed) and all(sizes.setdefault(k, n) == n for k, n in zip(needed, shape))
        if not agree:
            raise ValueError(f"array {name!r} has shape {shape}, and ({', '.join(needed)}) with {sizes} is needed.")


def check_plan(settings: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a ``ValueError`` where settings of a model ask for more layers than there are arrays."""
    if not isinstance(settings, dict):
        return
    for name, value in settings.items():
        check_plan(value, arrays)
        if name in _LAYERS and isinstance(value, int) and value > len(arrays):
            raise ValueError(f"{name} is {value}, and {WEIGHTS} has {len(arrays)} arrays in all.")


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Make networks without their weights, to compare their shapes with those of a file before memory is taken."""
    torch = sys.modules.get("torch")
    if torch is None:  # then the method has no networks
        yield
        return
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no-op", UserWarning)
        yield
