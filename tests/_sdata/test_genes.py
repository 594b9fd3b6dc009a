from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hisdiff._sdata._genes import check_panel_present, gene_names

IDS = [f"ENSG{i:011d}" for i in range(4)]


@pytest.mark.parametrize("column", ["feature_name", "SYMBOL", "gene_short_name"])
def test_the_other_kind_of_name_is_found_in_any_usual_column(column: str) -> None:
    table = ad.AnnData(np.ones((3, 4), np.float32), var=pd.DataFrame({column: pd.Categorical(list("ABCD"))}, index=IDS))
    assert list(gene_names(table, like=list("ABCD"))) == list("ABCD")
    assert list(gene_names(table)) == IDS


def test_versions_of_ensembl_ids_are_ignored_where_that_helps() -> None:
    table = ad.AnnData(
        np.ones((3, 4), np.float32), var=pd.DataFrame(index=[f"{name}.{i}" for i, name in enumerate(IDS)])
    )
    assert list(gene_names(table, like=IDS)) == IDS
    assert list(gene_names(table, like=[f"{name}.9" for name in IDS])) == [f"{name}.9" for name in IDS]
    with pytest.raises(ValueError, match="version suffix"):
        check_panel_present(IDS, list(table.var_names), "table 't'")
