"""Methods that learn from spots and predict finer than them, through the public calls."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd

OPTIONS = {
    "istar": {"max_steps": 60, "width": 16, "n_members": 2},
    "xfuse": {"image_mpp": 8, "levels": 2, "channels": 2, "patch_px": 32, "max_steps": 10, "n_metagenes": 2},
}


class DenseColor:
    """The colour of every place, read at 4 um."""

    mean, std = np.full(3, 150.0, np.float32), np.full(3, 40.0, np.float32)

    def __init__(self, image) -> None:
        from hisdiff._section import FeatureSpec

        self.image, self.spec = image, FeatureSpec("colour", "1", 3, 4.0, 8.0)

    def raster(self, box_um, resolution_um) -> np.ndarray:
        return self.image.read(box_um, resolution_um).astype(np.float32)


@pytest.fixture(params=OPTIONS)
def method(request, monkeypatch) -> str:
    from hisdiff._sdata import _read

    monkeypatch.setattr(_read, "dense_features", lambda place, image, *_: DenseColor(image))
    return request.param


def prepared(make_section, color_encoder, name: str, seed: int):
    made = make_section(name, seed=seed)
    hd.pp.select_genes(made)
    hd.pp.embed(made, color_encoder)
    return made


def test_bins_add_up_to_spots_and_sections_without_counts_get_maps_too(
    make_section, color_encoder, method, tmp_path
) -> None:
    sections = [prepared(make_section, color_encoder, f"s{i}", i) for i in (1, 2)]
    model = hd.tl.fit(sections, method=method, config=OPTIONS[method])
    first = sections[0]
    hd.tl.predict(first, model, resolution_um=25, calibrate="exact", n_draws=2)
    bins = first.tables[f"{method}_25um"]
    assert np.isfinite(bins.X).all()
    assert np.isfinite(bins.layers["std"]).all()
    assert (bins.X >= 0).all()
    record = bins.uns["hisdiff"]["predictions"][method]
    assert record["n_draws"] == 2
    counts = first.tables["table"].X.toarray()
    near = bins.obs["spot_distance_um"].to_numpy() < 20  # the four bins around a centre, and a footprint inside them
    total = np.asarray(bins.X)[near].sum() * np.pi * 25**2 / 50**2
    assert total == pytest.approx(counts.sum(), rel=0.02)

    bare = sd.SpatialData(images={"he": make_section("s3", seed=3).images["s3_image"]})
    if method == "istar":
        hd.pp.embed(bare, color_encoder)
    model.save(tmp_path / "m")
    told = [
        hd.tl.predict(bare, source, resolution_um=50, n_draws=1, inplace=False) for source in (model, tmp_path / "m")
    ]
    np.testing.assert_array_equal(told[0].X, told[1].X)
    assert told[0].n_vars == 12


def test_an_interrupted_fit_goes_on_to_the_same_model(make_section, color_encoder, method, monkeypatch) -> None:
    from hisdiff._training import _loop as _training

    made = prepared(make_section, color_encoder, "s1", 1)
    options = {**OPTIONS[method], "max_steps": 6}
    straight = hd.tl.fit(made, method=method, config=options)
    advance = _training._Run.advance

    def interrupted(run) -> None:
        advance(run)
        if run.state.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_training._Run, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hd.tl.fit(made, method=method, config=options)
    assert hd.tl.fit(made, method=method, config=options, resume=True).id == straight.id
