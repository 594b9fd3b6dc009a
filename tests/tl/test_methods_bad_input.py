"""What each method refuses, before any work starts and leaving the object as it was.

A method joins by a line in ``METHODS``: its name, and options that make its fit quick. ``nearest`` is the one that
docs/contributing.md adds.
"""

from __future__ import annotations

import numpy as np
import pytest
from pages import run
from scipy import sparse
from snapshot import snapshot

import hisdiff as hd
from hisdiff.methods._registry import get as method_named

METHODS: dict[str, dict] = {
    "hisdiff": {"max_steps": 2, "n_members": 1, "width": 8, "n_factors": 2, "n_blocks": 2},
    "nearest": {},
    "istar": {"max_steps": 3, "width": 8, "n_members": 2},
    "ridge": {},
    "stage": {"max_steps": 5},
    "tesla": {"step_um": 40},
    "xfuse": {"image_mpp": 8, "levels": 2, "channels": 2, "patch_px": 16, "max_steps": 2, "n_metagenes": 2},
}


# One of each kind of needs: what is checked before a method is called does not depend on the method.
KINDS = ["ridge", "stage", "tesla"]


@pytest.fixture(params=METHODS)
def method(request, monkeypatch) -> str:
    if request.param == "nearest":
        monkeypatch.setattr("hisdiff.methods._registry._REGISTERED", {})
        run("contributing.md", "Add a method", slice(1))
    if request.param == "istar":
        from hisdiff._sdata import _read

        monkeypatch.setattr(_read, "dense_features", lambda place, image, *_: DenseColor(image))
    return request.param


class DenseColor:
    """The colour of every place: a dense embedding that costs nothing."""

    mean, std = np.full(3, 150.0, np.float32), np.full(3, 40.0, np.float32)

    def __init__(self, image) -> None:
        from hisdiff._section import FeatureSpec

        self.image, self.spec = image, FeatureSpec("colour", "1", 3, 2.0, 8.0)

    def raster(self, box_um, resolution_um) -> np.ndarray:
        return self.image.read(box_um, resolution_um).astype(np.float32)


@pytest.fixture
def sdata(make_section, color_encoder, method):
    made = make_section()
    hd.pp.select_genes(made)
    if "features" in method_named(method).needs:
        hd.pp.embed(made, color_encoder)
    return made


def fit(sdata, method, **arguments):
    return hd.tl.fit(sdata, **{"method": method, "config": METHODS[method], **arguments})


def counts_with(value: float):
    def spoil(sdata) -> None:
        sdata.tables["table"].X.data[0] = value

    return spoil


def several_images(sdata) -> None:
    image = sdata.images.pop("s1_image")  # an image named after the section would be taken
    sdata.images["one"] = sdata.images["other"] = image


def small_image(sdata) -> None:
    sdata.tables["table"].obsm["spatial"] *= 50
    frame = sdata.shapes["s1"]
    frame["geometry"] = frame.geometry.scale(50, 50, origin=(0, 0))


def no_scale(sdata) -> None:
    from spatialdata.transformations import remove_transformation

    for element in (sdata.images["s1_image"], sdata.shapes["s1"]):
        remove_transformation(element, "um")


def no_selection(sdata) -> None:
    sdata.tables["table"].var["hisdiff_selected"] = False


def no_counts(sdata) -> None:
    sdata.tables["table"].X = None


@pytest.mark.parametrize("method", KINDS, indirect=True)
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (counts_with(np.nan), ValueError, "NaN or infinite values"),
        (counts_with(-1.0), ValueError, "negative values"),
        (counts_with(0.5), ValueError, "not whole numbers"),
        (several_images, ValueError, "choose one with image_key="),
        (small_image, ValueError, "outside image"),
        (no_scale, ValueError, "micrometres per pixel"),
        (no_selection, ValueError, "No gene is selected"),
        (no_counts, ValueError, "no counts"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fit_refuses_what_it_cannot_use(sdata, method, spoil, error, message) -> None:
    spoil(sdata)
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        fit(sdata, method)
    assert snapshot(sdata) == before


@pytest.mark.parametrize("method", KINDS, indirect=True)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"config": {"no_such_option": 1}}, ValueError, "'no_such_option'"),
        ({"config": "slow"}, ValueError, "preset of method .* is one of"),
        ({"config": 7}, TypeError, "config is"),
        ({"layer": "raw"}, KeyError, "no layer"),
        ({"table_key": "x"}, KeyError, "no table 'x'"),
        ({"mpp": 0.2}, ValueError, "contradicts"),
        ({"rng": -1}, ValueError, "rng"),
    ],
)
def test_fit_refuses_wrong_arguments(sdata, method, arguments, error, message) -> None:
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        fit(sdata, method, **arguments)
    assert snapshot(sdata) == before


