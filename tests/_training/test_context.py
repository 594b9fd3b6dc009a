"""What is around a spot."""

from __future__ import annotations

import numpy as np

import hisdiff as hd
from hisdiff._sdata._read import open_sections
from hisdiff._training._context import share_missing


def test_spots_that_were_filtered_out_of_the_tissue_are_missed_and_said(caplog) -> None:
    whole = hd.datasets.toy(size_um=1000)
    hd.pp.select_genes(whole)
    hd.pp.embed(whole)
    model = hd.tl.fit(whole, method="ridge")
    assert share_missing(open_sections(whole)[0].section, None) == 0
    assert "are missing from the table" not in caplog.text
    kept = np.random.default_rng(0).random(whole.tables["table"].n_obs) < 0.5
    whole.tables["table"] = whole.tables["table"][kept].copy()
    section = open_sections(whole)[0].section
    assert 0.2 < share_missing(section, None) < 0.7
    hd.tl.predict(whole, model)
    assert "of the spots that lie on its tissue are missing from the table" in caplog.text
