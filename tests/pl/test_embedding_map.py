import matplotlib.pyplot as plt
import numpy as np
import pytest

import hisdiff as hd
from hisdiff.pl._embedding_map import REACH_SD, _colors


@pytest.fixture
def embedded(make_section, color_encoder):
    sections = [make_section(f"s{i}", seed=i) for i in range(2)]
    hd.pp.embed(sections, color_encoder)
    return sections


def panels(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def colors_of(ax):
    spots = ax.collections[0]
    return spots.to_rgba(spots.get_array())[:, :3]


def test_one_colour_for_each_spot_from_three_components(embedded):
    ax = hd.pl.embedding_map(embedded[0])
    assert ax.get_title(loc="left") == "s0, colour"
    assert len(np.unique(colors_of(ax), axis=0)) == 36
    ramps = ax.child_axes
    assert [ramp.get_title(loc="left").split(" (")[0] for ramp in ramps] == [f"component {i}" for i in (1, 2, 3)]


def test_single_components_are_centred_at_zero_and_share_their_scale(embedded):
    figure = hd.pl.embedding_map(embedded, components=[1, 2])
    assert len(panels(figure)) == 4
    norms = [ax.collections[0].norm for ax in panels(figure)]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(-REACH_SD, REACH_SD)}
    first = np.concatenate([ax.collections[0].get_array() for ax in panels(figure)[::2]])
    assert first.mean() == pytest.approx(0, abs=1e-4)
    assert first.std(ddof=1) == pytest.approx(1, abs=1e-3)


def test_the_leading_component_is_the_planted_one(embedded):
    values = embedded[0].tables["table"].obsm["hisdiff_embedding"]
    planted = np.linspace(-1, 1, len(values))
    values[:] = planted[:, None] + np.random.default_rng(0).normal(0, 0.05, values.shape)
    shown = hd.pl.embedding_map(embedded[0], components=1).collections[0].get_array()
    assert np.corrcoef(shown, planted)[0, 1] > 0.99  # and of the sign of its loadings


def test_sections_share_components_so_that_colours_can_be_compared(embedded):
    embedded[1].tables["table"].obsm["hisdiff_embedding"] += 3  # another scanner
    figure = hd.pl.embedding_map(embedded, components=1)
    first, second = (ax.collections[0].get_array() for ax in panels(figure))
    assert abs(first.mean() - second.mean()) > 1.5


def test_a_component_has_a_contrast_of_its_own():
    ends = np.concatenate([REACH_SD * np.eye(3), -REACH_SD * np.eye(3), np.zeros((1, 3))])
    colors = _colors(ends)
    assert ((colors >= 0) & (colors <= 1)).all()
    lightness = colors @ [0.2126, 0.7152, 0.0722]
    assert lightness[0] > lightness[6] > lightness[3]
    assert colors[1][2] < colors[1][:2].min()  # yellow
    assert colors[4][2] == colors[4].max()  # blue


def test_draws_into_given_axes(embedded):
    ax = plt.subplots()[1]
    assert hd.pl.embedding_map(embedded[0], ax=ax) is ax
    with pytest.raises(ValueError, match="one panel, not 1 x 2"):
        hd.pl.embedding_map(embedded, ax=ax)


def test_constant_embedding_is_drawn_in_one_colour(embedded):
    embedded[0].tables["table"].obsm["hisdiff_embedding"][:] = 1
    assert len(np.unique(colors_of(hd.pl.embedding_map(embedded[0])), axis=0)) == 1


def test_what_is_missing_or_does_not_fit_is_said(embedded, make_section, color_encoder):
    with pytest.raises(ValueError, match="no embedding; make it with hd.pp.embed"):
        hd.pl.embedding_map(make_section())
    with pytest.raises(ValueError, match="no component 7: the 36 locations have components 1 to 6"):
        hd.pl.embedding_map(embedded[0], components=[1, 7])
    other = make_section("other")
    hd.pp.embed(other, type(color_encoder)("paint"))
    with pytest.raises(ValueError, match="different encoders"):
        hd.pl.embedding_map([embedded[0], other])
    other.tables["table"].obsm["hisdiff_embedding"][3] = np.nan
    with pytest.raises(ValueError, match="The embedding of 'other' has NaN or infinite values at 1 of 36 spots"):
        hd.pl.embedding_map(other)
    assert not plt.get_fignums()
