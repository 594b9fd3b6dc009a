from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from torch.distributions import NegativeBinomial

from hisdiff._section import Locations, Section
from hisdiff._stats._accuracy import pearson
from hisdiff._training._loop import generator_for
from hisdiff.methods._registry import get as method
from hisdiff.methods.xfuse import FittedXFuse, XFuse, XFuseConfig
from hisdiff.methods.xfuse._fit import covariates_of, start
from hisdiff.methods.xfuse._metagenes import collapse, contributions, drop, keep, resized, split
from hisdiff.methods.xfuse._model import Covariate, Maps, XFuseLoss, XFuseModel
from hisdiff.methods.xfuse._patches import Patches, Slides
from hisdiff.methods.xfuse._render import Canvas, box_means
from hisdiff.methods.xfuse._slides import Slide, paint
from hisdiff.methods.xfuse._start import fit_spots, profiles

MPP = 4.0
SIDE_UM = 384.0
GENES = np.array([f"G{i}" for i in range(8)])
SMALL = XFuseConfig(
    image_mpp=MPP, levels=3, channels=4, patch_px=32, batch_size=2, max_steps=4, n_metagenes=2, prune=False
)


class Picture:
    """An image in memory, at the resolution at which it is read."""

    mpp = MPP

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.bounds_um = (0.0, 0.0, pixels.shape[1] * MPP, pixels.shape[0] * MPP)

    def read(self, box_um, mpp) -> np.ndarray:
        assert mpp == MPP
        x0, y0, x1, y1 = (round(side / mpp) for side in box_um)
        out = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
        h, w = self.pixels.shape[:2]
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, h), min(x1, w)
        out[top - y0 : bottom - y0, left - x0 : right - x0] = self.pixels[top:bottom, left:right]
        return out


def planted(
    side_um: float = SIDE_UM, seed: int = 0, name: str = "A", *, tissue=True, pitch: float = 40.0, size_factor=1.0
):
    """Two kinds of tissue, told by colour; each has genes of its own. Returns the section and the share of the first."""
    rng = np.random.default_rng(seed)
    n = round(side_um / MPP)
    field = gaussian_filter(rng.normal(size=(n, n)), n / 12, mode="wrap")
    share = 1 / (1 + np.exp(-4 * field / field.std()))
    color = share[..., None] * [200, 110, 150] + (1 - share[..., None]) * [110, 80, 170]
    pixels = np.clip(color + rng.normal(0, 12, (n, n, 3)), 0, 255).astype(np.uint8)
    profile = np.array([[8, 8, 8, 8, 1, 1, 1, 1], [1, 1, 1, 1, 8, 8, 8, 8]]) * 0.02 * size_factor
    density = np.stack([share, 1 - share], axis=-1) @ profile
    centers = np.stack(np.meshgrid(*[np.arange(pitch / 2, side_um, pitch)] * 2), axis=-1).reshape(-1, 2)
    radius = 0.4 * pitch
    labels = paint(centers[:, ::-1] / MPP, np.full(len(centers), radius / MPP), (n, n))
    rate = np.stack([density[labels == k + 1].sum(axis=0) for k in range(len(centers))])
    counts = csr_matrix(rng.negative_binomial(rate / 0.5, 1 / 1.5).astype(np.float32))
    outline = shapely.box(0, 0, side_um, side_um) if tissue else None
    section = Section(name, GENES, counts, Locations(centers, radius), Picture(pixels), tissue=outline)
    return section.with_panel(GENES), share


@pytest.fixture(scope="module")
def section() -> Section:
    return planted()[0]


@pytest.fixture(scope="module")
def slide(section) -> Slide:
    return Slide.of(section, MPP, SMALL.step_px)


@pytest.fixture(scope="module")
def model(slide) -> XFuseModel:
    made = start(SMALL, [slide], seed=0)
    with torch.no_grad():  # heads that start flat would hide what they are given
        made.scale_head[-1].weight.normal_(0, 0.3, generator=generator_for(0, 1))
    return made.eval()


