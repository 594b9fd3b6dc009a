import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff.pl._contents import contents


@pytest.fixture(scope="module")
def predicted():
    sdata = hd.datasets.toy(size_um=400)
    hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    hd.tl.coexpression(sdata, layer="ridge_draw0")
    return sdata


def maps(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.axison]


def titles(figure):
    return [ax.get_title(loc="left") for ax in maps(figure)]


def text(figure):
    return " ".join(t.get_text() for ax in figure.axes for t in ax.texts)


def test_object_with_everything(predicted):
    figure = hd.pl.overview(predicted)
    image, measured, best = maps(figure)
    assert image.get_title(loc="left") == "toy"
    assert len(image.collections) == 2  # outlines of the tissue and of the spots
    assert measured.get_title(loc="left") == "measured, all genes"
    totals = predicted.tables["table"].X.sum(axis=1)
    np.testing.assert_allclose(measured.collections[0].get_array(), np.log2(1 + np.ravel(totals)), rtol=1e-5)
    accuracy = predicted.tables["table"].var["ridge_cv_pcc_norm"]
    said = f"{accuracy.idxmax()}, predicted by ridge\nbest of all: expected r = {accuracy.max():.2f}\n"
    assert best.get_title(loc="left").startswith(said), "the gene is the best by the figure that is shown"
    for said in (
        "0.5 µm per pixel",
        "texture",
        "prediction ridge",
        "coexpression",
        predicted.attrs["hisdiff"]["model"]["id"],
    ):
        assert said in text(figure)


def test_object_with_spots_only():
    figure = hd.pl.overview(hd.datasets.toy(size_um=400))
    assert titles(figure) == ["toy", "measured, all genes"]
    assert "none fitted" in text(figure)


def test_a_grid_is_shown_with_the_gene_of_the_spots(predicted):
    hd.tl.predict(predicted, resolution_um=50)
    figure = hd.pl.overview(predicted)
    gene = predicted.tables["table"].var["ridge_cv_pcc_norm"].idxmax()
    assert titles(figure)[3] == f"{gene}, ridge_50um"
    raster = maps(figure)[3].images[1]
    assert np.isfinite(raster.get_array().compressed()).sum() == predicted.tables["ridge_50um"].n_obs
    del predicted.tables["ridge_50um"]


def test_a_grid_of_a_cropped_object_is_shown(predicted):
    hd.tl.predict(predicted, resolution_um=40)
    cropped = sd.bounding_box_query(
        predicted, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[300, 300], target_coordinate_system="um"
    )
    del predicted.tables["ridge_40um"]
    figure = hd.pl.overview(cropped)
    assert titles(figure)[-1].endswith(", ridge_40um")
    assert "on ridge_40um_bins" in text(figure)


def images_only(make_section, *names):
    made = [make_section(name) for name in names]
    return sd.SpatialData(images={key: image for each in made for key, image in each.images.items()})


def test_image_alone_and_several_images(make_section):
    assert titles(hd.pl.overview(images_only(make_section, "a"))) == ["a_image"]
    assert titles(hd.pl.overview(images_only(make_section, "a", "b"))) == ["a_image", "b_image"]


def test_image_of_which_only_a_lattice_was_predicted(predicted, make_section):
    sdata = images_only(make_section, "a")
    hd.tl.predict(sdata, hd.models.load(predicted.attrs["hisdiff"]["model"]["path"]))
    figure = hd.pl.overview(sdata)
    assert len(titles(figure)) == 2
    assert "predicted" in titles(figure)[1]
    assert "table lattice" in text(figure)


def test_several_sections_of_one_table_have_a_row_each(make_section):
    import anndata as ad

    made = [make_section(name) for name in ("a", "b")]
    table = ad.concat([each.tables["table"] for each in made])
    table.obs["region"] = pd.Categorical(table.obs["region"].astype(str))
    keys = {"region_key": "region", "instance_key": "instance_id"}
    whole = sd.SpatialData(
        images={k: v for each in made for k, v in each.images.items()},
        shapes={k: v for each in made for k, v in each.shapes.items()},
        tables={"table": sd.models.TableModel.parse(table, region=["a", "b"], **keys)},
    )
    assert titles(hd.pl.overview(whole)) == ["a", "measured, all genes", "b", "measured, all genes"]
    assert ("table table", "72 locations x 12 genes on a, b") in contents(whole)


def test_spots_without_an_image_are_shown(make_section):
    sdata = make_section()
    del sdata.images["s1_image"]
    figure = hd.pl.overview(sdata)
    assert titles(figure) == ["s1", "measured, all genes"]
    assert not maps(figure)[0].images


def test_nothing_to_show_and_unknown_scale_are_said(make_section):
    with pytest.raises(ValueError, match="neither a table nor an image"):
        hd.pl.overview(sd.SpatialData())
    with pytest.raises(TypeError, match="a SpatialData"):
        hd.pl.overview(make_section().tables["table"])
    sdata = images_only(make_section, "a")
    sd.transformations.remove_transformation(sdata.images["a_image"], "um")
    with pytest.raises(ValueError, match="mpp"):
        hd.pl.overview(sdata)
    assert titles(hd.pl.overview(sdata, mpp=2.0)) == ["a_image"]
