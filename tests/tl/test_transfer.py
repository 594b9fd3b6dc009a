"""Which sections are said to be like the training tissue, on real ones."""

import numpy as np
import pytest
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import hisdiff as hd
from hisdiff._sdata._shallow_copy import shallow_copy


def with_image(sdata, change):
    """Return a section with another image in the place of its own."""
    result, name = shallow_copy(sdata), next(iter(sdata.images))
    image = sdata.images[name]
    changed, placed = change(np.asarray(image["scale0"]["image"].data)), get_transformation(image, get_all=True)
    result.images[name] = Image2DModel.parse(
        changed, dims=("c", "y", "x"), transformations=placed, scale_factors=[2, 2]
    )
    return result


@pytest.mark.slow
def test_a_section_left_out_is_alike_and_another_patient_or_a_spoilt_image_is_not(real_data):
    def read(name):
        return hd.io.her2st(real_data / "her2st", name)

    train = [read(name) for name in ("C2", "C3", "C4")]
    hd.pp.embed(train, "texture-2um")
    model = hd.tl.fit(train, method="ridge")
    left_out = read("C5")
    others = {
        "inverted": with_image(left_out, lambda pixels: 255 - pixels),
        "white": with_image(left_out, lambda pixels: np.full_like(pixels, 243)),
        "C5": left_out,
        "B4": read("B4"),
    }
    found = {}
    for name, sdata in others.items():
        hd.tl.predict(sdata, model, n_draws=2)
        record = sdata.tables["table"].uns["hisdiff"]["predictions"]["ridge"]
        assert (record["transfer"] == "unlike") == (record["transfer_distance"] > 1)
        found[name] = record["transfer"]
    assert found == {"inverted": "unlike", "white": "unlike", "C5": "alike", "B4": "unlike"}