def n_parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_as_published():
    published = XFuseModel(XFuseConfig.preset("paper"), 10, 3, 1)
    assert n_parameters(published.encoder) == 10_664_224
    assert n_parameters(published.decoder) == 12_235_072
    assert n_parameters(published.latent_heads) == 1_405_824
    assert n_parameters(published.image_heads) == 710
    assert n_parameters(published.scale_head) == 321
    assert n_parameters(published.mixer) == 304
    assert published.metagene_weight.numel() + published.metagene_bias.numel() == 3 * 17


def test_the_count_distribution_is_scipys():
    rng = np.random.default_rng(0)
    rate, logit, y = rng.gamma(2, 3, 50), rng.normal(0, 2, 50), rng.poisson(6, 50).astype(float)
    told = NegativeBinomial(torch.tensor(rate), logits=torch.tensor(logit)).log_prob(torch.tensor(y))
    expected = stats.nbinom.logpmf(y, rate, 1 - 1 / (1 + np.exp(-logit)))
    np.testing.assert_allclose(told, expected, rtol=1e-8)
    assert NegativeBinomial(torch.tensor(3.0), logits=torch.tensor(0.7)).mean == pytest.approx(3 * np.exp(0.7))


def test_discs_are_painted_by_the_centres_of_pixels():
    labels = paint(np.array([[10.0, 12.0], [10.0, 30.0]]), np.array([4.0, 5.0]), (20, 40))
    i, j = np.mgrid[:20, :40] + 0.5
    np.testing.assert_array_equal(labels == 1, (i - 10) ** 2 + (j - 12) ** 2 <= 16)
    np.testing.assert_array_equal(labels == 2, (i - 10) ** 2 + (j - 30) ** 2 <= 25)


def test_a_slide_keeps_its_place_and_knows_what_is_empty(section):
    inner = replace(
        section, tissue=shapely.box(160, 160, 260, 260), counts=section.counts[:1], spots=section.spots.take([45])
    )
    cut = Slide.of(inner, MPP, 4)
    assert cut.origin[0] % 4 == cut.origin[1] % 4 == 0
    assert cut.shape[0] % 4 == cut.shape[1] % 4 == 0
    assert cut.shape < (96, 96)
    assert np.abs(cut.image).max() == pytest.approx(0.9)
    np.testing.assert_allclose((cut.centers[0] + cut.origin) * MPP, inner.spots.xy_um[0, ::-1])
    assert cut.background.any()
    assert not (cut.background & (cut.labels > 0)).any()
    row, col = np.argwhere(cut.background)[0] + cut.origin
    assert not inner.tissue.contains(shapely.Point((col + 0.5) * MPP, (row + 0.5) * MPP))


def test_the_bound_of_all_patches_is_the_sum_over_batches(section):
    others = [planted(seed=1, name="B")[0], planted(seed=2, name="C")[0]]
    slides_ = [Slide.of(s, MPP, 4) for s in (section, *others)]
    config = replace(SMALL, covariates={"patient": ("x", "y", None)})
    made = start(config, slides_, seed=0).eval()
    slides = Slides(slides_)
    held, tiles = slides.on(torch.device("cpu")), slides.tiles(32)
    assert len(tiles) == sum(slides.n_patches(32))

    def bound(batch: list[Patches]) -> torch.Tensor:
        terms = made.elbo(joined(batch), held["counts"][0], held["areas"][0], slides.n_patches(32), None)
        return torch.stack([terms[name] for name in ("image", "counts", "latent", "genes")])

    with torch.no_grad():
        whole = bound(tiles)
        parts = sum(bound(tiles[i : i + 4]) for i in range(0, len(tiles), 4))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-2)
    with torch.no_grad():
        each = made.metagenes.divergence().sum()
        for posterior in (*made.rate_effects, *made.logit_effects):
            each = each + posterior.divergence().sum()
    np.testing.assert_allclose(
        whole[3], -each, rtol=1e-4
    )  # an unknown level that is as likely as the prior costs nothing


