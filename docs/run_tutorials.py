"""Run tutorials and keep their outputs, with pictures as JPEG: ``HISDIFF_TEST_DATA=DATA python docs/run_tutorials.py toy squidpy``.

Without names all are run, which takes half an hour on two cores.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).parent / "_static"))
from picture import jpeg

FOLDER = Path(__file__).parents[1] / "tutorials"


def run(path: Path) -> None:
    """Run a notebook and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times of the run
        cell.get("outputs", [])[:] = [kept for output in cell.get("outputs", []) if (kept := _small(output))]
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)


def _small(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Return an output with its pictures as JPEG and no folder of this machine; None for a progress bar."""
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return None
    if "image/png" in data:
        data["image/jpeg"] = base64.b64encode(jpeg(base64.b64decode(data.pop("image/png")))).decode()
    if "text" in output:
        output.text = output.text.replace(str(Path.home()), "~")
    return output


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        run(FOLDER / f"{name}.ipynb")
