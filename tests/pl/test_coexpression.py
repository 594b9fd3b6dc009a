from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

import hisdiff as hd
from hisdiff.pl._matrices import NO_MODULE, color_of
from hisdiff.pl._network import _name_nodes


@pytest.fixture
def sdata(make_section):
    """A section with two layers: the measurement, and the same with other neighbours for each gene."""
    sdata = make_section(side=7)
    table = sdata.tables["table"]
    table.layers["other"] = table.X.toarray()[:, np.roll(np.arange(12), 3)]
    hd.tl.coexpression(sdata, layer="X", key_added="measured")
    hd.tl.coexpression(sdata, layer="other")
    return sdata


def heatmaps(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.images]


def strip_of(panel):
    return [to_hex(row[0]) for row in panel.child_axes[0].images[0].get_array()]


def test_panels_share_one_order_and_one_centred_norm(sdata):
    measured, other = heatmaps(hd.pl.coexpression(sdata))
    assert [ax.get_title(loc="left") for ax in (measured, other)] == ["measured", "other"]
    norms = {(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in (measured, other)}
    assert len(norms) == 1
    low, high = norms.pop()
    assert low == -high
    table = sdata.tables["table"]
    names = [text.get_text() for text in measured.child_axes[0].get_yticklabels()]
    for panel, key in ((measured, "measured_coexpression"), (other, "hisdiff_coexpression")):
        expected = table[:, names].varp[key]
        np.testing.assert_allclose(panel.images[0].get_array(), expected)


def test_genes_stand_module_by_module_and_the_strip_shows_it(sdata):
    panel = hd.pl.coexpression(sdata, "measured")
    names = [text.get_text() for text in panel.child_axes[0].get_yticklabels()]
    kinds = "".join(name[0] for name in names)
    assert kinds in ("A" * 6 + "B" * 6, "B" * 6 + "A" * 6)
    assert strip_of(panel) == [color_of(0)] * 6 + [color_of(1)] * 6
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["M1", "M2"]


def test_modules_of_other_panels_take_the_colour_of_those_they_share_genes_with(sdata):
    table = sdata.tables["table"]
    table.var["hisdiff_module"] = table.var["measured_module"].cat.rename_categories({"M1": "M2", "M2": "M1"}).cat.reorder_categories(["M1", "M2"])  # fmt: skip
    measured, other = heatmaps(hd.pl.coexpression(sdata))
    assert strip_of(measured) == strip_of(other)


def test_genes_in_no_module_are_grey(sdata):
    table = sdata.tables["table"]
    table.var.loc["A00", "measured_module"] = np.nan
    panel = hd.pl.coexpression(sdata, "measured")
    assert strip_of(panel)[-1] == NO_MODULE
    assert panel.get_legend().get_texts()[-1].get_text() == "none"


def test_only_genes_that_all_matrices_have_are_shown(sdata):
    hd.tl.coexpression(sdata, ["A00", "B01", "A02", "B03"], layer="X", key_added="few")
    assert {ax.images[0].get_array().shape for ax in heatmaps(hd.pl.coexpression(sdata))} == {(4, 4)}
    assert hd.pl.coexpression(sdata, "measured", genes=["A00", "A04"]).images[0].get_array().shape == (2, 2)


def test_what_was_read_back_from_a_file_is_drawn_the_same(sdata, tmp_path):
    import anndata as ad

    table = sdata.tables["table"]
    hd.tl.coexpression(sdata, ["A00", "A02", "B01"], layer="X", key_added="few")
    table.write_h5ad(tmp_path / "t.h5ad")
    back = ad.read_h5ad(tmp_path / "t.h5ad")
    for key in ("measured", "few"):
        now, then = (hd.pl.coexpression(data, key) for data in (table, back))
        np.testing.assert_array_equal(now.images[0].get_array(), then.images[0].get_array())
        assert strip_of(now) == strip_of(then)


def test_the_network_has_the_strongest_pairs(sdata):
    ax = hd.pl.coexpression_network(sdata, "measured", n_edges=9)
    assert len(ax.lines) == 9
    matrix = sdata.tables["table"].varp["measured_coexpression"]
    strength = np.sort(np.abs(matrix[np.triu_indices(12, 1)]))[::-1][:9]
    assert f"{strength[-1]:.2f} to {strength[0]:.2f}" in ax.get_title(loc="left")
    n_negative = sum(line.get_linestyle() == "--" for line in ax.lines)
    assert ("negative" in {text.get_text() for text in ax.get_legend().get_texts()}) == (n_negative > 0)
    again = hd.pl.coexpression_network(sdata, "measured", n_edges=9)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), again.collections[0].get_offsets())


