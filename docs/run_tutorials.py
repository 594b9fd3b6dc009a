"""Run tutorials and keep their outputs, with pictures as JPEG: ``HISDIFF_TEST_DATA=DATA python docs/run_tutorials.py toy squidpy``.

Without names all are run, which takes half an hour on two cores.
"""

from __future__ import annotations

import base64
import os
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
    tidy(notebook)
    nbformat.write(notebook, path)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave of the outputs what a reader needs: no bars, pictures as JPEG, lines of the log together."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.clear()  # times of the run
        kept: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                continue
            if "image/png" in data:
                data["image/jpeg"] = base64.b64encode(jpeg(base64.b64decode(data.pop("image/png")))).decode()
            if output.output_type == "stream":
                output.text = output.text.replace(str(Path.home()), "~")  # no folder of this machine
                if kept and kept[-1].get("name") == output.name:
                    kept[-1].text += output.text
                    continue
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept


if __name__ == "__main__":
    os.environ["PYTHONWARNINGS"] = "ignore::SyntaxWarning"  # of docrep, where squidpy is imported before hisdiff
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        run(FOLDER / f"{name}.ipynb")
