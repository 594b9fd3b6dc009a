from __future__ import annotations

import numpy as np
import pytest

import hisdiff as hd
from hisdiff.encoders import DenseEncoder


def test_vectors_are_those_of_the_members_one_after_the_other(make_section, color_encoder) -> None:
    sdata = make_section(side=4)
    parts = [hd.pp.embed(sdata, one, inplace=False) for one in ("texture", color_encoder)]
    both = hd.pp.embed(sdata, ("texture", color_encoder), inplace=False)
    assert both.shape == (16, sum(part.shape[1] for part in parts))
    for part, own in zip(np.split(both, [parts[0].shape[1]], axis=1), parts):
        # Each member sees the middle of one patch, resampled once more.
        assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(part, own)]) > 0.98


def test_joined_encoders_go_through_fit_finer_predictions_and_a_new_process_by_their_names(
    make_section, monkeypatch
) -> None:
    sdata = make_section(side=4)
    hd.pp.embed(sdata, ("texture", "texture-2um"))
    record = sdata.tables["table"].uns["hisdiff"]["embedding"]
    assert record["encoder"] == "texture+texture-2um"
    monkeypatch.setattr("hisdiff.encoders._registry._REMEMBERED", {})
    hd.tl.fit(sdata, method="ridge", config="baseline")
    hd.tl.predict(sdata, resolution_um=100)
    hd.pp.grid(sdata, 50)
    assert sdata.images["grid_50um_embedding"].sizes["c"] == hd.encoders.get(record["encoder"]).dense_spec.dim


def test_the_dense_form_is_that_of_the_members_side_by_side(make_section) -> None:
    from hisdiff._sdata._read import open_sections
    from hisdiff.encoders._anchored import anchored

    image = open_sections(make_section(side=4))[0].section.image
    members = [hd.encoders.get(name) for name in ("texture", "texture-2um")]
    joined = hd.encoders.get(members)
    assert isinstance(joined, DenseEncoder)
    box = (96.0, 96.0, 192.0, 160.0)
    parts = [one.encode_dense(anchored(image, one.dense_spec.mpp), box, 16.0) for one in members]
    both = joined.encode_dense(anchored(image, joined.dense_spec.mpp), box, 16.0)
    np.testing.assert_array_equal(both, np.concatenate(parts, axis=2))


def test_a_joined_licence_is_as_strict_as_the_strictest_and_nothing_is_joined_with_itself(color_encoder) -> None:
    assert hd.encoders.get(("texture", color_encoder)).spec.derivatives is True
    assert hd.encoders.get(("texture", color_encoder)).spec.licence == "BSD-3-Clause+CC0-1.0"
    for names in (("texture", "texture"), ("texture",)):
        with pytest.raises(ValueError, match="joined from two different ones or more"):
            hd.encoders.get(names)
    assert hd.encoders.get(("texture", color_encoder)).dense_spec is None
