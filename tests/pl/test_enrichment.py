from __future__ import annotations

import numpy as np
import pytest

import hisdiff as hd
from hisdiff._stats._enrichment import running_sum

SETS = {
    "A": [f"A{i:02d}" for i in range(0, 12, 2)], "B": [f"B{i:02d}" for i in range(1, 12, 2)],
    "GOBP_A_VERY_LONG_NAME_OF_A_MIXED_SET_OF_GENES": ["A00", "A02", "A04", "B01", "B03", "B05"],
}  # fmt: skip


@pytest.fixture
def sdata(make_section):
    """Modules asked of the sets; along a ranking under "gsea"; scores of spots, measured and halved, under names."""
    sdata = make_section(side=7)
    table = sdata.tables["table"]
    table.layers["other"] = np.log2(1 + table.X.toarray()) / 2 + 0.1
    hd.tl.coexpression(sdata, layer="X")
    hd.tl.enrich(sdata, SETS, layer="X")
    hd.tl.enrich(sdata, SETS, layer="X", by="A08", method="prerank", n_perms=100, key_added="gsea")
    hd.tl.enrich(sdata, SETS, layer="X", method="zscore", key_added="measured")
    hd.tl.enrich(sdata, SETS, layer="other", method="zscore", key_added="halved")
    return sdata


