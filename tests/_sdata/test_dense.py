from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hisdiff as hd
from hisdiff._prediction._superpixels import Footprints, Inputs, scaled_under
from hisdiff._sdata._dense import DenseFeatures, dense_features
from hisdiff._sdata._read import open_sections
from hisdiff._section import DenseSource
from hisdiff.encoders import _texture_dense
from hisdiff.encoders._known import KnownEncoder


@pytest.fixture
def embedded(make_section):
    sdata = make_section(side=4)
    hd.pp.embed(sdata)
    return sdata


def test_a_section_has_the_dense_form_of_its_encoder_and_nothing_is_computed_before_it_is_asked_for(
    embedded, monkeypatch
):
    monkeypatch.setattr(_texture_dense, "_encode_tile", None)
    section = open_sections(embedded)[0].section
    assert section.dense.spec.encoder == "texture"
    monkeypatch.undo()
    assert isinstance(section.dense, DenseSource)
    raster = section.dense.raster((96, 80, 144, 112), 8.0)
    assert raster.shape == (4, 6, section.dense.spec.dim)


def test_statistics_are_those_of_the_lattice_inside_the_tissue(embedded):
    from hisdiff.encoders._embed import tissue_lattice

    section = open_sections(embedded)[0].section
    points = tissue_lattice(section.tissue)
    vectors = np.stack([section.dense.raster((x - 4, y - 4, x + 4, y + 4), 8.0)[0, 0] for x, y in points])
    np.testing.assert_allclose(section.dense.mean, vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(section.dense.std, vectors.std(axis=0), rtol=1e-4)


def test_without_a_dense_form_or_an_image_there_is_no_source(make_section, color_encoder):
    sdata = make_section(side=4)
    assert open_sections(sdata)[0].section.dense is None  # nothing says which encoder is meant
    hd.pp.embed(sdata, color_encoder)
    section = open_sections(sdata)[0].section
    assert section.dense is None
    hd.pp.embed(sdata)
    bound = open_sections(sdata)[0]
    assert dense_features(bound.place, None, bound.encoder, section.tissue) is None


def test_another_revision_than_the_stored_one_is_an_error(embedded):
    bound = open_sections(embedded)[0]
    other = KnownEncoder(replace(bound.section.features.spec, revision="0"))
    dense = dense_features(bound.place, bound.section.image, other, bound.section.tissue)
    with pytest.raises(ValueError, match=r"revision '0', the encoder at hand is revision '1'"):
        _ = dense.spec


def test_a_section_that_is_fitted_on_again_is_not_embedded_again(embedded, make_section, monkeypatch):
    asked = []
    compute = DenseFeatures._compute
    monkeypatch.setattr(DenseFeatures, "_compute", lambda self, *box: asked.append(box) or compute(self, *box))

    def under(sdata):
        section = open_sections(sdata)[0].section
        made = Footprints.of(section.spots, 12.0)
        asked.clear()
        return scaled_under(section.dense, made, 12.0, Inputs(standardize=True)), len(asked)

    (first, of_first), (again, of_again) = under(embedded), under(embedded)
    assert of_first > 0
    assert of_again == 0
    np.testing.assert_array_equal(first, again)
    other = make_section(side=4, seed=5)
    hd.pp.embed(other)
    assert under(other)[1] > 0