def joined(batch: list[Patches]) -> Patches:
    """Put patches together into one batch."""
    size = batch[0].seen[0].numel()
    pixels = [p.pixel + i * size for i, p in enumerate(batch)]
    before = np.cumsum([0, *(len(p.spots) for p in batch)]).tolist()
    return Patches(
        torch.cat([p.image for p in batch]), torch.cat([p.seen for p in batch]), torch.cat(pixels),
        torch.cat([p.spot + b for p, b in zip(batch, before)]),
        torch.cat([p.background + i * size for i, p in enumerate(batch)]),
        torch.cat([p.section for p in batch]), torch.cat([p.spots for p in batch]),
        torch.cat([p.spot_patch + i for i, p in enumerate(batch)]),
    )  # fmt: skip


def test_the_order_of_spots_leaves_the_loss_as_it_is(section, model):
    order = np.random.default_rng(0).permutation(len(section.spots))
    turned = replace(section, counts=section.counts[order], spots=section.spots.take(order))
    rows = {"section": torch.tensor([0, 0])}
    losses = [
        XFuseLoss(model, Slides([Slide.of(s, MPP, 4)])).loss(rows, generator_for(3, 0)).total for s in (section, turned)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_patches_hold_whole_spots_only_and_their_exposure_is_by_area(slide, model):
    slides = Slides([slide])
    patches = slides.sample(torch.zeros(3, dtype=torch.long), 32, generator_for(0, 0), augment=True)
    assert patches.image.shape == (3, 3, 32, 32)
    assert len(patches.spots)
    sizes = torch.bincount(patches.spot).numpy()
    np.testing.assert_allclose(sizes, slide.areas[patches.spots], rtol=0.35)  # a patch is scaled and sheared a little
    flat = Maps(torch.full((3, 2, 32, 32), 0.5), torch.full((3, 32, 32), 2.0))
    exposure = model.exposure(flat, patches, torch.from_numpy(slide.areas))
    np.testing.assert_allclose(exposure, np.repeat(slide.areas[patches.spots][:, None], 2, axis=1), rtol=1e-5)
    plain = slides.sample(torch.zeros(1, dtype=torch.long), 32, generator_for(1, 0), augment=False)
    found = [
        np.abs(slide.image[:, i : i + 32, j : j + 32] - plain.image[0].numpy()).max()
        for i in range(64)
        for j in range(64)
    ]
    assert min(found) < 1e-4


def test_slides_smaller_than_a_patch_are_looked_at_whole(section):
    slides = Slides([Slide.of(section, MPP, 4)])
    patches = slides.sample(torch.zeros(1, dtype=torch.long), 128, generator_for(0, 0), augment=False)
    assert patches.seen.sum() == 96 * 96
    assert len(patches.spots) == len(section.spots)


def test_empty_ground_is_one_observation_of_zeros(model):
    maps = Maps(torch.full((1, 2, 8, 8), 0.5), torch.full((1, 8, 8), 0.01))
    none = torch.zeros(0, dtype=torch.long)
    patches = Patches(torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool), none, none, torch.arange(10),
                      torch.zeros(1, dtype=torch.long), none, none)  # fmt: skip
    effects = model.effects(None)
    with torch.no_grad():
        told = model.expression(maps, effects, patches, torch.zeros(0, 8), torch.zeros(0))
    rate = (0.1 * 0.5 * (model.baseline + effects.metagenes).exp().sum(dim=0)).detach().numpy()
    p = 1 - torch.sigmoid(model.logit).detach().numpy()
    np.testing.assert_allclose(told, stats.nbinom.logpmf(0, rate + 1e-8, p).sum(), rtol=1e-4)


