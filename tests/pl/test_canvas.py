import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
from matplotlib.colors import to_rgba

from hisdiff._section import Locations
from hisdiff.pl import _canvas

BOX = (100.0, 200.0, 1100.0, 800.0)


@pytest.fixture
def ax():
    return plt.subplots(figsize=(5, 3), dpi=100)[1]


class Image:
    """An image of 0.5 um per pixel that remembers what was read."""

    mpp = 0.5
    bounds_um = (0.0, 0.0, 4000.0, 3000.0)

    def __init__(self):
        self.reads = []

    def read(self, box, mpp):
        self.reads.append((box, mpp))
        return np.zeros((round((box[3] - box[1]) / mpp), round((box[2] - box[0]) / mpp), 3), dtype=np.uint8)


def rendered(ax) -> np.ndarray:
    ax.set_position([0, 0, 1, 1])
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())


@pytest.mark.parametrize(
    ("most", "length"), [(1000, 1000), (999, 500), (250, 200), (199, 100), (0.7, 0.5), (1e-3, 1e-3), (4200 / 4, 1000)]
)
def test_round_length_is_the_largest_of_1_2_5_below(most, length):
    assert _canvas.round_length(most) == pytest.approx(length)


def test_scale_bar_is_as_long_in_um_as_it_says(ax):
    _canvas.frame(ax, BOX)
    bar = _canvas.scale_bar(ax, BOX)
    ax.figure.canvas.draw()
    px = bar.size_bar.get_children()[0].get_window_extent().width
    um_per_px = (BOX[2] - BOX[0]) / ax.get_window_extent().width
    assert bar.txt_label.get_text() == "200 µm"
    assert px * um_per_px == pytest.approx(200, rel=1e-6)


def test_scale_bar_from_a_millimetre_on_is_in_mm(ax):
    box = (0.0, 0.0, 8000.0, 4000.0)
    _canvas.frame(ax, box)
    assert _canvas.scale_bar(ax, box).txt_label.get_text() == "2 mm"


def test_frame_has_its_origin_at_the_top_left_and_equal_aspect(ax):
    _canvas.frame(ax, BOX)
    assert ax.get_xlim() == (100, 1100)
    assert ax.get_ylim() == (800, 200)
    assert ax.get_aspect() == 1


def test_crop_holds_every_footprint_and_stays_on_the_image():
    locations = Locations(np.array([[100.0, 150.0], [900.0, 400.0]]), np.array([10.0, 50.0]))
    x0, y0, x1, y1 = _canvas.crop_box(locations, margin=0.1)
    assert (x0, y0, x1, y1) == pytest.approx((90 - 86, 140 - 86, 950 + 86, 450 + 86))
    assert _canvas.crop_box(locations, (50.0, 0.0, 1000.0, 460.0), margin=0.1) == pytest.approx((50, 54, 1000, 460))


def test_crop_of_a_single_location_is_not_empty():
    x0, y0, x1, y1 = _canvas.crop_box(Locations(np.array([[5.0, 5.0]]), 2.0))
    assert x1 - x0 > 4
    assert y1 - y0 > 4


def test_underlay_is_read_at_the_resolution_of_the_screen():
    image = Image()
    pixels = _canvas.read_underlay(image, (0.0, 0.0, 4000.0, 2000.0), side_px=800)
    assert image.reads == [((0.0, 0.0, 4000.0, 2000.0), 5.0)]
    assert pixels.shape == (400, 800, 3)


def test_underlay_is_never_enlarged():
    image = Image()
    _canvas.read_underlay(image, (0.0, 0.0, 100.0, 100.0))
    assert image.reads[0][1] == 0.5


def test_underlay_lies_where_the_image_is(ax):
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)
    pixels[:, :50] = 255  # white left half
    _canvas.frame(ax, BOX)
    _canvas.draw_underlay(ax, pixels, BOX, alpha=1)
    picture = rendered(ax)
    assert (picture[150, 100, :3] == 255).all()
    assert (picture[150, 400, :3] == 0).all()