def test_a_section_without_counts_cannot_be_fitted_and_is_predicted_only_by_methods_that_can(
    sdata, method, make_section
) -> None:
    import spatialdata as sd

    model = fit(sdata, method)
    only = sd.SpatialData(images={"he": make_section().images["s1_image"]})
    with pytest.raises(ValueError, match="no counts"):
        fit(only, method)
    if "counts" in method_named(method).needs_to_predict:
        before = snapshot(only)
        with pytest.raises(ValueError, match="refines the counts of a section, and 'he' has none"):
            hd.tl.predict(only, model)
        assert snapshot(only) == before
    elif "features" not in method_named(method).needs_to_predict:
        hd.tl.predict(only, model)
        lattice = only.tables["lattice"]
        assert np.isfinite(lattice.layers[method]).all()
        assert lattice.n_obs > 10


def test_predict_refuses_a_table_of_other_genes_and_a_name_that_is_taken(sdata, method, make_section) -> None:
    model = fit(sdata, method)
    table = sdata.tables["table"]
    table.layers["mine"] = table.X.copy()
    before = snapshot(sdata)
    with pytest.raises(ValueError, match="hisdiff did not write"):
        hd.tl.predict(sdata, model, key_added="mine")
    assert snapshot(sdata) == before
    table.var_names = [f"ENSG{i}" for i in range(table.n_vars)]
    before = snapshot(sdata)
    with pytest.raises(ValueError, match="Only 0 of the model's .* symbols"):
        hd.tl.predict(sdata, model)
    assert snapshot(sdata) == before


def test_a_saved_model_predicts_the_same_and_a_truncated_one_is_refused(sdata, method, tmp_path) -> None:
    model = fit(sdata, method)
    model.save(tmp_path / "m")
    hd.tl.predict(sdata, model)
    before = sdata.tables["table"].layers[method].copy()
    hd.tl.predict(sdata, tmp_path / "m")
    np.testing.assert_array_equal(sdata.tables["table"].layers[method], before)
    weights = tmp_path / "m" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated"):
        hd.tl.predict(sdata, tmp_path / "m")


def test_the_same_seed_fits_the_same_model_whatever_the_order_of_genes(sdata, method) -> None:
    first = fit(sdata, method).id
    turned = sdata.tables["table"][:, ::-1].copy()
    turned.X = sparse.csc_matrix(turned.X)
    sdata.tables["table"] = turned
    assert fit(sdata, method).id == first


def test_without_an_image_only_methods_fit_that_look_at_none_or_at_a_stored_embedding(sdata, method) -> None:
    del sdata.images["s1_image"]
    before = snapshot(sdata)
    if method in ("istar", "tesla", "xfuse"):
        with pytest.raises(ValueError, match="image"):
            fit(sdata, method)
        assert snapshot(sdata) == before
    else:
        assert fit(sdata, method).method == method


def test_empty_spots_and_constant_genes_are_no_obstacle(sdata, method) -> None:
    table = sdata.tables["table"]
    dense = table.X.toarray()
    dense[:4], dense[:, 3] = 0, 7
    table.X = sparse.csr_matrix(dense)
    hd.tl.predict(sdata, fit(sdata, method))
    assert np.isfinite(table.layers[method][:, table.var[f"{method}_modelled"]]).all()


def test_few_spots_are_enough(make_section, color_encoder, method) -> None:
    sdata = make_section(side=3)
    hd.pp.select_genes(sdata)
    if "features" in method_named(method).needs:
        hd.pp.embed(sdata, color_encoder)
    hd.tl.predict(sdata, fit(sdata, method))
    assert method in sdata.tables["table"].layers