def test_with_one_metagene_spots_begin_at_the_fit_without_an_image(section, slide):
    alone = start(replace(SMALL, start="single"), [slide], seed=0).eval()
    log_rate, logit = fit_spots(slide.counts, seed=0)
    np.testing.assert_allclose(np.exp(log_rate + logit), slide.counts.mean(axis=0), rtol=0.15)
    fitted = FittedXFuse(GENES, SMALL, alone, float(slide.areas[0]) * MPP**2, section.log2_size, {})
    told = fitted.field(section, n_draws=1).exposure(section.spots)[0]
    np.testing.assert_allclose(told, 1, rtol=5e-3)


def test_factors_of_the_counts_are_found():
    counts = planted()[0].counts.toarray()
    found = profiles(counts, 2, seed=0)
    high = found.argmax(axis=0)
    assert len(set(high[:4])) == len(set(high[4:])) == 1
    assert high[0] != high[4]


def test_forests_collapse_and_split():
    gains = [-1.0, 2.0, -1.0, 3.0, 1.0]
    assert collapse((0, 1), gains) == 0
    assert collapse((1, 3), gains) is None
    assert collapse(((0, 1), 2), gains) == (0, 2)
    assert drop([(0, 1), 2, (3, 4)], gains) == [0, 2]
    assert drop([1, 3, 4], [0.0, 2.0, 0.0, 3.0, 1.0]) == [0]
    forest, old = keep([4, (0, 2)])
    assert (forest, old) == ([0, (1, 2)], [4, 0, 2])
    assert split([0, (1, 2)], 5) == ([(0, 3), ((1, 4), 2)], [0, 1, 2, 0, 1])


def test_splitting_a_metagene_changes_nothing_but_for_the_jitter(slide, model):
    grown = resized(model, [0, 1, 1], jitter=1e-12, seed=0).eval()
    image = torch.from_numpy(slide.image[None, :, :32, :32])
    with torch.no_grad():
        told = []
        for m in (model, grown):
            maps = m.maps(m.hidden([mean for mean, _ in m.posterior(image)]))
            told.append(torch.einsum("bkhw,kg->bghw", maps.activity, (m.baseline + m.effects(None).metagenes).exp()))
    torch.testing.assert_close(told[0], told[1], rtol=1e-4, atol=1e-5)
    assert resized(model, [1], jitter=1e-2, seed=0).n_metagenes == 1


def test_a_metagene_of_no_use_does_not_contribute(slide, model):
    three = resized(model, [0, 1, 1], jitter=1e-12, seed=0)
    with torch.no_grad():
        three.metagene_bias[2] = -30.0
        three.metagenes.mean_[2] += 1.0
    gains = contributions(three, Slides([slide]), seed=0)
    assert gains[2] > 0


def test_an_unknown_level_is_drawn_and_can_be_learned():
    covariate = Covariate.of("patient", ["b", None, "a"])
    assert (covariate.levels, covariate.codes) == (("a", "b"), (1, -1, 0))
    made = XFuseModel(SMALL, 3, 1, 3, [covariate])
    with torch.no_grad():
        made.rate_effects[0].mean_.copy_(torch.tensor([[0.0, 0, 0], [1, 1, 1]]))
    told = [made.effects(generator_for(0, k)).rate.detach()[:, 0] > 1 for k in range(40)]
    drawn = torch.stack(told).float().mean(dim=0)
    assert drawn[0] == 1
    assert drawn[2] == 0
    assert 0.1 < drawn[1] < 0.9
    made.effects(generator_for(0, 0)).rate[1].sum().backward()
    assert made.unknown[0].grad[1].abs().sum() > 0