def test_circles_have_their_true_radius_on_screen(ax):
    _canvas.frame(ax, BOX)
    locations = Locations(np.array([[600.0, 500.0]]), 100.0)
    _canvas.draw_locations(ax, locations, np.array([1.0]), cmap="gray", clim=(1, 2))
    dark = rendered(ax)[..., 0] < 128
    um_per_px = 1000 / dark.shape[1]
    assert dark.sum() * um_per_px**2 == pytest.approx(np.pi * 100**2, rel=0.01)
    y, x = np.nonzero(dark)
    assert x.mean() * um_per_px + 100 == pytest.approx(600, abs=2)
    assert y.mean() * um_per_px + 200 == pytest.approx(500, abs=2)


def test_a_location_further_down_the_slide_is_drawn_further_down(ax):
    _canvas.frame(ax, BOX)
    _canvas.draw_locations(ax, Locations(np.array([[600.0, 750.0]]), 20.0), np.array([0.0]), cmap="gray", clim=(0, 1))
    assert np.nonzero(rendered(ax)[..., 0] < 128)[0].mean() > 270  # of 300 rows


@pytest.mark.parametrize(
    "outline",
    [
        shapely.box(300, 300, 700, 700),
        shapely.box(300, 300, 700, 700) - shapely.box(400, 400, 600, 600),
        shapely.union(shapely.box(300, 300, 400, 400), shapely.box(500, 500, 600, 600)),
    ],
    ids=["simple", "hole", "parts"],
)
def test_outlines_are_drawn_as_they_are(ax, outline):
    _canvas.frame(ax, BOX)
    locations = Locations(np.array([[500.0, 500.0]]), np.array([outline], dtype=object))
    _canvas.draw_locations(ax, locations, np.array([1.0]), cmap="gray", clim=(1, 2))
    dark = rendered(ax)[..., 0] < 128
    assert dark.sum() * (1000 / dark.shape[1]) ** 2 == pytest.approx(outline.area, rel=0.02)


def test_locations_without_a_value_are_left_out(ax):
    locations = Locations(np.array([[300.0, 300.0], [500.0, 500.0]]), np.array([10.0, 20.0]))
    drawn = _canvas.draw_locations(ax, locations, np.array([np.nan, 3.0]))
    assert drawn.get_array().tolist() == [3.0]
    assert drawn.get_offsets().tolist() == [[500.0, 500.0]]


def test_locations_are_rasterised_and_rings_are_not(ax):
    locations = Locations(np.array([[300.0, 300.0]]), 10.0)
    assert _canvas.draw_locations(ax, locations, np.array([0.0])).get_rasterized()
    ring = _canvas.ring_locations(ax, locations, "red")
    assert not ring.get_rasterized()
    assert tuple(ring.get_edgecolor()[0]) == to_rgba("red")


def test_shared_norm_pools_all_panels_and_ignores_nan_and_outliers():
    norm = _canvas.shared_norm([np.append(np.arange(100.0), 1e6), np.array([np.nan, 5.0])], (0, 95))
    assert norm.vmin == 0
    assert norm.vmax < 100


@pytest.mark.parametrize(
    ("values", "limits"), [([0.0] * 500 + [3.0], (0, 3)), ([2.0, 2.0], (2, 3)), ([np.nan], (0, 1))]
)
def test_shared_norm_is_never_empty(values, limits):
    norm = _canvas.shared_norm([np.array(values)])
    assert (norm.vmin, norm.vmax) == limits


@pytest.mark.parametrize(
    ("values", "extend"), [([0, 1], "neither"), ([-1, 1], "min"), ([0.5, 2], "max"), ([-1, np.nan, 2], "both")]
)
def test_colour_bar_has_arrows_where_values_lie_beyond_it(values, extend):
    assert _canvas.extend_of(plt.Normalize(0, 1), [np.array(values, dtype=float)]) == extend


def test_figure_is_taken_off_pyplots_list_when_a_notebook_shows_it(monkeypatch):
    figure, _ = _canvas.new_figure(1, 1, figsize=(1, 1), layout="constrained")
    figure._repr_mimebundle_()
    assert plt.fignum_exists(figure.number)  # elsewhere it stays
    monkeypatch.setattr(_canvas.mpl, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    assert figure._repr_mimebundle_() == {}
    assert not plt.fignum_exists(figure.number)
