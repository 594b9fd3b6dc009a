from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy.stats import hypergeom, spearmanr

import hisdiff as hd

SETS = {
    "A": [f"A{i:02d}" for i in range(0, 12, 2)], "B": [f"B{i:02d}" for i in range(1, 12, 2)],
    "mixed": ["A00", "A02", "A04", "B01", "B03", "B05", "MISSING"], "small": ["A00", "X1", "X2"],
}  # fmt: skip


@pytest.fixture
def section(make_section):
    """64 spots; obs["side"] is what their colour says, obs["share"] a number."""
    section = make_section(side=8)
    table = section.tables["table"]
    log2 = np.log2(1 + table.X.toarray())
    share = log2[:, ::2].mean(axis=1) - log2[:, 1::2].mean(axis=1)
    table.obs["side"] = pd.Categorical(np.where(share > 0, "red", "blue"))
    table.obs["share"] = share
    return section


@pytest.fixture
def predicted(colored_sections, colored_model):
    *train, test = colored_sections
    hd.tl.predict(test, colored_model, n_draws=8, keep_draws=3)
    return test, train


def table(sdata):
    return sdata.tables["table"]


def result(sdata):
    return table(sdata).uns["hisdiff"]["enrichment"]


def test_modules_are_asked_by_default_and_the_panel_is_the_background(section) -> None:
    hd.tl.coexpression(section, layer="X")
    hd.tl.enrich(section, SETS, layer="X")
    frame = result(section)
    assert list(frame.columns) == [
        "group", "term", "method", "size", "total", "overlap", "score", "p", "fdr", "genes", "members",
    ]  # fmt: skip
    assert set(frame["group"]) == {"M1", "M2"}
    assert set(frame["term"]) == {"A", "B", "mixed"}
    best = frame[frame["fdr"] < 0.05]
    assert len(best) == 2
    assert (best["overlap"] == 6).all()
    # 6 of 6 genes of the set among the 6 of the module, of 12 in all
    np.testing.assert_allclose(best["p"], hypergeom.sf(5, 12, 6, 6), rtol=1e-6)
    none = frame[frame["overlap"] == 0]
    assert len(none) == 2
    assert (none["p"] == 1).all()
    assert (none["score"] < 0).all()
    assert frame.set_index("term").loc["mixed", ["size", "total"]].to_numpy().tolist() == [[6, 7]] * 2
    assert np.isfinite(frame[["score", "p", "fdr"]].to_numpy()).all()


def test_genes_that_took_no_part_in_the_modules_are_no_background(section) -> None:
    hd.tl.coexpression(section, SETS["A"] + ["B01", "B03", "B05"], layer="X")
    hd.tl.enrich(section, SETS, layer="X", min_size=3)
    assert set(result(section)["term"]) == {"A", "B", "mixed"}
    assert result(section).set_index("term").loc["B", "size"].tolist() == [3, 3]


def test_markers_of_groups_lists_and_other_backgrounds(section) -> None:
    markers = hd.tl.enrich(section, SETS, layer="X", by="side", inplace=False)
    best = markers[markers["fdr"] < 0.05].set_index("group")["term"]
    assert best.to_dict() == {"red": "A", "blue": "B"}
    mine = hd.tl.enrich(section, SETS, layer="X", by={"mine": ["A00", "A02", "NOT"]}, inplace=False)
    assert mine.iloc[0][["group", "overlap"]].tolist() == ["mine", 2]
    genome = [*table(section).var_names, *(f"G{i}" for i in range(2000))]
    against = hd.tl.enrich(section, SETS, layer="X", by={"mine": ["A00", "A02"]}, background=genome, inplace=False)
    assert against["p"].min() < mine["p"].min() / 1000  # why the panel is the background
    table(section).var["flag"] = table(section).var_names.str.startswith("A")
    assert set(hd.tl.enrich(section, SETS, layer="X", by="flag", inplace=False)["group"]) == {"flag"}


