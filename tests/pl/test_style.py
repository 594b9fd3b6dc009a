import matplotlib.pyplot as plt

import hisdiff as hd


def test_one_style_sheet_is_over_the_settings_of_the_session_and_users_can_change_it(make_section, monkeypatch):
    sdata = make_section(mpp=2.0)
    before = dict(plt.rcParams)
    title = hd.pl.gene_map(sdata, "A00")._left_title
    monkeypatch.setitem(hd.pl.style, "font.size", 2 * plt.rcParams["font.size"])
    assert hd.pl.gene_map(sdata, "A00")._left_title.get_fontsize() == 2 * title.get_fontsize()
    assert dict(plt.rcParams) == before
    hd.tl.coexpression(sdata)
    names = hd.pl.coexpression_network(sdata, n_edges=30)
    names.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in names.texts]
    assert len(boxes) > 3
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
