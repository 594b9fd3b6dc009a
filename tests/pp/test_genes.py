from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hisdiff as hd


def selected(sdata) -> set[str]:
    var = sdata.tables["table"].var
    return set(var.index[var["hisdiff_selected"]])


def test_genes_high_in_mean_and_in_spread_are_taken(make_section) -> None:
    sdata = make_section(n_genes=12)
    hd.pp.select_genes(sdata, n_top=4)
    counts = sdata.tables["table"].X.toarray()
    names = sdata.tables["table"].var_names
    top = set(names[np.argsort(-counts.mean(0))[:4]]) & set(names[np.argsort(-counts.std(0))[:4]])
    assert selected(sdata) == top


def test_sections_get_one_common_choice_from_the_genes_that_all_have(make_section) -> None:
    first, second = make_section("s1"), make_section("s2", seed=1)
    reduced = second.tables["table"][:, 2:].copy()
    del second.tables["table"]
    second.tables["table"] = reduced
    hd.pp.select_genes([first, second])
    assert selected(first) == selected(second) == set(reduced.var_names)


def test_only_the_sections_given_decide(make_section) -> None:
    train, other = make_section("s1"), make_section("s2", seed=5, size_factor=30)
    alone = hd.pp.select_genes(train, n_top=5, inplace=False)
    table = other.tables["table"]
    table.X = table.X[:, ::-1]
    assert hd.pp.select_genes(train, n_top=5, inplace=False) == alone
    assert "hisdiff_selected" not in train.tables["table"].var


@pytest.mark.parametrize(
    "kind", [sparse.csc_matrix, sparse.csr_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int32)]
)
def test_any_storage_of_counts_gives_the_same_choice(make_section, kind) -> None:
    reference, sdata = make_section(), make_section()
    sdata.tables["table"].X = kind(sdata.tables["table"].X)
    assert hd.pp.select_genes(sdata, n_top=5, inplace=False) == hd.pp.select_genes(reference, n_top=5, inplace=False)


def test_a_layer_can_hold_the_counts(make_section) -> None:
    sdata = make_section()
    table = sdata.tables["table"]
    expected = hd.pp.select_genes(sdata, n_top=5, inplace=False)
    table.layers["counts"] = table.X.copy()
    table.X = np.log1p(table.X.toarray())
    with pytest.raises(ValueError, match="not whole numbers"):
        hd.pp.select_genes(sdata)
    assert hd.pp.select_genes(sdata, n_top=5, layer="counts", inplace=False) == expected


def test_symbols_and_ensembl_ids_are_brought_together(make_section) -> None:
    first, second = make_section("s1"), make_section("s2", seed=1)
    table = second.tables["table"]
    table.var["gene_symbols"] = table.var_names.to_list()
    table.var_names = [f"ENSG{i:04d}" for i in range(table.n_vars)]
    hd.pp.select_genes([first, second])
    chosen = second.tables["table"].var
    assert set(chosen["gene_symbols"][chosen["hisdiff_selected"]]) == selected(first)


def test_genes_can_be_given_and_unknown_ones_are_named(make_section) -> None:
    sdata = make_section()
    hd.pp.select_genes(sdata, genes=["A00", "B01"])
    assert selected(sdata) == {"A00", "B01"}
    with pytest.raises(KeyError, match="NOPE"):
        hd.pp.select_genes(sdata, genes=["A00", "NOPE"])
    with pytest.raises(TypeError, match="a sequence, not str"):
        hd.pp.select_genes(sdata, genes="A00")
    with pytest.raises(ValueError, match="genes is empty"):
        hd.pp.select_genes(sdata, genes=[])


def test_sections_without_a_common_gene_are_refused(make_section) -> None:
    other = make_section("s2", genes=[f"Z{i}" for i in range(12)])
    with pytest.raises(ValueError, match="no gene in common"):
        hd.pp.select_genes([make_section(), other])


@pytest.mark.parametrize(("spoil", "message"), [(np.nan, "NaN"), (-1, "negative"), (0.5, "not whole")])
def test_values_that_are_no_counts_are_refused_and_nothing_is_written(make_section, spoil: float, message: str) -> None:
    sdata = make_section()
    sdata.tables["table"].X.data[3] = spoil
    with pytest.raises(ValueError, match=message):
        hd.pp.select_genes(sdata)
    assert "hisdiff_selected" not in sdata.tables["table"].var


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_gene_names_are_refused(make_section) -> None:
    sdata = make_section(genes=["A"] * 2 + [f"G{i}" for i in range(10)])
    with pytest.raises(ValueError, match="more than once"):
        hd.pp.select_genes(sdata)


def test_empty_spots_and_genes_do_not_take_part(make_section) -> None:
    sdata = make_section()
    table = sdata.tables["table"]
    dense = table.X.toarray()
    dense[:5], dense[:, 11] = 0, 0
    table.X = sparse.csr_matrix(dense)
    hd.pp.select_genes(sdata)
    assert "B11" not in selected(sdata)
    assert selected(sdata)


@pytest.mark.real
def test_the_choice_on_real_sections_has_the_size_of_the_study(real_data) -> None:
    train = [hd.io.her2st(real_data / "her2st", s) for s in ("C2", "C3")]
    hd.pp.select_genes(train)
    assert 180 <= len(selected(train[0])) <= 300
    assert {"ERBB2", "CD74"} <= selected(train[0])


def test_one_spot_says_nothing_of_how_genes_vary(make_section) -> None:
    sdata = make_section()
    table = sdata.tables["table"][:1].copy()
    del sdata.tables["table"]
    sdata.tables["table"] = table
    with pytest.raises(ValueError, match="their variability, but there are 1 spots"):
        hd.pp.select_genes(sdata)


def test_the_regions_of_a_table_count_as_sections(make_section, caplog) -> None:
    sdata = make_section()
    sdata.shapes["s2"] = sdata.shapes["s1"].copy()
    table = sdata.tables["table"]
    table.obs["region"] = pd.Categorical(["s1"] * 18 + ["s2"] * 18)
    table.uns["spatialdata_attrs"]["region"] = ["s1", "s2"]
    hd.pp.select_genes(sdata)
    assert "selected on 2 section(s)" in caplog.text


def test_spots_off_the_tissue_take_no_part(make_section, caplog) -> None:
    sdata = make_section()
    table = sdata.tables["table"]
    off = np.arange(table.n_obs) < 6
    table.obs["in_tissue"] = (~off).astype(int)
    hd.pp.select_genes(sdata)
    model = hd.tl.fit(sdata, method="ridge")
    assert "6 of 36 spots are off the tissue" in caplog.text
    counts = table.X.toarray()
    counts[off] = 1e4
    table.X = sparse.csr_matrix(counts)
    hd.pp.select_genes(sdata)
    assert hd.tl.fit(sdata, method="ridge").id == model.id


def test_genes_are_added_to_the_selection_and_a_missing_one_is_named(make_section) -> None:
    sdata = make_section()
    chosen = hd.pp.select_genes(sdata, n_top=3, inplace=False)
    rare = sorted(set(sdata.tables["table"].var_names) - set(chosen))[0]
    assert hd.pp.select_genes(sdata, n_top=3, also=[rare], inplace=False) == sorted([*chosen, rare])
    assert hd.pp.select_genes(sdata, genes=chosen[:1], also=[rare], inplace=False) == sorted([chosen[0], rare])
    with pytest.raises(KeyError, match="1 of 1 genes are missing in a section: \\['CD3E'\\]"):
        hd.pp.select_genes(sdata, also=["CD3E"])
