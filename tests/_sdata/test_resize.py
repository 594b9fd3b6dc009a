from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hisdiff._sdata._resize import resized


@pytest.mark.parametrize(("height", "width"), [(70, 93), (301, 300), (70, 300)])
def test_pixels_are_those_of_pillow(height, width) -> None:
    """Of boxes up to about twice as high as wide, where it goes along rows first as well."""
    rng = np.random.default_rng(0)
    pixels = rng.choice(np.array([0, 255, *rng.integers(0, 256, 9)], dtype=np.uint8), (height, width, 3))
    for factor in (0.2, 0.77, 1.0, 2.6):
        size = round(width * factor), round(height * factor)
        for box in ((0, 0, width, height), (0.3, 0.71, width - 0.2, height - 0.45)):
            expected = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box)
            made = resized(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), *map(np.float32, box), *size)
            np.testing.assert_array_equal(made, np.asarray(expected), err_msg=f"{size} {box}")
