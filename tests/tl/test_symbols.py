"""What takes names of genes takes symbols in a table of Ensembl ids, and says the same as in a table of symbols."""

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import hisdiff as hd

MARKERS = {"warm": ["A00", "A02"], "cold": ["B01", "B03"]}


@pytest.fixture
def both(make_section):
    """The same section in a table of symbols and in one of ids, with bins of 50 um."""
    sections = [make_section("s", seed=0, side=7) for _ in range(2)]
    table = sections[1].tables["table"]
    table.var["gene_symbols"] = table.var_names.to_numpy(str)
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    for sdata in sections:
        hd.tl.fit(sdata, method="tesla")
        hd.tl.predict(sdata, resolution_um=50)
    return sections


def test_regions_types_relations_and_plots_take_symbols(both):
    symbols, ids = both
    for sdata in both:
        hd.tl.marker_regions(sdata, MARKERS["warm"], layer="X", working_px=20)
        hd.tl.tls_score(sdata, MARKERS, n_required=1, working_px=20)
        hd.tl.marker_scores(sdata, MARKERS)
        hd.tl.cell_types(sdata, MARKERS)
        hd.tl.coexpression(sdata, [*MARKERS["warm"], *MARKERS["cold"]], layer="X", min_genes=1)
        hd.tl.enrich(sdata, {"A": ["A04", "A06", "A08"]}, layer="X", by="A00", method="prerank", min_size=2, n_perms=20)
    for key, kind, name in (
        ("table", "obs", "hisdiff_region"),
        ("table", "obs", "hisdiff_tls"),
        ("tesla_50um", "obsm", "hisdiff_marker_scores"),
        ("tesla_50um", "obs", "hisdiff_cell_type"),
        ("table", "varp", "hisdiff_coexpression"),
    ):
        one, other = (getattr(sdata.tables[key], kind)[name] for sdata in both)
        if isinstance(one, (pd.Series, pd.DataFrame)):
            assert one.equals(other), name
        else:
            assert abs(one - other).max() == 0, name
    scores = [sdata.tables["table"].uns["hisdiff"]["enrichment"]["score"] for sdata in both]
    np.testing.assert_array_equal(*scores)
    pairs = [hd.pl.gene_pair(sdata, "A00", "B01", layers="X").axes[0].collections[0].get_offsets() for sdata in both]
    np.testing.assert_array_equal(*pairs)
    hd.tl.cluster_cells(ids, 2, genes=["A00", "B01"])


def test_a_section_with_only_an_image_has_the_symbols_that_the_model_knows(colored_sections, color_encoder, tmp_path):
    known, other = colored_sections[0], colored_sections[1]
    table = known.tables["table"]
    symbols = table.var_names.to_numpy(str)
    table.var["gene_symbols"] = symbols
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    hd.tl.fit(known, method="ridge", save=tmp_path / "model")
    model = hd.models.load(tmp_path / "model")
    assert [symbols[int(gene[4:])] for gene in model.genes] == list(model.cohort.symbols)
    image = sd.SpatialData(images={"he": next(iter(other.images.values()))})
    hd.pp.embed(image, color_encoder)
    hd.tl.predict(image, model=model)
    hd.tl.predict(image, model=model, resolution_um=50)
    for key in ("lattice", "ridge_50um"):
        assert list(image.tables[key].var["gene_symbols"]) == list(model.cohort.symbols), key
    assert hd.pl.gene_map(image, model.cohort.symbols[0])


def test_a_gene_by_both_of_its_names_is_named_twice(both):
    ids = both[1]
    with pytest.raises(ValueError, match="named more than once"):
        hd.tl.coexpression(ids, ["A00", "B01", ids.tables["table"].var_names[0]], layer="X")
    with pytest.raises(KeyError, match="no gene 'A99'"):
        hd.tl.coexpression(ids, ["A00", "A99"], layer="X")


def test_genes_are_selected_by_symbols_and_an_unknown_one_is_named_as_it_was_asked_for(both):
    ids = both[1]
    hd.pp.select_genes(ids, genes=["B01"], also=["A00"])
    var = ids.tables["table"].var
    assert sorted(var["gene_symbols"][var["hisdiff_selected"]]) == ["A00", "B01"]
    with pytest.raises(KeyError, match="1 of 2 genes are missing in a section: .'A99'"):
        hd.pp.select_genes(ids, also=["A00", "A99"])