def test_names_in_the_network_do_not_overlap_and_those_without_room_are_listed(sdata):
    import matplotlib.pyplot as plt

    for side in (6.0, 0.8):
        _, ax = plt.subplots(figsize=(side, side))
        hd.pl.coexpression_network(sdata, "measured", n_edges=60, ax=ax)
        texts = [text for text in ax.texts if text.get_text()]
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        told = " ".join(text.get_text().replace("\n", " ") for text in texts)
        shown = {gene for gene in sdata.tables["table"].var_names if gene in told}
        assert len(shown) == len(ax.collections[0].get_offsets())  # each gene is named at its node or below
        assert ("no room for the names of" in told) == (side < 2)


def test_names_of_straight_letters_keep_all_their_strokes() -> None:
    figure = plt.figure(figsize=(2, 2), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()

    def inked() -> int:
        figure.canvas.draw()
        return int((np.asarray(figure.canvas.buffer_rgba())[..., 0].min(axis=0) < 195).sum())

    for shift in np.arange(0, 1, 0.25):  # of a pixel
        _name_nodes(ax, np.array([[0.5, 0.5 + shift / 200]]), np.array([25.0]), ["FTL"])
        with_halo = inked()
        ax.texts[0].set_path_effects([])
        assert abs(with_halo - inked()) <= 1
        ax.texts[0].remove()


def test_a_pair_is_shown_with_one_norm_per_gene_and_its_correlation(sdata):
    figure = hd.pl.gene_pair(sdata, "A08", "B11", layers=["X", "other"])
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert len(panels) == 6
    assert "ρ = -" in panels[0].get_title(loc="left")
    assert panels[0].get_xlim() == panels[3].get_xlim()
    norms = [ax.collections[0].norm for ax in (panels[1], panels[4])]
    assert norms[0].vmax == norms[1].vmax
    raw = hd.pl.gene_pair(sdata, "A08", "B11", layers="X", normalize=None)
    counts = sdata.tables["table"][:, ["A08", "B11"]].X.toarray()
    np.testing.assert_allclose(raw.axes[0].collections[0].get_offsets(), np.log2(1 + counts), rtol=1e-5)


def test_mistakes_are_said_and_open_no_figure(sdata, make_section):
    import matplotlib.pyplot as plt

    with pytest.raises(KeyError, match=r"no coexpression 'hisdiff'; available: \[\]. Make it with hd.tl.coexpression"):
        hd.pl.coexpression(make_section())
    with pytest.raises(KeyError, match="key_added='ridge'"):
        hd.pl.coexpression(sdata, ["measured", "ridge"])
    with pytest.raises(KeyError, match="no gene with coexpression: 'Z'"):
        hd.pl.coexpression(sdata, genes=["A00", "Z"])
    with pytest.raises(ValueError, match="At least two genes"):
        hd.pl.coexpression_network(sdata, "measured", genes=["A00"])
    with pytest.raises(ValueError, match="twice"):
        hd.pl.gene_pair(sdata, "A00", "A00")
    with pytest.raises(KeyError, match="no gene 'Z'"):
        hd.pl.gene_pair(sdata, "A00", "Z")
    hd.tl.coexpression(sdata, layer="X", method="pearson", key_added="pearson")
    with pytest.raises(ValueError, match="different methods"):
        hd.pl.coexpression(sdata)
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="takes one panel"):
        hd.pl.coexpression(sdata, ["measured", "hisdiff"], ax=plt.subplots()[1])
