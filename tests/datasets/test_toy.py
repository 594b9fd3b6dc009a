"""The toy tissue: frozen defaults, planted truth, and an image that carries part of it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import spatialdata as sd
from scipy import ndimage, sparse
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

import hisdiff as hd
from hisdiff.datasets._toy import _genes, _tissue


@pytest.fixture(scope="module")
def toy() -> SpatialData:
    return hd.datasets.toy()


@pytest.fixture(scope="module")
def small() -> SpatialData:
    return hd.datasets.toy(size_um=500)


@pytest.fixture(scope="module")
def sections() -> list[SpatialData]:
    return hd.datasets.toy(n_sections=4, size_um=600)


def pixels(sdata: SpatialData, name: str = "toy") -> np.ndarray:
    return sd.get_pyramid_levels(sdata.images[f"{name}_image"], n=0).to_numpy()


def counts(sdata: SpatialData) -> np.ndarray:
    return sdata.tables["table"].X.toarray()


def fingerprint(sdata: SpatialData, name: str = "toy") -> str:
    parts = pixels(sdata, name), counts(sdata), sdata.tables["truth"].X
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


class TestForm:
    def test_elements_and_sizes_of_the_defaults(self, toy: SpatialData) -> None:
        assert sorted(toy.images) == ["toy_image"]
        assert sorted(toy.labels) == ["toy_truth"]
        assert sorted(toy.shapes) == ["toy"]
        assert sorted(toy.tables) == ["table", "truth"]
        assert pixels(toy).shape == (3, 3200, 3200)
        assert pixels(toy).dtype == np.uint8
        assert toy.tables["table"].shape == (188, 120)

    def test_counts_are_csr_and_spots_lie_where_the_table_says(self, small: SpatialData) -> None:
        table = small.tables["table"]
        assert sparse.issparse(table.X)
        assert (table.X.format, table.X.dtype) == ("csr", np.float32)
        centers = small.shapes["toy"].loc[table.obs["instance_id"]].geometry.get_coordinates()
        np.testing.assert_allclose(centers, table.obsm["spatial"])
        assert small.shapes["toy"].radius.to_numpy() * 0.5 == pytest.approx(27.5)

    def test_spots_are_a_visium_array(self, toy: SpatialData) -> None:
        table = toy.tables["table"]
        row, col = table.obs["array_row"].to_numpy(), table.obs["array_col"].to_numpy()
        assert ((row + col) % 2 == 0).all()
        um = table.obsm["spatial"] * 0.5
        spacing = np.linalg.norm(um[:, None] - um[None], axis=-1) + 1e9 * np.eye(len(um))
        np.testing.assert_allclose(spacing.min(axis=1), 100, rtol=1e-6)

    def test_every_element_has_global_and_um(self, small: SpatialData) -> None:
        for _, name, element in small.gen_spatial_elements():
            known = get_transformation(element, get_all=True)
            assert set(known) == {"global", "um"}, name
            to_px, to_um = (known[s].to_affine_matrix(("x", "y"), ("x", "y")) for s in ("global", "um"))
            np.testing.assert_allclose(to_um[:2], 0.5 * to_px[:2])

    def test_truth_annotates_the_cells_of_its_grid(self, small: SpatialData) -> None:
        truth = small.tables["truth"]
        grid = small.labels["toy_truth"].to_numpy()
        np.testing.assert_array_equal(np.unique(grid)[1:], truth.obs["instance_id"])
        where = grid[truth.obs["array_row"], truth.obs["array_col"]]
        np.testing.assert_array_equal(where, truth.obs["instance_id"])

    def test_it_survives_a_zarr_round_trip(self, small: SpatialData, tmp_path) -> None:
        small.write(tmp_path / "toy.zarr")
        again = sd.read_zarr(tmp_path / "toy.zarr")
        assert fingerprint(again) == fingerprint(small)
        assert again.tables["truth"].uns["toy"]["size_factor"] == 1
        assert list(again.tables["truth"].obsm["cell_types"].columns) == list(_tissue.CELL_TYPES)


class TestSeeds:
    def test_the_same_seed_gives_the_same_bits(self) -> None:
        assert fingerprint(hd.datasets.toy(3, size_um=400)) == fingerprint(hd.datasets.toy(3, size_um=400))

    def test_another_seed_gives_another_tissue_with_the_same_genes(self, small: SpatialData) -> None:
        other = hd.datasets.toy(1, size_um=500)
        assert fingerprint(other) != fingerprint(small)
        assert list(other.tables["table"].var_names) == list(small.tables["table"].var_names)
        assert list(other.tables["table"].var["programme"]) == list(small.tables["table"].var["programme"])

    def test_no_global_state_is_touched(self) -> None:
        np.random.seed(0)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        hd.datasets.toy(size_um=300)
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    def test_the_first_of_several_is_the_single_one(self, small: SpatialData) -> None:
        first = hd.datasets.toy(n_sections=1, size_um=500)[0]
        np.testing.assert_array_equal(pixels(first, "toy1"), pixels(small))
        np.testing.assert_array_equal(counts(first), counts(small))


class TestSections:
    def test_they_have_names_of_their_own(self, sections: list[SpatialData]) -> None:
        assert [next(iter(s.shapes)) for s in sections] == ["toy1", "toy2", "toy3", "toy4"]
        together = sd.concatenate(sections, concatenate_tables=True)
        assert len(together.images) == 4
        assert together.tables["table"].n_obs == sum(s.tables["table"].n_obs for s in sections)

    def test_stain_and_library_size_shift_between_them(self, sections: list[SpatialData]) -> None:
        factors = [s.tables["truth"].uns["toy"]["size_factor"] for s in sections]
        assert factors[0] == 1
        assert len(set(factors)) == 4
        assert all(0.4 <= factor <= 1.6 for factor in factors)
        # Colour of what is neither white nor nucleus.
        colors = []
        for i, section in enumerate(sections):
            image = pixels(section, f"toy{i + 1}").reshape(3, -1)
            colors.append(np.median(image[:, (image[1] > 120) & (image[1] < 190)], axis=1))
        shift = np.abs(np.diff(colors, axis=0)).max(axis=1)
        assert (shift > 3).all()


class TestImage:
    def test_the_background_is_white_and_the_tissue_pink_and_purple(self, toy: SpatialData) -> None:
        red, green, blue = (channel.astype(int) for channel in pixels(toy))
        border = np.concatenate([green[:100].ravel(), green[-100:].ravel()])
        assert np.percentile(border, 50) > 235
        tissue = green < 200
        assert 0.4 < tissue.mean() < 0.85
        # H&E absorbs green most.
        assert (green[tissue] < np.minimum(red, blue)[tissue]).mean() > 0.9

    def test_nuclei_are_where_cells_are(self) -> None:
        rng = np.random.default_rng(0)
        tissue = _tissue.make_tissue(rng, 600.0)
        from hisdiff.datasets._toy._paint import Stain, paint

        red = ndimage.uniform_filter(paint(rng, tissue, 0.5, Stain())[0].astype(float), 3)
        at_cells = np.concatenate([tissue.cells[kind].xy for kind in ("tumour", "stroma", "immune")])
        at_cells = at_cells[_tissue.at_points(np.minimum(tissue.inside, -tissue.fat), at_cells, 4.0) > 0.3]
        dark = red[(at_cells[:, 1] / 0.5).astype(int), (at_cells[:, 0] / 0.5).astype(int)]
        assert np.median(dark) < np.percentile(red, 25)

    def test_pixel_size_changes_the_number_of_pixels_not_the_tissue(self, small: SpatialData) -> None:
        coarse = hd.datasets.toy(size_um=500, mpp=1.0)
        assert pixels(coarse).shape == (3, 500, 500)
        np.testing.assert_array_equal(counts(coarse), counts(small))
        np.testing.assert_allclose(coarse.tables["table"].obsm["spatial"] * 2, small.tables["table"].obsm["spatial"])


class TestTruth:
    def test_counts_scatter_around_the_area_sum_of_the_truth(self, toy: SpatialData) -> None:
        truth, table = toy.tables["truth"], toy.tables["table"]
        um, cell = table.obsm["spatial"] * 0.5, truth.obsm["spatial"] * 0.5
        # Cells by their centre, which errs by the border of the disc only.
        inside = np.linalg.norm(um[:, None] - cell[None], axis=-1) < 27.5
        expected = inside.astype(float) @ truth.X
        ratio = counts(toy).sum() / expected.sum()
        assert ratio == pytest.approx(1, abs=0.03)
        genes = counts(toy).sum(axis=0) / expected.sum(axis=0)
        assert np.median(genes) == pytest.approx(1, abs=0.05)

    def test_the_area_of_a_spot_is_shared_out_exactly(self) -> None:
        truth = _genes.Truth((20, 20), *(a.ravel() for a in np.mgrid[:20, :20]), None, None, None)
        weights = _genes.covered(truth, np.array([[100.0, 100.0], [93.7, 111.2]]), 27.5)
        area = (
            weights.sum(axis=1).A1 * _genes.TRUTH_UM**2 if hasattr(weights.sum(axis=1), "A1") else weights.sum(axis=1)
        )
        np.testing.assert_allclose(np.ravel(area), np.pi * 27.5**2, rtol=1e-3)
        assert weights.max() <= 1 + 1e-12

    def test_counts_are_overdispersed_as_said(self) -> None:
        rng = np.random.default_rng(0)
        drawn = _genes.draw_counts(rng, np.full((200_000, 1), 20.0), np.array([0.25]))
        assert drawn.mean() == pytest.approx(20, rel=0.01)
        assert drawn.var() == pytest.approx(20 + 0.25 * 400, rel=0.03)

    def test_library_size_scales_the_truth(self) -> None:
        tissue = _tissue.make_tissue(np.random.default_rng(0), 400.0)
        genes = _genes.make_programmes(60)
        one, two = (_genes.make_truth(np.random.default_rng(1), tissue, genes, factor) for factor in (1.0, 2.0))
        np.testing.assert_allclose(two.expected, 2 * one.expected, rtol=1e-5)

    def test_composition_sums_to_one_where_there_are_cells(self, toy: SpatialData) -> None:
        total = toy.tables["truth"].obsm["cell_types"].sum(axis=1)
        assert (np.isclose(total, 1, atol=1e-4) | (total == 0)).all()

    def test_programmes_follow_their_cell_type(self, toy: SpatialData) -> None:
        truth = toy.tables["truth"]
        types = truth.obsm["cell_types"]
        for programme, kind in (("TUM", "tumour"), ("IMM", "immune"), ("ADI", "fat"), ("STR", "stroma")):
            share = truth.X[:, truth.var["programme"] == programme].sum(axis=1) / truth.X.sum(axis=1)
            pure = {other: share[types[other] > 0.9].mean() for other in types}
            assert max(pure, key=pure.get) == kind

    def test_programmes_overlap(self) -> None:
        loading = _genes.make_programmes(120).loading[:4]
        second = np.sort(loading, axis=0)[-2] / loading.max(axis=0).clip(1e-9)
        assert (second[loading.max(axis=0) > 0] > 0.1).mean() > 0.5


def test_the_image_tells_of_the_visible_genes_and_not_of_the_hidden(toy: SpatialData) -> None:
    """The mean colour around a spot is correlated with visible programmes; hidden genes follow their field instead."""
    image = pixels(toy).astype(float)
    table, truth = toy.tables["table"], toy.tables["truth"]
    xy = table.obsm["spatial"].astype(int)
    patches = [image[:, max(y - 110, 0) : y + 110, max(x - 110, 0) : x + 110].reshape(3, -1) for x, y in xy]
    features = np.array([np.r_[patch.mean(axis=1), patch.std(axis=1)] for patch in patches])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    log = np.log2(1 + counts(toy))
    log -= log.mean(axis=0)
    odd = np.arange(len(xy)) % 2 == 1

    def skill(design: np.ndarray) -> dict[str, float]:
        design = np.c_[design, np.ones(len(design))]
        weights, *_ = np.linalg.lstsq(design[odd], log[odd], rcond=None)
        predicted = design[~odd] @ weights
        pcc = np.array([np.corrcoef(predicted[:, g], log[~odd, g])[0, 1] for g in range(log.shape[1])])
        return {p: float(pcc[table.var["programme"] == p].mean()) for p in table.var["programme"].cat.categories}

    seen = skill(features)
    assert min(seen["TUM"], seen["STR"], seen["PRO"]) > 0.3
    assert seen["HID"] < 0.25
    nearest = np.argmin(np.linalg.norm(table.obsm["spatial"][:, None] - truth.obsm["spatial"][None], axis=-1), axis=1)
    assert skill(truth.obsm["hidden"][nearest])["HID"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n_genes": 20}, ValueError, "between 60 and 300"),
        ({"n_genes": 500}, ValueError, "between 60 and 300"),
        ({"size_um": 50}, ValueError, "from 300"),
        ({"mpp": 0}, ValueError, "mpp"),
        ({"n_sections": 0}, ValueError, "n_sections"),
        ({"n_sections": 2.5}, TypeError, "n_sections"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": "a"}, TypeError, "seed"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        hd.datasets.toy(**arguments)


def test_any_size_and_pixel_size_fit_together() -> None:
    sdata = hd.datasets.toy(size_um=333, mpp=0.37)
    assert sdata.labels["toy_truth"].shape == (34, 34)
    assert pixels(sdata).shape == (3, 919, 919)


@pytest.mark.parametrize("n_genes", [60, 300])
def test_any_number_of_genes_in_range(n_genes: int) -> None:
    table = hd.datasets.toy(size_um=300, n_genes=n_genes).tables["table"]
    assert table.n_vars == n_genes
    assert table.var_names.is_unique
    assert set(table.var["programme"]) == set(_genes.PROGRAMMES)
