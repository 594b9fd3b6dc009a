"""Folders of models that were damaged, edited, or made to do harm: each is a ``ValueError`` that names the file."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hisdiff as hd
from hisdiff.models import _model


@pytest.fixture(scope="module")
def saved(make_section, tmp_path_factory):
    sdata = make_section()
    folder = tmp_path_factory.mktemp("models") / "m"
    hd.pp.select_genes(sdata)
    hd.pp.embed(sdata)
    hd.tl.fit(sdata, method="ridge", save=folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "m")


def edit(folder, name, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def forge(folder) -> None:
    """Make the id fit the files: what an attacker would do."""
    arrays, genes = load_file(folder / "weights.safetensors"), (folder / "genes.txt").read_text().split("\n")[:-1]
    config, meta = (json.loads((folder / name).read_text()) for name in ("config.json", "metadata.json"))
    meta["id"] = _model._digest_of(arrays, meta, config, np.array(genes))
    (folder / "metadata.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "metadata.json", "genes.txt"])
def test_files_that_are_cut_off_are_named(folder, name):
    whole = (folder / name).read_bytes()
    for length in (0, 1, 7, len(whole) // 2, len(whole) - 3):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{name}|metadata.json"):
            hd.models.load(folder)


def test_edited_metadata_is_refused(saved, folder):
    for key in ("format", "id", "method", "seed", "cohort", "fitted"):
        for value in (None, [], {}, "x", 10**30):
            shutil.copy(saved / "metadata.json", folder)
            edit(folder, "metadata.json", lambda meta, key=key, value=value: meta.update({key: value}))
            with pytest.raises(ValueError, match=r"metadata\.json|format"):
                hd.models.load(folder)


def test_sizes_that_do_not_agree_are_refused_also_where_the_id_was_forged(folder):
    arrays = load_file(folder / "weights.safetensors")
    arrays["fitted.mean/slopes"] = arrays["fitted.mean/slopes"][:, 1:].copy()
    save_file(arrays, folder / "weights.safetensors")
    with pytest.raises(ValueError, match="do not belong together"):
        hd.models.load(folder)
    forge(folder)
    with pytest.raises(ValueError, match=r"metadata.json cannot be used .* array 'mean/slopes' has shape"):
        hd.models.load(folder)


def test_a_network_larger_than_its_file_takes_no_memory(folder):
    from hisdiff.methods.istar.config import IStarConfig

    edit(
        folder,
        "metadata.json",
        lambda meta: meta.update(
            method="istar",
            fitted={
                "config": IStarConfig(width=10**8).to_dict(),
                "n_inputs": 10**6,
                "footprint_um2": 1.0,
                "log2_size": 1.0,
            },
        ),
    )
    forge(folder)
    with pytest.raises(ValueError, match="metadata.json cannot be used"):
        hd.models.load(folder)


def test_a_header_that_promises_more_than_the_file_has_is_refused(folder):
    header = json.dumps(
        {"fitted.mean/slopes": {"dtype": "F64", "shape": [10**6, 10**6], "data_offsets": [0, 8 * 10**12]}}
    ).encode()
    (folder / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="weights.safetensors is truncated"):
        hd.models.load(folder)
