from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from hisdiff._sdata._expression import draw_layers, read_expression, stem_of, table_of
from hisdiff._sdata._layers import layer_names
from hisdiff._stats._structure import normalize_library_size


@pytest.fixture
def table(make_section):
    """36 spots, 12 genes; a prediction in log2 of all but the last gene, and one in counts of all."""
    table = make_section().tables["table"]
    measured = np.log2(1 + table.X.toarray()).astype(np.float32)
    for name in ("hisdiff", "hisdiff_std", "hisdiff_draw0", "hisdiff_draw1"):
        table.layers[name] = measured.copy()
        table.layers[name][:, -1] = np.nan
    table.layers["other"] = table.X.toarray() * 1.5
    table.var["hisdiff_modelled"] = np.arange(12) < 11
    table.var["other_modelled"] = True
    predictions = {"hisdiff": {"units": "log2"}, "other": {"units": "counts"}}
    table.uns["hisdiff"] = {"predictions": predictions}
    return table


def dense(table):
    return table.X.toarray().astype(np.float64)


def test_counts_and_predictions_come_on_one_scale_over_the_genes_that_all_cover(table) -> None:
    measured, log2, counts = read_expression(table, [None, "hisdiff", "other"], normalize=None)
    assert len(measured.genes) == 11
    np.testing.assert_allclose(measured.values(), np.log2(1 + dense(table)[:, :11]), rtol=1e-5)
    np.testing.assert_allclose(log2.values(), measured.values(), rtol=1e-5)
    np.testing.assert_allclose(counts.values(), np.log2(1 + 1.5 * dense(table)[:, :11]), rtol=1e-5)


@pytest.mark.parametrize("layer", ["X", "hisdiff", "other"])
def test_library_size_is_taken_out_over_the_panel_whatever_genes_are_asked(table, layer) -> None:
    layers = [layer, "hisdiff_draw0"]
    whole = read_expression(table, layers, normalize="library_size")[0]
    part = read_expression(table, layers, genes=["B03", "A00"], normalize="library_size")[0]
    factor = 1.5 if layer == "other" else 1
    np.testing.assert_allclose(
        whole.values(), normalize_library_size(np.log2(1 + factor * dense(table)[:, :11])), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(part.values(), whole.values()[:, [3, 0]], rtol=1e-5)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_any_storage_gives_the_same(table, kind) -> None:
    expected = read_expression(table, "X")[0].values()
    table.X = kind(dense(table))
    np.testing.assert_allclose(read_expression(table, "X")[0].values(), expected, rtol=1e-6)


def test_a_fine_table_with_a_lazy_x_is_read_in_its_units(table) -> None:
    import dask.array as da

    expected = read_expression(table, "other")[0].values()
    fine = table[:, :].copy()
    fine.X = da.from_array(table.layers["other"], chunks=(10, 5))
    fine.var = fine.var.drop(columns=["hisdiff_modelled", "other_modelled"])
    for name in layer_names(fine):
        del fine.layers[name]
    fine.uns["hisdiff"] = {"made_by": "hisdiff", "predictions": {"hisdiff": {"units": "counts"}}}
    fine.layers["draw0"], fine.layers["std"] = table.layers["other"], table.layers["other"]
    with pytest.raises(ValueError, match="spread over draws"):
        read_expression(fine, "std")
    assert draw_layers(fine, "hisdiff") == ["draw0"]
    for layer in ("X", None, "draw0"):
        np.testing.assert_allclose(read_expression(fine, layer)[0].values(), expected, rtol=1e-5)


def test_locations_that_a_layer_does_not_cover_are_left_out(table) -> None:
    table.layers["hisdiff"][:5] = np.nan
    found = read_expression(table, ["X", "hisdiff"])
    assert found[0].rows.tolist() == found[1].rows.tolist() == list(range(5, 36))
    assert found[0].values().shape == (31, 11)


def test_layers_of_other_making_are_counts_where_they_are_whole(table) -> None:
    table.layers["raw"], table.layers["logged"] = table.X.copy(), np.log2(1 + dense(table))
    raw, logged = read_expression(table, ["raw", "logged"], normalize=None)
    np.testing.assert_allclose(raw.values(), logged.values(), rtol=1e-5)


def test_the_panel_of_counts_is_what_was_modelled_then_selected_then_all(table) -> None:
    assert len(read_expression(table, "X")[0].genes) == 11
    del table.uns["hisdiff"]
    assert len(read_expression(table, "X")[0].genes) == 12
    table.var["hisdiff_selected"] = np.arange(12) < 4
    assert len(read_expression(table, "X")[0].genes) == 4


def test_layers_know_their_prediction(table) -> None:
    assert [stem_of(table, name) for name in ("hisdiff_draw1", "other", "X", "hisdiff_draws")] == [
        "hisdiff", "other", None, None,
    ]  # fmt: skip


def spoil(table, name, value):
    table.layers[name][3, 4] = value


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        ("hisdif", {}, KeyError, "no layer 'hisdif'.*Did you mean 'hisdiff'"),
        ("hisdiff_std", {}, ValueError, "spread over draws"),
        ([], {}, ValueError, "layer is empty"),
        (["X", None], {}, ValueError, "more than once"),
        ("hisdiff", {"genes": ["A99"]}, KeyError, "no gene 'A99'"),
        ("hisdiff", {"genes": ["A00", "B11"]}, ValueError, "'B11' is not among the 11 modelled"),
        ("hisdiff", {"genes": ["A00", "A00"]}, ValueError, "more than once"),
        ("hisdiff", {"genes": "A00"}, ValueError, "At least 2 genes"),
        ("hisdiff", {"at_least": (37, 2)}, ValueError, "At least 37 locations are needed.*covers 36 of 36"),
    ],
)
def test_mistakes_are_named(table, layers, options, error, message) -> None:
    with pytest.raises(error, match=message):
        read_expression(table, layers, **options)


