"""A large slide without a pyramid is compared by windows of it, not as a whole."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from hisdiff.io import _orient
from hisdiff.io._raster import Raster


def test_windows_tell_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:600, :800]
    gray = (x * 100 // 800 + y * 50 // 600 + 60 * ((x - 200) ** 2 + (y - 150) ** 2 < 9000)).astype(np.uint8)
    pixels = np.stack([gray] * 3)
    raster = Raster([da.from_array(pixels, chunks=(3, 200, 200))])
    small = gray[::8, ::8]
    for cheap in (_orient._CHEAP_PX, 0):
        monkeypatch.setattr(_orient, "_CHEAP_PX", cheap)
        _orient.check_orientation(raster, small, "slide")
        with pytest.raises(ValueError, match="orient='flip_top_bottom'"):
            _orient.check_orientation(_orient.turned(raster, "flip_top_bottom"), small, "slide")


def test_an_image_of_another_section_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, 60, 80)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    _orient.check_orientation(Raster([da.from_array(pixels)]), rng.integers(0, 255, (60, 80)), "slide")
    assert "that of another section" in caplog.text
