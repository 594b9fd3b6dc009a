from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from hisdiff import encoders
from hisdiff.encoders._hub import fetch_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A stand-in for the hub: what it answers, and what it was asked."""

    status: int = 200
    error_code: str | None = None
    body: bytes = b"weights"
    files: tuple[str, ...] = ("model.safetensors",)
    requests: int = 0


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.requests += 1
            found = self.path.rpartition("/")[2] in state.files
            self.send_response(state.status if found else 404)
            error = state.error_code if found else "EntryNotFound"
            if error:
                self.send_header("X-Error-Code", error)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"abc"')
            self.send_header("Content-Length", str(len(state.body)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(state.body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def put_in_cache(folder: Path, repo: str, filename: str, content: bytes) -> Path:
    repository = folder / f"models--{repo.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    file = repository / "snapshots" / COMMIT / filename
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_cached_weights_are_used_without_asking_the_hub(hub, tmp_path):
    file = put_in_cache(tmp_path / "hub", "timm/resnet50.a1_in1k", "model.safetensors", b"old")
    assert fetch_weights("timm/resnet50.a1_in1k", ("model.safetensors",), "resnet50", []) == (file, COMMIT)
    assert hub.requests == 0


def test_weights_are_fetched_and_their_commit_is_known(hub):
    hub.files = ("pytorch_model.bin",)
    file, commit = fetch_weights("owner/name", ("model.safetensors", "pytorch_model.bin"), "some", [])
    assert file.read_bytes() == b"weights"
    assert commit == COMMIT


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (401, "RepoNotFound")])
def test_a_gated_encoder_without_access_says_where_to_ask_how_to_log_in_and_what_else_there_is(hub, status, code):
    hub.status, hub.error_code = status, code
    with pytest.raises(PermissionError) as caught:
        encoders.get("uni")
    assert hub.requests == 1  # no retries: they take half a minute
    for words in (
        "'uni'",
        "https://huggingface.co/MahmoodLab/UNI",
        "hf auth login",
        "HF_TOKEN",
        "h-optimus-0",
        "texture",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["uni", "resnet50"])
def test_offline_mode_is_respected_at_once(hub, monkeypatch, name):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE.*texture"):
        encoders.get(name)
    assert hub.requests == 0


def test_an_unreachable_hub_is_said_without_retries(hub, monkeypatch):
    point_to(monkeypatch, "http://127.0.0.1:9")
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(ConnectionError, match=r"cannot be reached.*Ask for access at .*MahmoodLab/UNI.*texture"):
        encoders.get("uni")
    assert not pauses


def test_a_failing_hub_is_no_question_of_access(hub):
    hub.status = 500
    with pytest.raises(ConnectionError, match="500"):
        encoders.get("resnet50")


def test_a_repository_without_weights_is_said(hub):
    hub.files = ()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        fetch_weights("owner/name", ("model.safetensors",), "some", ["texture"])


def test_phikon_without_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"hisdiff\[hf\]"):
        encoders.get("phikon-v2")