def test_tiles_meet_without_a_seam_and_noise_belongs_to_places(slide, model, monkeypatch):
    from hisdiff.methods.xfuse import _render as module

    whole = Canvas(model, slide, 2, seed=5).window((0, 0), slide.shape)
    monkeypatch.setattr(module, "_TILE_PX", 32)
    tiled = Canvas(model, slide, 2, seed=5)
    np.testing.assert_allclose(tiled.window((0, 0), slide.shape), whole, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(
        tiled.window((30, 20), (40, 11)), tiled.window((0, 0), slide.shape)[:, :, 30:70, 20:31]
    )
    assert np.isnan(tiled.window((-5, 0), (4, 4))).all()
    assert np.abs(whole[0] - whole[1]).max() > 1e-4


def test_means_over_boxes_are_exact():
    maps = np.arange(24.0).reshape(1, 4, 6)
    boxes = np.array([[0, 0, 1, 1], [0, 0, 4, 6], [0.5, 1, 1.5, 2], [1.25, 2.25, 1.75, 2.5]])
    np.testing.assert_allclose(box_means(maps, boxes)[0], [0, 11.5, 4, 8])
    maps[:, 0] = np.nan
    np.testing.assert_allclose(box_means(maps, boxes)[0], [np.nan, maps[0, 1:].mean(), 7, 8])


@pytest.fixture(scope="module")
def quick(section) -> FittedXFuse:
    return XFuse().fit([section], SMALL, progress=False)


def test_the_field_adds_up_to_the_expectation_at_spots(section, quick):
    field = quick.field(section, n_draws=2, seed=1)
    bins = Locations.bins(np.stack(np.mgrid[:48, :48], axis=-1).reshape(-1, 2), 8.0)
    square = Locations.bins(np.array([[3, 4]]), 48.0)
    for k, (fine, coarse) in enumerate(zip(field.draws(bins), field.draws(square))):
        block = fine.reshape(48, 48, -1)[18:24, 24:30]
        np.testing.assert_allclose(coarse[0], block.mean(axis=(0, 1)), rtol=1e-4)
        exposure = field.exposure(square)[k]
        rate, odds, _ = field.rates(exposure, k)
        np.testing.assert_allclose(rate[0] * odds, coarse[0] * 48**2 / quick.footprint_um2, rtol=2e-3)
    assert [len(d) for d in field.draws(bins.take(np.arange(0)))] == [0, 0]
    some = next(field.draws(bins.take(np.arange(5, 400, 7))))
    np.testing.assert_allclose(some, next(field.draws(bins))[5:400:7], rtol=1e-4)


def test_predictions_follow_seed_and_state(section, quick):
    arrays, settings = quick.state()
    rebuilt = FittedXFuse.from_state(arrays, settings, GENES)
    one, two = (f.predict(section, section.spots, n_draws=2, keep_draws=1, seed=3) for f in (quick, rebuilt))
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.draws, two.draws)
    counts = np.exp2(one.draws[0]) - 1
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    other = quick.predict(section, section.spots, n_draws=2, seed=4)
    assert np.abs(one.mean - other.mean).max() > 0
    again = XFuse().fit([section], SMALL, progress=False).state()[0]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, again[name])


def test_histology_alone_is_enough_and_library_size_scales_the_counts(section, quick):
    bare = Section("N", GENES, None, section.spots, section.image, tissue=section.tissue)
    plain = quick.predict(bare, bare.spots, n_draws=1, units="counts", library_size=section.library_size).mean
    deeper = quick.predict(bare, bare.spots, n_draws=1, units="counts", library_size=2 * section.library_size).mean
    np.testing.assert_allclose(deeper, 2 * plain, rtol=1e-5)
    unlabeled = XFuse().fit([section, replace(bare, library_size=None)], SMALL, progress=False)
    assert unlabeled.model.n_sections == 2


