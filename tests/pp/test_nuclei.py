from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from scipy import ndimage
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import get_transformation

import hisdiff as hd
from hisdiff._geometry._nuclei import Watershed, label_polygons, without_doubles
from hisdiff.datasets._toy import _tissue
from hisdiff.datasets._toy._paint import Stain, paint


def dark(tile: np.ndarray) -> np.ndarray:
    """Label the dark discs of the test image."""
    return ndimage.label(tile[..., 1] < 100)[0]


@pytest.fixture
def discs(make_section):
    """A section whose image has 80 dark discs of radius 4 um, 12 of them across the borders of tiles at 400 um."""
    sdata = make_section(side=8)
    image = sdata.images["s1_image"]["scale0"].image
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(120, 880, 50), np.arange(120, 880, 50)), axis=-1).reshape(-1, 2)
    at = rng.permutation(grid[(np.abs(grid - 400) > 20).all(axis=1)])[:68]
    at = np.concatenate([at, [[400, y] for y in range(150, 450, 50)], [[x, 400] for x in range(450, 750, 50)]])
    y, x = np.mgrid[: image.shape[1], : image.shape[2]] + 0.5
    mask = np.zeros(x.shape, dtype=bool)
    for cx, cy in at:
        mask |= (x - cx) ** 2 + (y - cy) ** 2 < 16
    values = np.full((3, *mask.shape), 200, dtype=np.uint8)
    values[:, mask] = np.array([70, 40, 120], dtype=np.uint8)[:, None]
    known = get_transformation(sdata.images["s1_image"], get_all=True)
    sdata.images["s1_image"] = Image2DModel.parse(values, dims=("c", "y", "x"), transformations=known)
    frame = gpd.GeoDataFrame(geometry=[shapely.box(100, 100, 900, 900)])
    sdata.shapes["tissue"] = ShapesModel.parse(frame, transformations=known)
    return sdata, at


def test_nuclei_of_all_tiles_are_found_once_and_whole(discs, color_encoder) -> None:
    sdata, at = discs
    hd.pp.nuclei(sdata, dark)
    made = sdata.shapes["nuclei"]
    assert len(made) == len(at)
    near = np.linalg.norm(shapely.get_coordinates(made.centroid)[:, None] - at[None], axis=-1).min(axis=0)
    assert near.max() < 0.5
    np.testing.assert_allclose(made["area_um2"], np.pi * 16, rtol=0.1)
    hd.pp.nuclei(sdata, dark)  # its own result is replaced
    hd.pp.embed(sdata, color_encoder)
    model = hd.tl.fit(sdata, method="ridge", config="baseline")
    hd.tl.predict(sdata, model, at="nuclei")
    assert sdata.tables["ridge_nuclei"].n_obs == len(at)


def test_the_watershed_finds_planted_nuclei() -> None:
    rng = np.random.default_rng(0)
    tissue = _tissue.make_tissue(rng, 400.0)
    image = np.moveaxis(paint(rng, tissue, 0.5, Stain()), 0, -1)
    outlines = label_polygons(Watershed.fit([image], 0.5)(image))
    outlines = shapely.transform(outlines, lambda points: points / 2)
    cells = np.concatenate([tissue.cells[kind].xy for kind in ("tumour", "stroma", "immune")])
    clear = _tissue.at_points(np.minimum(tissue.inside, -tissue.fat), cells, 4.0) > 0.3
    clear &= ((cells > 10) & (cells < 390)).all(axis=1)
    cell, outline = shapely.STRtree(outlines).query(shapely.points(cells), predicate="within")
    assert np.isin(np.flatnonzero(clear), cell).mean() > 0.9
    assert len(np.unique(outline)) > 0.93 * len(outlines)


def test_of_outlines_that_cover_one_another_the_larger_stays() -> None:
    found = np.array([shapely.box(0, 0, 4, 4), shapely.box(0, 0, 4, 5), shapely.box(3.9, 0, 8, 4)], dtype=object)
    assert without_doubles(found).tolist() == found[1:].tolist()


def test_what_cannot_be_outlined_is_refused(discs, make_section) -> None:
    sdata, _ = discs
    sdata.shapes["nuclei"] = sdata.shapes["tissue"]
    with pytest.raises(ValueError, match="'nuclei'"):
        hd.pp.nuclei(sdata, dark)
    with pytest.raises(ValueError, match="stardist"):
        hd.pp.nuclei(sdata, "stardist", key_added="other")
    with pytest.raises(TypeError, match=r"whole number for each of .*float"):
        hd.pp.nuclei(sdata, lambda tile: tile[..., 0] / 255, key_added="other")
    with pytest.raises(ValueError, match="No nucleus"):
        hd.pp.nuclei(sdata, lambda tile: np.zeros(tile.shape[:2], dtype=int), key_added="other")
    assert "other" not in sdata.shapes
    with pytest.raises(ValueError, match="1.5 um per pixel; nuclei can be outlined up to 1"):
        hd.pp.nuclei(make_section(mpp=1.5))
