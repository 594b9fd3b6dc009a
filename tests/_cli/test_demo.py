from __future__ import annotations

import pandas as pd
import pytest
import spatialdata as sd

from hisdiff._cli import main


@pytest.mark.slow
def test_the_demo_runs_the_main_job_and_leaves_figures_table_and_store(tmp_path) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    for name in ("gene_map.png", "uncertainty_map.png", "evaluation.png", "training.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 10_000
    table = pd.read_csv(tmp_path / "demo/evaluation.csv", index_col="gene")
    # Genes of the visible cell types are predicted; nothing in the image tells the hidden ones.
    visible, hidden = table.index.str.startswith(("TUM", "IMM", "STR")), table.index.str.startswith("HID")
    assert table["pearson"][visible].median() > 0.4
    assert table["pearson"][hidden].median() < table["pearson"][visible].median() - 0.2
    store = sd.read_zarr(tmp_path / "demo/test.zarr")
    assert {"hisdiff", "hisdiff_std", "hisdiff_draw0"} <= set(store.tables["table"].layers)
