"""Sharing, against a local stand-in for the hub."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import hisdiff as hd


class LocalHub:
    """Keeps repositories in a folder, with the calls of ``HfApi`` that are used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, token: str | None = None) -> LocalHub:
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"local://{repo_id}"

    def snapshot_download(self, repo_id: str, **_: object) -> str:
        if not (self.root / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline")
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> LocalHub:
    local = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", local)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", local.snapshot_download)
    return local


@pytest.fixture
def model(colored_model):
    return colored_model


def test_a_shared_model_comes_back_the_same(hub, model, colored_sections) -> None:
    assert model.push_to_hub("lab/breast") == "local://lab/breast"
    loaded = hd.models.load("lab/breast")
    assert loaded.id == model.id
    a, b = (hd.tl.predict(colored_sections[2], m, inplace=False) for m in (model, loaded))
    np.testing.assert_array_equal(a.X, b.X)


def test_the_card_names_what_a_reader_must_know(hub, model) -> None:
    model.push_to_hub("lab/breast")
    card = (hub.root / "lab/breast/README.md").read_text()
    for fact in (
        "s0, s1",
        "12 genes",
        "colour (revision 1",
        "licence CC0-1.0",
        "1 um per pixel",
        model.version,
        "library size taken out",
        "`alike` or `unlike`",
        "## Licence",
        'load("lab/breast")',
    ):
        assert fact in card, fact


@pytest.mark.parametrize(
    ("derivatives", "message"), [(None, "is unknown"), (False, "does not let models made with it be shared")]
)
def test_a_model_whose_encoder_does_not_allow_it_is_not_uploaded(hub, model, derivatives, message) -> None:
    model.cohort = replace(model.cohort, derivatives=derivatives, licence="CC-BY-NC-ND-4.0")
    with pytest.raises(PermissionError, match=message):
        model.push_to_hub("lab/breast")
    assert not (hub.root / "lab").exists()


def test_what_is_nowhere_is_said_to_be_nowhere(hub) -> None:
    with pytest.raises(FileNotFoundError, match="neither|no folder 'lab/none'"):
        hd.models.load("lab/none")
    with pytest.raises(FileNotFoundError, match="not a hub id of the form"):
        hd.models.load("just-a-name")


def test_spots_of_the_cohort_are_known_again_whole_cropped_and_reordered(model, colored_sections) -> None:
    table = colored_sections[0].tables["table"][:, list(model.genes)]
    assert model.cohort.contains(table.X.tocsr(), model.genes)
    assert model.cohort.contains(table.X.tocsr()[5:20], model.genes)
    assert model.cohort.contains(table.X.tocsr()[:, ::-1].tocsr(), model.genes[::-1])
    other = colored_sections[2].tables["table"][:, list(model.genes)]
    assert not model.cohort.contains(other.X.tocsr(), model.genes)
