"""The quickstart in a real Jupyter kernel, cell by cell, as a new user would run it."""

import os
from pathlib import Path

import pytest
from pages import blocks_of

import hisdiff


@pytest.mark.slow
def test_the_quickstart_runs_in_jupyter_with_each_figure_once_and_a_clean_console(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(hisdiff.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("HISDIFF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    blocks = [block.replace("size_um=1200", "size_um=600") for block in blocks_of("quickstart.md", "python")]
    cells = [nbformat.v4.new_code_cell(cell) for block in blocks for cell in cells_of(block)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    for noise in ("Warning", "[ERROR]", "Traceback"):
        assert noise not in text, text
    shown = [cell for cell in cells if cell.source.startswith("hd.pl.")]
    assert len(shown) > 5
    for cell in shown:
        assert ["image/png" in output.get("data", {}) for output in cell.outputs].count(True) == 1, cell.source
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    assert "danger" not in [each["state"].get("bar_style") for each in widgets.values()]


def cells_of(block: str) -> list[str]:
    """Return the code before, of and after each plot as cells of their own."""
    cells: list[list[str]] = [[]]
    for line in block.splitlines():
        if line.startswith("hd.pl."):
            cells += [[line], []]
        else:
            cells[-1].append(line)
    return [text for cell in cells if (text := "\n".join(cell).strip())]
