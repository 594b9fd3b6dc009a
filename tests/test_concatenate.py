"""Sections that were put into one object by SpatialData."""

import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd

KEEP = {"concatenate_tables": True, "merge": "unique", "uns_merge": "unique", "attrs_merge": "unique"}


@pytest.fixture
def sections(make_section, color_encoder):
    sections = [make_section(f"s{i}", seed=i, side=8) for i in range(3)]
    hd.pp.embed(sections, color_encoder)
    hd.tl.predict(sections[1:], hd.tl.fit(sections[0], method="ridge"))
    return sections


def test_predicted_sections_become_one_object_and_their_results_stay(sections):
    both = sd.concatenate(sections[1:], **KEEP)
    assert sorted(both.shapes) == ["s1", "s2", "tissue_s1_image", "tissue_s2_image"]
    assert "evaluating" not in hd.tl.evaluate(both).attrs
    panels = [ax for ax in hd.pl.gene_map(both, "A00").axes if ax.get_label() != "<colorbar>"]
    assert [ax.get_title(loc="left").split(",")[0] for ax in panels] == ["s1: A00", "s1: A00", "s2: A00", "s2: A00"]
    expected = np.concatenate([one.tables["table"].layers["ridge"] for one in sections[1:]])
    hd.tl.predict(both, hd.tl.fit(sections[0], method="ridge"))
    np.testing.assert_allclose(both.tables["table"].layers["ridge"], expected, rtol=1e-4, atol=1e-4)


def test_sections_with_bins_are_renamed_and_still_found_with_their_embedding(sections, caplog):
    model = hd.tl.fit(sections[0], method="ridge")
    hd.tl.predict(sections[1:], model, resolution_um=50)
    both = sd.concatenate({"a": sections[1], "b": sections[2]}, **KEEP)
    panels = [ax for ax in hd.pl.gene_map(both, "A00", table_key="ridge_50um").axes if ax.get_label() != "<colorbar>"]
    assert [ax.get_title(loc="left").split(":")[0] for ax in panels] == ["s1-a", "s2-b"]
    expected = both.tables["table"].layers["ridge"].copy()
    caplog.clear()
    hd.tl.predict(both, model)
    assert "embedding" not in caplog.text
    np.testing.assert_allclose(both.tables["table"].layers["ridge"], expected, rtol=1e-4, atol=1e-4)


def test_sections_of_one_name_are_embedded_again_when_they_are_put_together(make_section, color_encoder, caplog):
    same = [make_section("s", seed=seed, side=8) for seed in (0, 1)]
    hd.pp.embed(same, color_encoder)
    both = sd.concatenate(dict(zip("ab", same)), **KEEP)
    hd.pp.embed(both, color_encoder)
    assert caplog.text.count("wrote obsm['hisdiff_embedding']") == 4
    expected = np.concatenate([one.tables["table"].obsm["hisdiff_embedding"] for one in same])
    np.testing.assert_allclose(both.tables["table"].obsm["hisdiff_embedding"], expected, rtol=1e-5, atol=1e-5)
