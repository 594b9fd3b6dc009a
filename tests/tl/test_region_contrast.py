import numpy as np
import pandas as pd
import pytest

import hisdiff as hd
from hisdiff._sdata._shallow_copy import shallow_copy


@pytest.fixture(scope="module")
def fitted(make_section, tmp_path_factory):
    made = make_section(side=8)
    hd.pp.select_genes(made)
    config = {"image_mpp": 8, "levels": 2, "channels": 4, "patch_px": 32, "max_steps": 100, "n_metagenes": 2, "learning_rate": 5e-3}  # fmt: skip
    hd.tl.fit(made, method="xfuse", config=config, save=tmp_path_factory.mktemp("model") / "m")
    hd.tl.predict(made, resolution_um=40, n_draws=2, calibrate="none")
    return made


@pytest.fixture
def sdata(fitted):
    made = shallow_copy(fitted)
    table = made.tables["xfuse_40um"]
    share = table.X[:, table.var_names.str.startswith("A")].sum(axis=1) / table.X.sum(axis=1)
    table.obs["side"] = pd.Categorical(np.where(share > np.median(share), "red", "blue"))
    return made


def test_genes_of_a_region_are_higher_there_in_most_draws(sdata) -> None:
    hd.tl.region_contrast(sdata, by="side", a="red", b="blue", n_draws=6)
    found = sdata.tables["xfuse_40um"].uns["hisdiff"]["region_contrast"]
    kind = found.index.str[0]
    assert (found.loc[kind == "A", "log2_fold_change"] > 0).all()
    assert (found.loc[kind == "B", "log2_fold_change"] < 0).all()
    assert (found["low"] <= found["log2_fold_change"]).all()
    assert found["probability_above_0"].between(0, 1).all()
    other = hd.tl.region_contrast(sdata, by="side", a="blue", n_draws=6, inplace=False)
    np.testing.assert_allclose(other["log2_fold_change"][found.index], -found["log2_fold_change"], rtol=1e-4, atol=1e-6)


def test_regions_that_are_not_there_are_named(sdata) -> None:
    with pytest.raises(ValueError, match="'green'"):
        hd.tl.region_contrast(sdata, by="side", a="green")
    with pytest.raises(ValueError, match="the same region"):
        hd.tl.region_contrast(sdata, by="side", a="red", b="red")
    with pytest.raises(KeyError, match="no column of obs 'x'"):
        hd.tl.region_contrast(sdata, by="x", a="red")


def test_metagenes_are_mapped_with_their_genes(sdata) -> None:
    hd.tl.metagenes(sdata, n_draws=3)
    hd.tl.metagenes(sdata, n_draws=3)
    table = sdata.tables["xfuse_40um"]
    activity = table.obsm["hisdiff_metagenes"]
    np.testing.assert_allclose(activity.sum(axis=1), 1, rtol=1e-4)
    assert (table.obsm["hisdiff_metagenes_std"] >= 0).all(axis=None)
    assert table.obs["hisdiff_metagenes_scale"].mean() == pytest.approx(1, rel=1e-3)
    profiles = table.uns["hisdiff"]["metagenes"]["hisdiff_metagenes"]
    first = profiles.loc[profiles.index.str.startswith("A"), "metagene0"].mean()
    red = activity["metagene0"][table.obs["side"] == "red"].mean() > activity["metagene0"].mean()
    assert (first > 0) == red
    table.obsm["mine"] = activity
    with pytest.raises(ValueError, match="'mine' that hisdiff did not write"):
        hd.tl.metagenes(sdata, key_added="mine")
    hd.pp.embed(sdata, "texture")
    ridge = hd.tl.fit(sdata, method="ridge")
    with pytest.raises(ValueError, match="this model is of 'ridge'"):
        hd.tl.metagenes(sdata, ridge)