@pytest.mark.parametrize("by", ["side", "share", "A08", "pc1", "number", "series"])
def test_every_ranking_puts_the_planted_sets_at_its_ends(section, by) -> None:
    number = pd.Series(np.where(table(section).var_names.str.startswith("A"), 1.0, -1.0), table(section).var_names)
    number += np.linspace(0, 0.1, 12)
    table(section).var["number"] = number
    hd.tl.enrich(section, SETS, layer="X", method="prerank", by=number.rename("series") if by == "series" else by, n_perms=200)  # fmt: skip
    frame = result(section)
    group = "red" if by == "side" else by
    scores = frame[frame["group"] == group].set_index("term")["score"]
    high, low = ("A", "B") if by != "pc1" or scores["A"] > 0 else ("B", "A")
    assert scores[high] > abs(scores["mixed"])
    assert scores[low] < 0
    assert frame["p"].min() == pytest.approx(1 / 201, rel=0.9)
    ranking = table(section).varm["hisdiff_ranking"]
    if by == "A08":
        x = table(section)[:, ["A08", "B03"]].X.toarray()
        assert np.isnan(ranking.loc["A08", "A08"])
        assert ranking.loc["B03", "A08"] == pytest.approx(spearmanr(x)[0], abs=0.1)
    edge = frame.set_index(["group", "term"]).loc[(group, high), "genes"].split(";")
    assert set(edge) <= set(SETS[high])


def test_single_sample_scores_tell_the_sides_apart(section) -> None:
    side = table(section).obs["side"] == "red"
    for method in ("ssgsea", "zscore"):
        hd.tl.enrich(section, SETS, layer="X", method=method)
        scores = table(section).obsm["hisdiff_pathways"]
        assert list(scores.columns) == ["A", "B", "mixed"]
        assert scores.loc[side, "A"].min() > scores.loc[~side, "A"].quantile(0.5)
        assert np.isfinite(scores.to_numpy()).all()
        assert list(result(section).columns) == ["term", "method", "size", "total", "members"]
    assert hd.tl.enrich(section, SETS, layer="X", method="ssgsea", inplace=False).abs().to_numpy().max() <= 1


def test_ssgsea_is_the_mean_difference_of_running_shares(section) -> None:
    scores = hd.tl.enrich(section, SETS, layer="X", method="ssgsea", normalize=None, inplace=False)
    again = hd.tl.enrich(section, SETS, layer="X", method="ssgsea", normalize="library_size", inplace=False)
    np.testing.assert_allclose(
        scores, again, atol=0.02
    )  # ranks within a spot know no library size, but for rounding at ties
    assert (scores["A"].to_numpy() * scores["B"].to_numpy() < 0).mean() > 0.9


def test_draws_are_averaged_and_uncovered_spots_have_no_score(predicted) -> None:
    test, _ = predicted
    draws = [f"ridge_draw{i}" for i in range(3)]
    for name in draws:
        table(test).layers[name][:4] = np.nan
    each = [hd.tl.enrich(test, SETS, layer=draw, method="zscore", inplace=False) for draw in draws]
    hd.tl.enrich(test, SETS, layer=draws, method="zscore")
    scores = table(test).obsm["hisdiff_pathways"]
    assert scores.iloc[:4].isna().all().all()
    np.testing.assert_allclose(scores.iloc[4:], np.mean(each, axis=0)[4:], atol=1e-5)


def test_sets_may_name_ensembl_ids_and_genes_may_be_symbols(section) -> None:
    expected = hd.tl.enrich(section, SETS, layer="X", by="side", inplace=False)
    ids = {name: f"ENSG{i:04d}" for i, name in enumerate(table(section).var_names)}
    table(section).var["gene_ids"] = list(ids.values())
    sets = {name: [ids.get(gene, gene) for gene in genes] for name, genes in SETS.items()}
    frame = hd.tl.enrich(section, sets, layer="X", by="side", inplace=False)
    pd.testing.assert_frame_equal(frame.drop(columns=["genes", "members"]), expected.drop(columns=["genes", "members"]))


