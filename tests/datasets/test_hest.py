"""Download of HEST samples, from a hub that the tests stand in for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import anndata as ad
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import tifffile
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

import hisdiff as hd
from hisdiff._settings import settings
from hisdiff.datasets._hest import STUDIES


def write_sample(folder: Path, sample: str) -> None:
    for part in ("st", "wsis", "metadata"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    table = ad.AnnData(
        np.ones((4, 3), np.float32), obs=pd.DataFrame(index=list("abcd")), var=pd.DataFrame(index=list("XYZ"))
    )
    table.obsm["spatial"] = np.array([[20.0, 20], [20, 60], [60, 20], [60, 60]])
    table.write_h5ad(folder / f"st/{sample}.h5ad")
    tifffile.imwrite(folder / f"wsis/{sample}.tif", np.full((80, 90, 3), 200, np.uint8), photometric="rgb")
    metadata = {"pixel_size_um_estimated": 0.5, "spot_diameter": 55}
    (folder / f"metadata/{sample}.json").write_text(json.dumps(metadata))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A hub that has SPA148 and SPA149, and gives what it is asked for and no more."""
    store = tmp_path / "hub"
    for sample in ("SPA148", "SPA149"):
        write_sample(store, sample)

    def snapshot_download(repo_id: str, *, repo_type: str, allow_patterns: list[str], local_dir: Path) -> str:
        assert (repo_id, repo_type) == ("MahmoodLab/hest", "dataset")
        for pattern in allow_patterns:
            if (store / pattern).exists():
                (Path(local_dir) / pattern).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(store / pattern, Path(local_dir) / pattern)
        return str(local_dir)

    mock = Mock(side_effect=snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", mock)
    return mock


def test_samples_are_downloaded_and_read_in_order(hub: Mock, tmp_path: Path) -> None:
    sections = hd.datasets.hest(["SPA149", "SPA148"], tmp_path / "mine")
    assert [next(iter(s.shapes)) for s in sections] == ["SPA149", "SPA148"]


def test_only_missing_files_are_asked_for(hub: Mock, tmp_path: Path) -> None:
    hd.datasets.hest("SPA148", tmp_path)
    assert hub.call_count == 1
    hd.datasets.hest("SPA148", tmp_path)
    assert hub.call_count == 1
    (tmp_path / "wsis/SPA148.tif").unlink()
    hd.datasets.hest(["SPA148"], tmp_path)
    assert hub.call_args.kwargs["allow_patterns"] == ["wsis/SPA148.tif"]


def test_the_cache_is_the_default_place(hub: Mock) -> None:
    hd.datasets.hest("SPA148")
    assert (settings.cache_dir / "hest/st/SPA148.h5ad").exists()


def test_studies_are_the_published_lists() -> None:
    assert {name: len(samples) for name, samples in STUDIES.items()} == {
        "her2st": 36,
        "cscc": 12,
        "prad": 23,
        "dlpfc": 12,
    }
    assert "MEND155" not in STUDIES["prad"]
    # The sections that the study tested on.
    tested = {"her2st": "SPA148", "cscc": "NCBI759", "prad": "MEND145", "dlpfc": "MISC2"}
    assert all(sample in STUDIES[name] for name, sample in tested.items())


def test_a_study_asks_for_all_its_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    download = Mock()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(KeyError, match="no complete sample"):
        hd.datasets.hest("dlpfc", tmp_path)
    assert len(download.call_args.kwargs["allow_patterns"]) == 3 * 12


def test_a_sample_that_the_hub_lacks_is_named(hub: Mock, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"no complete sample \['SPA1'\]"):
        hd.datasets.hest(["SPA148", "SPA1"], tmp_path)


@pytest.mark.parametrize("ids", ["her2", "spa-148", ["SPA148", "x"]])
def test_a_name_that_is_neither_is_refused_before_any_download(hub: Mock, tmp_path: Path, ids: object) -> None:
    with pytest.raises(ValueError, match="neither a sample id .* nor a data set"):
        hd.datasets.hest(ids, tmp_path)
    assert not hub.called


def test_no_sample_and_wrong_types_are_refused(hub: Mock, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ids is empty"):
        hd.datasets.hest([], tmp_path)
    with pytest.raises(TypeError, match="int 148"):
        hd.datasets.hest([148], tmp_path)


def test_without_access_the_error_says_how_to_ask(hub: Mock, tmp_path: Path) -> None:
    hub.side_effect = GatedRepoError("403", response=Mock(headers={}, request=Mock()))
    with pytest.raises(PermissionError, match=r"huggingface.co/datasets/MahmoodLab/hest.*hf auth login"):
        hd.datasets.hest("SPA148", tmp_path)


def test_offline_the_error_names_what_is_missing(hub: Mock, tmp_path: Path) -> None:
    hub.side_effect = LocalEntryNotFoundError("no network")
    with pytest.raises(ConnectionError, match=r"\['SPA148'\] are not in .*offline"):
        hd.datasets.hest("SPA148", tmp_path)


def test_offline_what_is_there_is_read(hub: Mock, tmp_path: Path) -> None:
    write_sample(tmp_path, "SPA148")
    hub.side_effect = LocalEntryNotFoundError("no network")
    assert len(hd.datasets.hest("SPA148", tmp_path)) == 1