def panels(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def test_several_groups_are_columns_coloured_by_score_about_zero(sdata):
    ax = hd.pl.enrichment(sdata)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["M1", "M2"]
    dots = ax.collections[0]
    assert len(dots.get_offsets()) == 6
    assert dots.norm.vmin == -dots.norm.vmax
    frame = sdata.tables["table"].uns["hisdiff"]["enrichment"]
    np.testing.assert_allclose(np.sort(dots.get_array()), np.sort(frame["score"]))
    assert len(np.unique(dots.get_edgecolors(), axis=0)) == 1 or (frame["fdr"] < 0.05).any()


@pytest.mark.parametrize("kind", ["dot", "bar"])
def test_one_group_is_shown_by_score_the_surest_on_top(sdata, kind):
    ax = hd.pl.enrichment(sdata, group="M1", kind=kind)
    frame = sdata.tables["table"].uns["hisdiff"]["enrichment"]
    frame = frame[frame["group"] == "M1"]
    names = [text.get_text().replace("\n", "") for text in ax.get_yticklabels()]
    assert names[0] == frame.sort_values("fdr")["term"].iloc[0]
    assert set(names) == set(SETS)
    shown = [bar.get_width() for bar in ax.patches] if kind == "bar" else ax.collections[0].get_offsets()[:, 0]
    np.testing.assert_allclose(shown, frame.set_index("term").loc[names, "score"])
    assert ax.yaxis_inverted()


def test_fewer_terms_and_axes_of_ones_own(sdata):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    assert hd.pl.enrichment(sdata, "gsea", n_terms=2, ax=axes) is axes
    assert len(axes.get_yticklabels()) == 2


def test_the_running_sum_ends_at_zero_and_peaks_at_the_enrichment_score(sdata):
    import gseapy

    ax = hd.pl.gsea(sdata, "A", key="gsea")
    curve = ax.lines[0].get_ydata()
    assert curve[-1] == pytest.approx(0, abs=1e-9)
    ranking = sdata.tables["table"].varm["gsea_ranking"]["A08"].dropna().sort_values(ascending=False)
    expected = gseapy.prerank(rnk=ranking, gene_sets=SETS, min_size=1, permutation_num=10, outdir=None, seed=0).results[
        "A"
    ]["es"]
    assert curve[np.abs(curve).argmax()] == pytest.approx(expected, abs=1e-6)
    member = ranking.index.isin(SETS["A"])
    np.testing.assert_allclose(curve[1:], running_sum(ranking.to_numpy(), member))
    assert len(ax.collections[0].get_segments()) == member.sum()
    assert "5 of 6 genes" in ax.get_title(loc="left")  # A08 itself was what others were correlated with
    ids = [f"ENSG{i:04d}" for i in range(12)]
    sdata.tables["table"].var["gene_ids"] = ids
    hd.tl.enrich(sdata, {"A": ids[::2]}, layer="X", by="A08", method="prerank", n_perms=100, key_added="ids")
    np.testing.assert_allclose(hd.pl.gsea(sdata, "A", key="ids").lines[0].get_ydata(), curve)


def test_what_was_read_back_from_a_file_is_drawn_the_same(sdata, tmp_path):
    import spatialdata as sd

    sdata.write(tmp_path / "s.zarr")
    back = sd.read_zarr(tmp_path / "s.zarr")
    np.testing.assert_allclose(*(hd.pl.enrichment(data).collections[0].get_offsets() for data in (sdata, back)))
    np.testing.assert_allclose(*(hd.pl.gsea(data, "A", key="gsea").lines[0].get_ydata() for data in (sdata, back)))
    figures = [hd.pl.pathway_map(data, "A", keys="measured") for data in (sdata, back)]
    np.testing.assert_allclose(*(figure.collections[0].get_array() for figure in figures))


def test_pathways_on_the_tissue_share_one_norm_per_set(sdata):
    figure = hd.pl.pathway_map(sdata, ["A", "B"], keys=["measured", "halved"])
    assert [ax.get_title(loc="left") for ax in panels(figure)][:2] == ["A\nmeasured", "A\nhalved: other"]
    norms = [(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in panels(figure)]
    assert norms[0] == norms[1] != norms[2] == norms[3]
    scores = sdata.tables["table"].obsm["measured_pathways"]["A"]
    np.testing.assert_allclose(panels(figure)[0].collections[0].get_array(), scores, rtol=1e-6)
    assert hd.pl.pathway_map(sdata, "A", keys="measured").get_aspect() == 1
    assert len(panels(hd.pl.pathway_map(sdata, "A"))) == 2


def test_sections_and_kinds_of_scores_stand_side_by_side_each_kind_with_its_scale(sdata, make_section):
    other = make_section("s2", side=5)
    hd.tl.enrich(other, SETS, layer="X", method="zscore", key_added="measured")
    figure = hd.pl.pathway_map([sdata, other], "A", keys="measured", vmin=-1, vmax=1, title="Two")
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["s1: A\nmeasured", "s2: A\nmeasured"]
    assert {(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in panels(figure)} == {(-1, 1)}
    assert len(panels(hd.pl.pathway_map([sdata, make_section("s3")], "A"))) == 2, (
        "a section without scores leaves no gap"
    )
    hd.tl.enrich(sdata, SETS, layer="X", method="ssgsea", key_added="ssgsea")
    figure = hd.pl.pathway_map(sdata, "A", keys=["measured", "ssgsea"])
    bars = [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert bars == ["mean standard score", "ssGSEA score"]


def test_modules_and_scores_of_finer_tables_are_shown_by_their_name(sdata):
    table = sdata.tables["table"]
    ax = hd.pl.pathway_map(sdata, "M1")
    assert ax.get_title(loc="left") == "M1\nmodule of measured"
    np.testing.assert_allclose(ax.collections[0].get_array(), table.obsm["hisdiff_modules"]["M1"], rtol=1e-6)
    sdata.tables["finer"] = table.copy()
    sdata.tables["finer"].obsm["hisdiff_marker_scores"] = table.obsm["hisdiff_modules"].rename(columns={"M1": "T cell"})
    assert hd.pl.pathway_map(sdata, "T cell").get_title(loc="left") == "T cell\nhisdiff marker scores"


def test_mistakes_are_said_and_open_no_figure(sdata, make_section):
    import matplotlib.pyplot as plt

    with pytest.raises(KeyError, match=r"no enrichment 'hisdiff'; make it with hd.tl.enrich"):
        hd.pl.enrichment(make_section())
    with pytest.raises(KeyError, match="no group 'M9'"):
        hd.pl.enrichment(sdata, group="M9")
    with pytest.raises(ValueError, match="Bars show one group"):
        hd.pl.enrichment(sdata, kind="bar")
    with pytest.raises(ValueError, match="show them with hd.pl.pathway_map"):
        hd.pl.enrichment(sdata, "measured")
    with pytest.raises(ValueError, match="kind is one of"):
        hd.pl.enrichment(sdata, kind="violin")
    with pytest.raises(ValueError, match="has no ranking"):
        hd.pl.gsea(sdata, "A")
    with pytest.raises(KeyError, match="no gene set 'C'"):
        hd.pl.gsea(sdata, "C", key="gsea")
    with pytest.raises(KeyError, match="no gene set 'C'; available: .'A', 'B'"):
        hd.pl.pathway_map(sdata, "C")
    with pytest.raises(KeyError, match="no scores 'gsea'; available: .'measured', 'halved', 'hisdiff_modules'"):
        hd.pl.pathway_map(sdata, "A", keys="gsea")
    with pytest.raises(ValueError, match="pathways is empty"):
        hd.pl.pathway_map(sdata, [])
    assert not plt.get_fignums()