def test_results_survive_writing_and_reading(section, tmp_path) -> None:
    sets = {f"{name}/x": genes for name, genes in SETS.items()}
    hd.tl.enrich(section, sets, layer="X", by="side", method="prerank", n_perms=50)
    hd.tl.enrich(section, sets, layer="X", method="zscore", key_added="measured")
    section.write(tmp_path / "s.zarr")
    table(section).write_h5ad(tmp_path / "t.h5ad")
    for back in (table(sd.read_zarr(tmp_path / "s.zarr")), ad.read_h5ad(tmp_path / "t.h5ad")):
        pd.testing.assert_frame_equal(
            pd.DataFrame(back.uns["hisdiff"]["enrichment"]).astype({"group": object, "term": object}).reset_index(drop=True),
            result(section).reset_index(drop=True), check_dtype=False,
        )  # fmt: skip
        np.testing.assert_array_equal(back.varm["hisdiff_ranking"], table(section).varm["hisdiff_ranking"])
        assert list(back.obsm["measured_pathways"].columns) == ["A|x", "B|x", "mixed|x"]
        assert "enrichment" in back.uns["measured"]
        hd.tl.enrich(back, sets, layer="X", method="zscore", key_added="measured")  # its own results are replaced


def test_the_same_seed_gives_the_same(section) -> None:
    first, second, other = (
        hd.tl.enrich(section, SETS, layer="X", by="side", method="prerank", n_perms=50, rng=rng, inplace=False) for rng in (1, 1, 2)
    )  # fmt: skip
    pd.testing.assert_frame_equal(first, second)
    assert not first["score"].equals(other["score"])


def test_groups_of_one_are_left_out_and_said(section, caplog) -> None:
    side = table(section).obs["side"].astype(str)
    side.iloc[0] = "lonely"
    table(section).obs["three"] = side
    frame = hd.tl.enrich(section, SETS, layer="X", by="three", inplace=False)
    assert set(frame["group"]) == {"red", "blue"}
    assert "groups of one location are left out: ['lonely']" in caplog.text


def test_constant_genes_are_left_out_of_rankings(section, caplog) -> None:
    counts = table(section).X.toarray()
    counts[:, 2] = 0
    table(section).X = counts
    hd.tl.enrich(section, SETS, layer="X", by="side", method="prerank", n_perms=50)
    assert "1 genes are constant and are left out of the ranking: ['A02']" in caplog.text
    frame = result(section)
    assert frame[frame["term"] == "A"]["size"].tolist() == [5, 5]
    assert np.isfinite(frame[["score", "p", "fdr"]].to_numpy()).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer": "hisdiff"}, KeyError, "no layer 'hisdiff'"),
        ({}, KeyError, "no modules to test; compute them with hd.tl.coexpression"),
        ({"method": "gsva"}, ValueError, "method is one of"),
        ({"method": "prerank"}, ValueError, "'prerank' needs by="),
        ({"method": "prerank", "by": "nothing"}, KeyError, "nor a gene of the panel"),
        ({"method": "prerank", "by": pd.Series({"A00": 1.0})}, ValueError, "lacks 11, such as"),
        ({"method": "ssgsea", "by": "side"}, ValueError, "scores every location"),
        ({"method": "ssgsea", "background": ["A00"]}, ValueError, "background= is for 'ora'"),
        ({"by": "nothing"}, KeyError, "by='nothing' is neither a column of var"),
        ({"by": "number"}, ValueError, "rank genes by it with method='prerank'"),
        ({"by": "holes"}, ValueError, "NaN at 1 locations"),
        ({"by": "same"}, ValueError, "no two groups"),
        ({"by": {}}, ValueError, "by is empty"),
        ({"by": {"x": ["NOT"]}}, ValueError, "None of the 1 genes"),
        ({"by": {"x": ["A00"]}, "background": ["B01"]}, ValueError, "background lacks genes"),
        ({"by": "side", "min_size": 9, "max_size": 3}, ValueError, "min_size=9 is above"),
        ({"by": "side", "min_size": 7}, ValueError, "None of the 4 gene sets has 7 to 500"),
        ({"by": "side", "gene_sets": {"m": ["a00", "a02", "a04", "a06", "a08"]}}, ValueError, "another species"),
        ({"method": "zscore", "key_added": "mine"}, ValueError, "hisdiff did not write"),
    ],
)
def test_mistakes_are_named_and_leave_the_object_alone(section, arguments, error, message) -> None:
    table(section).var["number"] = 1.0
    table(section).obs["same"] = "x"
    table(section).obs["holes"] = [None, *["x", "y"] * 31, "x"]
    table(section).obsm["mine_pathways"] = np.zeros((64, 2))
    before = repr(table(section)), list(table(section).uns)
    with pytest.raises(error, match=message):
        hd.tl.enrich(section, **{"gene_sets": SETS, "layer": "X", **arguments})
    assert (repr(table(section)), list(table(section).uns)) == before


