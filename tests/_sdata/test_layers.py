from types import SimpleNamespace

import anndata as ad
import numpy as np

from hisdiff._sdata._layers import layer_names


def test_x_is_no_layer_in_any_version_of_anndata() -> None:
    table = ad.AnnData(np.ones((2, 3)), layers={"b": np.ones((2, 3)), "a": np.zeros((2, 3))})
    assert layer_names(table) == ["b", "a"]
    assert layer_names(SimpleNamespace(layers={"b": 1, None: 0})) == ["b"]
