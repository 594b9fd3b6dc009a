"""Fixtures that all tests share."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

os.environ.setdefault("HISDIFF_VERBOSITY", "info")
os.environ.setdefault("MPLBACKEND", "Agg")

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Every worker has its share of the cores. Left alone, numpy and torch of each take all of them and wait for one another.
    _share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(_share))
    threadpool_limits(_share)  # of what a plugin has loaded before


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real sections (``her2st/``, ``reference/``); the test is skipped where there is none."""
    folder = os.environ.get("HISDIFF_TEST_DATA")
    if not folder:
        pytest.skip("HISDIFF_TEST_DATA names no folder with real sections")
    return Path(folder)


@pytest.fixture(autouse=True)
def _quiet_and_clean(tmp_path_factory: pytest.TempPathFactory):
    """Keep models out of the user's cache, progress bars out of the log, settings as they were, and close every figure."""
    from hisdiff._settings import settings

    cache = tmp_path_factory.getbasetemp() / "cache"
    with settings.override(cache_dir=cache, progress=False, verbosity=settings.verbosity):
        yield
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def make_section():
    """Return a maker of small sections in which colour decides expression: reddish tissue has A genes, bluish B genes."""
    return _make_section


@pytest.fixture(scope="session")
def _colored(make_section):
    import hisdiff as hd

    made = [make_section(f"s{i}", seed=i, side=8) for i in range(3)]
    hd.pp.select_genes(made[:2])
    hd.pp.embed(made, ColorEncoder())
    return made


@pytest.fixture
def colored_sections(_colored, color_encoder):
    """Three sections, selected and embedded: two to train on, one to predict. Images are shared with other tests."""
    from hisdiff import encoders

    encoders.get(color_encoder)  # remembered, so that it counts what is embedded from now on
    return [_copied(sdata) for sdata in _colored]


@pytest.fixture(scope="session")
def _colored_model(_colored, tmp_path_factory):
    import hisdiff as hd

    training = [_copied(sdata) for sdata in _colored[:2]]
    hd.tl.fit(training, method="ridge", save=tmp_path_factory.mktemp("colored") / "model")
    return training[0].attrs["hisdiff"]["model"]


@pytest.fixture
def colored_model(colored_sections, _colored_model):
    """A ridge that was fitted on the first two of the sections, which know it."""
    import hisdiff as hd

    for sdata in colored_sections[:2]:
        sdata.attrs.setdefault("hisdiff", {})["model"] = dict(_colored_model)
    return hd.models.load(_colored_model["path"])


def _copied(sdata):
    """Copy an object with its tables and shapes; images are the same objects."""
    from hisdiff._sdata._shallow_copy import shallow_copy

    result = shallow_copy(sdata)
    for elements, copies in ((sdata.tables, result.tables), (sdata.shapes, result.shapes)):
        for name in list(elements):
            copies[name] = elements[name].copy()
    return result


def _make_section(
    name: str = "s1",
    *,
    seed: int = 0,
    side: int = 6,
    n_genes: int = 12,
    mpp: float = 1.0,
    genes: list[str] | None = None,
    size_factor: float = 1.0,
):
    """Spots of radius 25 um at 100 um pitch on a ``side`` x ``side`` square lattice; gene i is of kind A or B by i % 2."""
    from hisdiff.io._build import section

    levels, table, xy = _made(name, seed, side, n_genes, mpp, None if genes is None else tuple(genes), size_factor)
    return section(name, list(levels), mpp, table.copy(), xy.copy(), radius_um=25.0)


@functools.cache
def _made(name: str, seed: int, side: int, n_genes: int, mpp: float, genes: tuple[str, ...] | None, size_factor: float):
    """Return pixels, table and places of a section; many tests take the same one."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from hisdiff.io._build import levels_of

    rng = np.random.default_rng(seed)
    size = round((side + 2) * 100 / mpp)
    y, x = np.mgrid[:size, :size] / size
    mix = 0.5 + 0.5 * np.sin(5 * x + seed) * np.cos(4 * y)  # share of the bluish kind
    color = (1 - mix)[..., None] * [205, 120, 150] + mix[..., None] * [110, 80, 170]
    cells = rng.normal(0, 18, (size // 8 + 1, size // 8 + 1)).repeat(8, 0).repeat(8, 1)[:size, :size, None]
    color = color + cells
    edge = (np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) < 0.03)[..., None]
    pixels = np.clip(np.where(edge, 243, color), 0, 255).astype(np.uint8)
    row, col = (a.ravel() for a in np.mgrid[:side, :side])
    xy = (np.stack([col, row], axis=1) + 1.5) * 100 / mpp
    local = mix[xy[:, 1].astype(int), xy[:, 0].astype(int)][:, None]
    kind = np.arange(n_genes) % 2
    rate = np.where(kind == 0, 1 - local, local) * (10 + 5 * np.arange(n_genes)) * size_factor
    names = list(genes or ()) or [f"{'AB'[k]}{i:02d}" for i, k in enumerate(kind)]
    table = ad.AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.float32)),
        obs=pd.DataFrame({"array_row": row, "array_col": col}, index=[f"{name}_{r}x{c}" for r, c in zip(row, col)]),
        var=pd.DataFrame(index=names),
    )
    return levels_of(np.moveaxis(pixels, -1, 0).copy()), table, xy


class ColorEncoder:
    """A ten-line encoder: mean and spread of each colour of a patch."""

    def __init__(self, name: str = "colour", revision: str = "1") -> None:
        from hisdiff.encoders import EncoderSpec

        self.spec = EncoderSpec(name, revision, dim=6, input_px=32, mpp=2.0, licence="CC0-1.0", derivatives=True)
        self.n_patches = 0

    def encode(self, patches):
        import numpy as np

        self.n_patches += len(patches)
        values = patches.reshape(len(patches), -1, 3).astype(np.float32) / 255
        return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)


@pytest.fixture
def color_encoder() -> ColorEncoder:
    """Return a quick encoder that counts the patches it was given."""
    return ColorEncoder()