def test_values_that_cannot_be_expression_are_named(table, monkeypatch) -> None:
    spoil(table, "hisdiff", np.nan)
    with pytest.raises(ValueError, match="NaN or infinite values in 'hisdiff' at 1 locations, such as .'s1_0x3'"):
        read_expression(table, "hisdiff")
    table.layers["scaled"] = dense(table) - 20.5
    with pytest.raises(ValueError, match="far below zero"):
        read_expression(table, "scaled")
    table.X = table.X * 0.5
    with pytest.raises(ValueError, match="not whole numbers in X"):
        read_expression(table, "X")
    monkeypatch.setattr("hisdiff._sdata._expression.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="take fewer locations"):
        read_expression(table, "other")
    with pytest.raises(TypeError, match="not dict"):
        table_of({}, None, "this")
    with pytest.raises(ValueError, match="data is an AnnData"):
        table_of(table, "table", "this")


def test_measured_genes_outside_the_choice_can_be_named_and_library_size_is_still_that_of_the_choice(table) -> None:
    for slot in ("hisdiff_modelled", "other_modelled"):
        del table.var[slot]
    del table.uns["hisdiff"]
    table.var["hisdiff_selected"] = np.arange(12) > 1
    found = read_expression(table, None, genes=["B05", "A00"])[0]
    assert list(found.genes) == ["B05", "A00"]
    counts = dense(table)
    totals = counts[:, 2:].sum(axis=1)
    expected = np.log2(1 + counts[:, [5, 0]] * (np.median(totals) / totals)[:, None])
    np.testing.assert_allclose(found.values(), expected, rtol=1e-5)
    assert "A00" not in read_expression(table, None)[0].genes


def test_what_scanpy_took_the_logarithm_of_is_not_taken_for_predicted_counts(table) -> None:
    import scanpy as sc

    fine = AnnData(np.expm1(dense(table) / 9), var=table.var[[]].copy())
    fine.uns["hisdiff"] = {"made_by": "hisdiff", "predictions": {"hisdiff": {"units": "counts"}}}
    fine.layers["draw0"] = fine.X.copy()
    sc.pp.log1p(fine)
    with pytest.raises(ValueError, match="no counts since sc.pp.log1p"):
        read_expression(fine, None)
    assert read_expression(fine, "draw0")[0].take_log