def test_one_spot_can_be_scored_by_ranks_and_nothing_else(section) -> None:
    one = table(section)[:1].copy()
    assert np.isfinite(hd.tl.enrich(one, SETS, layer="X", method="ssgsea", inplace=False).to_numpy()).all()
    assert (hd.tl.enrich(one, SETS, layer="X", method="zscore", inplace=False) == 0).all(axis=None)
    with pytest.raises(ValueError, match="All 12 genes are constant"):
        hd.tl.enrich(one, SETS, layer="X", by="pc1", method="prerank")
    with pytest.raises(ValueError, match="no two groups"):
        hd.tl.enrich(one, SETS, layer="X", by="side")


@pytest.mark.real
def test_interferon_genes_of_a_real_section_are_scored(real_data) -> None:
    sdata = hd.io.her2st(real_data / "her2st", "C5")
    terms = pd.read_csv(real_data / "her2st" / "go-sets" / "go-0060337.csv")
    hd.tl.enrich(sdata, {"GO:0060337": terms["name"]}, layer="X", method="ssgsea")
    frame = result(sdata)
    assert frame["size"].item() > 50
    assert frame["total"].item() == terms["name"].nunique()
    scores = table(sdata).obsm["hisdiff_pathways"]["GO:0060337"]
    stat1 = table(sdata)[:, ["STAT1"]].X.toarray().ravel()
    assert np.isfinite(scores).all()
    assert spearmanr(scores, stat1)[0] > 0.1


def test_a_layer_that_equals_the_measurement_agrees_perfectly(predicted) -> None:
    test, _ = predicted
    for name in ("ridge", "ridge_draw0", "ridge_draw1", "ridge_draw2"):
        table(test).layers[name] = np.log2(1 + table(test).X.toarray()).astype(np.float32)
    for method in ("ssgsea", "zscore"):
        frame = hd.tl.pathway_agreement(test, SETS, method=method)
        assert frame["view"].unique().tolist() == ["mean", "draw", "draws"]
        np.testing.assert_allclose(frame[["pearson", "spearman"]], 1, atol=0.02)
        spots = hd.tl.pathway_agreement(test, SETS, method=method, per="spot")
        assert spots["mae"].max() < 0.1
        assert len(spots) == 3 * 64


def test_pathway_agreement_shows_what_random_spots_reach(predicted) -> None:
    test, train = predicted
    frame = hd.tl.pathway_agreement(test, SETS, layers="ridge", control=train)
    figures = frame.groupby("view")["pearson"].mean()
    assert figures["mean"] > 0.5 > abs(figures["random spots"])
    assert frame.set_index("term").loc["mixed", ["size", "total"]].iloc[0].tolist() == [6, 7]
    with pytest.raises(KeyError, match="no prediction to compare"):
        hd.tl.pathway_agreement(train[0], SETS)
    with pytest.raises(ValueError, match="per is one of"):
        hd.tl.pathway_agreement(test, SETS, per="gene")