def test_sections_have_effects_of_their_own(section):
    shallow = planted(seed=1, name="B", size_factor=0.25)[0]
    slides = [Slide.of(s, MPP, 4) for s in (section, shallow)]
    assert [c.name for c in covariates_of(SMALL, ["A", "A"])] == ["section"]
    assert len(covariates_of(SMALL, ["A", "A"])[0].levels) == 2
    assert covariates_of(replace(SMALL, section_effects=False), ["A", "B"]) == []
    made = start(replace(SMALL, covariates={"patient": ("x", None)}), slides, seed=0)
    assert [c.name for c in made.covariates] == ["patient", "section"]
    for covariates, message in (
        ({"patient": ("x",)}, "1 levels for 2 sections"),
        ({"patient": (None, None)}, "no known level"),
    ):
        with pytest.raises(ValueError, match=message):
            XFuse().fit([section, shallow], replace(SMALL, covariates=covariates))


def test_metagenes_grow_and_an_interrupted_fit_goes_on(section, tmp_path, monkeypatch):
    config = replace(SMALL, start="single", strategy="split", max_steps=6, grow_every=2)
    straight = XFuse().fit([section], config, progress=False, checkpoint=tmp_path / "a")
    assert [row["metagenes"] for row in straight.history][-1] >= 2
    assert straight.history[-1]["step"] == 6
    resumed = XFuse().fit([section], config, progress=False, checkpoint=tmp_path / "a", resume=True)
    for name, array in straight.state()[0].items():
        np.testing.assert_array_equal(array, resumed.state()[0][name])
    extra = XFuse().fit([section], replace(config, strategy="extra", n_extra=2), progress=False)
    assert extra.model.n_metagenes >= 2


@pytest.mark.slow
def test_two_planted_maps_are_recovered():
    section, share = planted(512.0, seed=3, pitch=32.0)
    config = XFuseConfig(
        image_mpp=MPP, levels=3, channels=6, patch_px=64, batch_size=2, max_steps=150, n_metagenes=2, learning_rate=3e-3
    )
    fitted = XFuse().fit([section], config, progress=False)
    assert fitted.model.n_metagenes == 2
    maps = fitted.field(section, n_draws=4)._canvas.window((0, 0), share.shape).mean(axis=0)
    activity = maps / maps.sum(axis=0)
    found = np.corrcoef(activity[0].ravel(), share.ravel())[0, 1]
    assert abs(found) > 0.9
    told = fitted.predict(section, section.spots, n_draws=8)
    assert pearson(np.log2(1 + section.counts.toarray()), told.mean).mean() > 0.4


def test_config_survives_a_round_trip_and_names_what_is_wrong():
    config = replace(XFuseConfig.preset("paper"), covariates={"patient": ("A", None)})
    assert XFuseConfig.from_dict(config.to_dict()) == config
    for options, error, message in (
        ({"level": 1}, ValueError, r"'level'.*Did you mean 'levels'"),
        ({"patch_px": 100}, ValueError, "multiple of 2"),
        ({"strategy": "grow"}, ValueError, "strategy"),
        ({"covariates": {"a": ["x"], "b": ["x", "y"]}}, ValueError, "one level for each section"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"preset": "slow"}, ValueError, "slow"),
    ):
        with pytest.raises(error, match=message):
            XFuseConfig.from_dict(options)


def test_sections_without_image_or_spots_are_refused(section):
    with pytest.raises(ValueError, match="at least 2 spots.*'A'.*have 0"):
        XFuse().fit([replace(section, counts=None)], SMALL)
    with pytest.raises(ValueError, match="needs an image.*'A'"):
        XFuse().fit([replace(section, image=None)], SMALL)


def test_is_found_by_name():
    assert isinstance(method("xfuse"), XFuse)


def test_mixed_precision_leaves_the_likelihood_of_counts_in_float32(section):
    fitted = XFuse().fit([section], replace(SMALL, precision="bf16", max_steps=2), progress=False)
    exact = XFuse().fit([section], replace(SMALL, max_steps=2), progress=False)
    assert all(p.dtype == torch.float32 for p in fitted.model.parameters())
    assert fitted.history[-1]["counts"] == pytest.approx(exact.history[-1]["counts"], rel=0.02)
