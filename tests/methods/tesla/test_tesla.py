import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from shapely import box

from hisdiff._section import Locations, Section
from hisdiff.methods._registry import get as method
from hisdiff.methods.tesla import FittedTesla, Tesla, TeslaConfig
from hisdiff.methods.tesla._color import ColorDepth, ColorRaster
from hisdiff.methods.tesla._weights import distance_threshold, neighbor_weights, neighbors_of

GENES = np.array(["G0", "G1", "G2"])
STEP = 40.0
SIDE = 800


class Blocks:
    """Image of 1 um pixels whose colour is even over blocks of 10 um, so that reading it at 10 um loses nothing."""

    mpp = 1.0
    bounds_um = (0.0, 0.0, float(SIDE), float(SIDE))

    def __init__(self, blocks: np.ndarray) -> None:
        self.pixels = blocks.astype(np.uint8).repeat(10, axis=0).repeat(10, axis=1)

    def read(self, box_um, mpp):
        x0, y0, x1, y1 = (round(v) for v in box_um)
        part = self.pixels[y0:y1, x0:x1]
        k = round(mpp)
        assert not (np.array(part.shape[:2]) % k).any(), "boxes are whole pixels inside the image"
        return part[::k, ::k]


def make(seed: int = 0, n: int = 30, blocks: np.ndarray | None = None, counts: np.ndarray | None = None) -> Section:
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, SIDE, (n, 2)).astype(float)
    if blocks is None:
        blocks = rng.integers(0, 256, (SIDE // 10, SIDE // 10, 3))
    if counts is None:
        counts = rng.poisson(5, (n, len(GENES)))
    spots = Locations(xy, 27.5)
    tissue = box(100, 120, 700, 640)
    return Section("s", GENES, csr_matrix(counts.astype(np.float32)), spots, Blocks(blocks), None, tissue).with_panel(
        GENES
    )


def brute_force(section: Section, xy: np.ndarray, config: TeslaConfig, tissue) -> np.ndarray:
    """Evaluate the formulas place by place, without any of the package's code."""
    pixels = section.image.pixels.astype(float)

    def color(x, y):
        half = round(config.step_um / 2)
        part = pixels[
            max(int(y) - half, 0) : min(int(y) + half, SIDE), max(int(x) - half, 0) : min(int(x) + half, SIDE)
        ]
        return part.reshape(-1, 3).mean(axis=0)

    x0, y0, x1, y1 = tissue
    grid = np.array(
        [
            ((j + 0.5) * STEP, (i + 0.5) * STEP)
            for i in range(40)
            for j in range(40)
            if x0 <= (j + 0.5) * STEP < x1 and y0 <= (i + 0.5) * STEP < y1
        ]
    )
    at_grid = np.array([color(x, y) for x, y in grid])
    at_spots = np.array([color(x, y) for x, y in section.spots.xy_um])
    v = at_grid.var(axis=0)
    scale = config.color_weight * max(grid[:, 0].std(), grid[:, 1].std())
    c = at_grid @ v / v.sum()
    z = scale * (c - c.mean()) / c.std()
    if config.reference_compat:
        gray = at_spots.mean(axis=1)
        z_spots = scale * (gray - gray.mean()) / gray.std()
    else:
        z_spots = scale * (at_spots @ v / v.sum() - c.mean()) / c.std()
    spots = np.column_stack([section.spots.xy_um, z_spots])
    every = np.array([[np.sqrt(((p - s) ** 2).sum()) for s in spots] for p in np.column_stack([grid, z])])
    threshold = np.quantile(every, config.n_neighbors / len(spots))
    log_counts = np.log1p(section.counts.toarray().astype(float))
    out = []
    for x, y in xy:
        here = np.array([x, y, scale * (color(x, y) @ v / v.sum() - c.mean()) / c.std()])
        d = np.sqrt(((spots - here) ** 2).sum(axis=1))
        near = [n for n in np.argsort(d)[: config.n_neighbors] if d[n] <= threshold]
        if not near:
            out.append(np.full(len(GENES), 0.0 if config.reference_compat else np.nan))
            continue
        delta = (d[near] + 0.1) / (d[near] + 0.1).min()
        w = delta**-config.power if config.kernel == "power" else np.exp(-delta)
        out.append((w / w.sum()) @ log_counts[near])
    return np.array(out)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("kernel", ["power", "exponential"])
@pytest.mark.parametrize("neighbors", [3, 10])
def test_agrees_with_a_brute_force_evaluation_of_the_formulas(compat, kernel, neighbors) -> None:
    section = make()
    config = TeslaConfig(step_um=STEP, n_neighbors=neighbors, kernel=kernel, reference_compat=compat)
    x0, y0, x1, y1 = section.tissue.bounds
    if compat:
        x0, x1, y0, y1 = (m + 1.05 * (e - m) for e, m in ((x0, 400), (x1, 400), (y0, 380), (y1, 380)))
    ij = np.array([(i, j) for i in range(2, 17) for j in range(1, 19)])
    bins = Locations.bins(ij, STEP)
    field = FittedTesla(GENES, config).field(section, n_draws=1)
    assert field.map.n_superpixels > 150
    (values,) = field.draws(bins)
    expected = brute_force(section, bins.xy_um, config, (x0, y0, x1, y1))
    np.testing.assert_allclose(np.log1p(values), expected, atol=2e-6)
    weights = field.map.weights(bins.xy_um)
    exact = weights @ np.log1p(section.counts.toarray().astype(float))
    covered = np.diff(weights.indptr) > 0
    np.testing.assert_allclose(exact[covered], expected[covered], atol=1e-9)
    if neighbors == 3:
        assert 0 < covered.sum() < len(covered)


def test_colour_is_the_mean_over_the_window_clipped_at_the_border() -> None:
    image = Blocks(np.random.default_rng(0).integers(0, 256, (SIDE // 10, SIDE // 10, 3)))
    raster = ColorRaster.read(image, (0, 0, SIDE, SIDE), STEP)
    points = np.array([[3.0, 5.0], [400.0, 20.0], [333.0, 333.0], [799.0, 797.0]])
    for (x, y), got in zip(points.astype(int), raster.at(points)):
        window = image.pixels[max(y - 20, 0) : y + 20, max(x - 20, 0) : x + 20]
        np.testing.assert_allclose(got, window.reshape(-1, 3).mean(axis=0), rtol=1e-12)


def test_a_value_depends_on_the_place_and_not_on_the_bins_asked_for_with_it() -> None:
    section = make()
    field = FittedTesla(GENES, TeslaConfig(step_um=STEP)).field(section, n_draws=1)
    ij = np.array([(i, j) for i in range(10, 60) for j in range(10, 70)])
    (whole,) = field.draws(Locations.bins(ij, 10.0))
    (part,) = field.draws(Locations.bins(ij[1234:1240], 10.0))
    np.testing.assert_allclose(part, whole[1234:1240], rtol=1e-6)


def test_weights_are_convex_and_largest_for_the_spot_in_the_very_place() -> None:
    section = make()
    field = FittedTesla(GENES, TeslaConfig(step_um=STEP)).field(section, n_draws=1)
    weights = field.map.weights(section.spots.xy_um)
    assert weights.data.min() >= 0
    assert weights.data.max() <= 1
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert (np.asarray(weights.argmax(axis=1)).ravel() == np.arange(len(section.spots))).all()
    alone = field.map.weights(section.spots.xy_um, leave_out_self=True)
    assert alone.diagonal().max() == 0


def test_constant_expression_stays_constant_wherever_there_is_a_neighbour() -> None:
    section = make(counts=np.full((30, 3), 7))
    bins = Locations.bins(np.array([(i, j) for i in range(3, 16) for j in range(3, 16)]), STEP)
    (values,) = FittedTesla(GENES, TeslaConfig(step_um=STEP, n_neighbors=3)).field(section, n_draws=1).draws(bins)
    known = np.isfinite(values).all(axis=1)
    assert 0 < known.sum() < len(known)
    np.testing.assert_allclose(values[known], 7, rtol=1e-5)


def test_without_colour_it_is_inverse_distance_weighting() -> None:
    section = make()
    config = TeslaConfig(step_um=STEP, color_weight=0, n_neighbors=30)
    bins = Locations.bins(np.array([(i, j) for i in range(3, 16) for j in range(3, 16)]), STEP)
    (values,) = FittedTesla(GENES, config).field(section, n_draws=1).draws(bins)
    distance, rows = cKDTree(section.spots.xy_um).query(bins.xy_um, k=30)
    weights = (distance + 0.1) ** -2.0
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.einsum("nk,nkg->ng", weights, np.log1p(section.counts.toarray())[rows])
    np.testing.assert_allclose(np.log1p(values), expected, atol=1e-5)


def test_one_scale_for_both_gives_one_colour_one_depth_and_the_published_one_does_not() -> None:
    # Two stains: spots stand on the red one more often than superpixels do.
    blocks = np.zeros((SIDE // 10, SIDE // 10, 3)) + [200, 100, 150]
    blocks[:, 40:] = [90, 90, 180]
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.uniform((60, 60), (330, 740), (40, 2)), rng.uniform((470, 60), (740, 740), (5, 2))])
    counts = csr_matrix(rng.poisson(3, (45, 3)).astype(np.float32))
    section = Section("s", GENES, counts, Locations(xy, 27.5), Blocks(blocks), None, box(40, 40, 760, 760))
    for compat in (False, True):
        config = TeslaConfig(step_um=STEP, reference_compat=compat)
        made = FittedTesla(GENES, config).field(section.with_panel(GENES), n_draws=1).map
        at_red = made.depth(np.array([[200.0, 100, 150]]))[0]
        apart = abs(at_red - made.spots[0, 2]) / made.depth.scale_um
        assert apart > 0.3 if compat else apart < 1e-9


def test_the_quantile_of_many_distances_is_sampled_and_close_to_the_exact_one(monkeypatch) -> None:
    from hisdiff.methods.tesla import _weights

    rng = np.random.default_rng(0)
    superpixels, spots = rng.uniform(0, 1000, (800, 3)), rng.uniform(0, 1000, (200, 3))
    exact = distance_threshold(superpixels, spots, 10)
    monkeypatch.setattr(_weights, "_EXACT_PAIRS", 10)
    sampled = distance_threshold(superpixels, spots, 10)
    assert sampled == pytest.approx(exact, rel=0.01)
    assert sampled == distance_threshold(superpixels, spots, 10)


def test_spots_in_one_place_are_each_left_out_of_their_own() -> None:
    spots = np.zeros((6, 3))
    rows = neighbors_of(spots, spots, 3, without_self=True)
    assert rows.shape == (6, 3)
    assert not (rows == np.arange(6)[:, None]).any()


def test_fewer_spots_than_neighbours_are_all_used() -> None:
    spots = np.array([[0.0, 0, 0], [10, 0, 0]])
    threshold = distance_threshold(np.array([[1.0, 0, 0]]), spots, 10)
    rows = neighbors_of(np.array([[1.0, 0, 0]]), spots, 10)
    weights = neighbor_weights(
        np.array([[1.0, 0, 0]]), spots, rows, threshold=threshold, offset=0.0, kernel="power", power=2.0
    )
    np.testing.assert_allclose(weights.toarray(), [[81 / 82, 1 / 82]])


def test_an_even_image_has_no_depth() -> None:
    assert not ColorDepth.by_variance(np.full((5, 3), 200.0), 100.0)(np.full((2, 3), 200.0)).any()


def test_what_a_fit_knows_comes_from_left_out_spots_and_draws_are_not_pretended() -> None:
    rng = np.random.default_rng(1)
    section = make(n=60)
    x = section.spots.xy_um[:, 0] / SIDE
    counts = rng.poisson(np.column_stack([20 * x, 20 * (1 - x), np.full(60, 8.0)]))
    fitted = Tesla().fit([make(n=60, counts=counts, blocks=np.full((80, 80, 3), 150))], TeslaConfig(step_um=STEP))
    assert fitted.calibration.cv_pcc[:2].min() > 0.6
    assert fitted.calibration.cv_pcc[2] < 0.4
    prediction = fitted.predict(section, section.spots, n_draws=16, keep_draws=1)
    assert prediction.draws is None
    assert np.isnan(prediction.std).all()
    assert prediction.obs["no_neighbour"].dtype == bool


def test_genes_that_a_section_lacks_are_nan_and_their_order_does_not_matter() -> None:
    section = make()
    fitted = FittedTesla(GENES, TeslaConfig(step_um=STEP))
    whole = fitted.predict(section, section.spots, n_draws=1, units="counts").mean
    part = fitted.predict(section.with_panel(["G2", "G0"]), section.spots, n_draws=1, units="counts").mean
    np.testing.assert_array_equal(part[:, [0, 2]], whole[:, [0, 2]])
    assert np.isnan(part[:, 1]).all()
    deeper = fitted.predict(
        section, section.spots, n_draws=1, units="counts", library_size=2 * section.library_size
    ).mean
    np.testing.assert_allclose(deeper, 2 * whole, rtol=1e-6)


def test_refuses_a_section_without_counts_and_a_step_wider_than_the_tissue() -> None:
    section = make()
    bare = Section("bare", GENES, None, section.spots, section.image, None, section.tissue)
    with pytest.raises(ValueError, match="'bare' has none"):
        FittedTesla(GENES, TeslaConfig()).field(bare, n_draws=1)
    with pytest.raises(ValueError, match="smaller step_um"):
        FittedTesla(GENES, TeslaConfig(step_um=790)).field(
            Section("s", GENES, section.counts, section.spots, section.image, None, box(0, 0, 30, 30)), n_draws=1
        )


def test_refuses_validation_sections() -> None:
    with pytest.raises(ValueError, match="validation= has no effect"):
        Tesla().fit([make()], TeslaConfig(), validation=[make(1)])


def test_configuration() -> None:
    assert TeslaConfig.preset("fast") == TeslaConfig()
    assert TeslaConfig.from_dict(TeslaConfig(step_um=30).to_dict()).step_um == 30
    for options, error, text in (
        ({"step": 3}, ValueError, "Did you mean 'step_um'"),
        ({"step_um": 0}, ValueError, "step_um"),
        ({"n_neighbors": 2.5}, TypeError, "n_neighbors"),
        ({"kernel": "gauss"}, ValueError, "kernel is one of"),
        ({"color_weight": -1}, ValueError, "color_weight"),
        ({"reference_compat": "yes"}, TypeError, "reference_compat"),
    ):
        with pytest.raises(error, match=text):
            TeslaConfig.from_dict(options)
    assert isinstance(method("tesla"), Tesla)


def test_the_public_calls_write_spots_and_a_fine_map_that_keeps_within_the_measured_range(make_section) -> None:
    import hisdiff as hd

    sdata = make_section(side=5)
    model = hd.tl.fit(sdata, method="tesla", config={"step_um": 50})
    hd.tl.predict(sdata)
    hd.tl.predict(sdata, resolution_um=50)
    fine = sdata.tables["tesla_50um"]
    record = fine.uns["hisdiff"]["predictions"]["tesla"]
    assert (record["n_draws"], record["calibration"], record["uses_section_counts"]) == (1, "none", True)
    share = 50**2 / (np.pi * 25**2)
    columns = sdata.tables["table"].var_names.get_indexer(fine.var_names)
    highest = sdata.tables["table"].X.toarray().max(axis=0)[columns]
    known = np.isfinite(fine.X).all(axis=1)
    assert known.mean() > 0.8
    assert (fine.X[known] <= share * highest * (1 + 1e-5)).all()
    assert np.isfinite(model.calibration.cv_pcc).all()
    np.testing.assert_allclose(
        2 ** sdata.tables["table"].layers["tesla"][:, columns] - 1,
        sdata.tables["table"].X.toarray()[:, columns],
        atol=0.1,
    )
