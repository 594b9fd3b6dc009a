from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import spatialdata
from spatialdata.models import Labels2DModel

from hisdiff import _files
from hisdiff._sdata import _journal
from hisdiff._sdata._provenance import check_free
from hisdiff._sdata._store import put


@pytest.fixture
def backed(make_section, tmp_path):
    make_section(side=2).write(tmp_path / "a.zarr")
    return spatialdata.read_zarr(tmp_path / "a.zarr")


def labels(value: int, side: int = 8):
    return Labels2DModel.parse(np.full((side, side), value, np.int32), dims=("y", "x"))


def read(sdata):
    found = spatialdata.read_zarr(sdata.path)
    return {name: int(np.asarray(element).max()) for name, element in found.labels.items()}


def hidden(sdata) -> list[str]:
    return (
        sorted(path.name for path in sdata.path.glob(".hisdiff/*")) if (sdata.path / ".hisdiff").exists() else ["none"]
    )


def test_consolidated_metadata_is_what_zarr_makes_of_it(backed):
    import zarr

    put(backed, {"one": labels(1)}, {})
    ours = _journal.read_root(backed.path)["consolidated_metadata"]
    with pytest.warns() as _:
        zarr.consolidate_metadata(backed.path)
    assert ours == _journal.read_root(backed.path)["consolidated_metadata"]


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 5, 6])
def test_what_a_dead_process_had_begun_is_finished_or_removed(backed, monkeypatch, killed_at):
    put(backed, {"one": labels(1)}, {"one": {"run": 1}})
    steps = []

    def dies_at(function):
        def step(*args, **kwargs):
            steps.append(function)
            if len(steps) == killed_at:
                raise SystemExit
            return function(*args, **kwargs)

        return step

    monkeypatch.setattr(_journal, "write_text", dies_at(_files.write_text))
    monkeypatch.setattr(_journal, "put_in_place", dies_at(_files.put_in_place))
    monkeypatch.setattr(_journal.shutil, "rmtree", lambda *args, **kwargs: None)  # a dead process tidies nothing
    with contextlib.suppress(SystemExit):
        put(backed, {"one": labels(5, side=30), "two": labels(7)}, {"one": {"run": 2}})
    monkeypatch.undo()
    between = read(backed)
    assert between["one"] in (1, 5)
    _journal.settle(backed.path)
    assert read(backed) == ({"one": 1} if killed_at == 1 else {"one": 5, "two": 7})
    assert hidden(backed) == ["none"]
    assert _journal.stored_notes(backed.path)["one"] == {"run": 1 if killed_at == 1 else 2}
    assert spatialdata.read_zarr(backed.path).has_consolidated_metadata()
    assert json.loads((backed.path / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"] == sorted(
        read(backed)
    )


def test_metadata_that_was_half_written_is_not_moved_into_the_store(backed, monkeypatch):
    def dies(path, text, scratch=None):
        if path.parent.name == ".labels":
            ((scratch or path.parent) / f".{path.name}.half").write_text(text[:9])
            raise SystemExit
        _files.write_text(path, text, scratch)

    monkeypatch.setattr(_journal, "write_text", dies)
    monkeypatch.setattr(_journal.shutil, "rmtree", lambda *args, **kwargs: None)
    assert not (backed.path / "labels").exists()
    with contextlib.suppress(SystemExit):
        put(backed, {"one": labels(1)}, {})
    monkeypatch.undo()
    _journal.settle(backed.path)
    assert read(backed) == {"one": 1}
    assert not list(backed.path.rglob(".zarr.json*"))


def test_without_exchange_the_store_opens_in_between_and_nothing_is_lost(backed, monkeypatch):
    put(backed, {"one": labels(1)}, {})
    monkeypatch.setattr(_files, "_exchange", lambda one, other: False)
    put(backed, {"one": labels(2)}, {})
    assert read(backed) == {"one": 2}
    assert hidden(backed) == ["none"]


def test_what_a_user_keeps_under_our_names_is_left_alone(backed):
    kept = [backed.path / ".hisdiff" / name / "mine.txt" for name in ("change-1", "notes", "run-one")]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.write_text("years of work")
    put(backed, {"one": labels(1)}, {})
    assert all(file.read_text() == "years of work" for file in kept)


def test_a_second_writer_is_told_who_holds_the_store(backed, monkeypatch):
    with _files.locked(backed.path / ".hisdiff" / "lock", "The store"):
        with (
            pytest.raises(BlockingIOError, match=f"process {os.getpid()}"),
            _files.locked(backed.path / ".hisdiff" / "lock", "The store", wait_s=0.1),
        ):
            pass
        thread = threading.Thread(target=put, args=(backed, {"one": labels(1)}, {}))
        thread.start()
    thread.join()
    assert read(backed) == {"one": 1}


def test_a_folder_that_its_last_holder_removes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    real, tried = Path.mkdir, []

    def raced(path, *args, **kwargs):
        tried.append(path)
        if len(tried) == 1:  # it was there when it was to be made, and is gone when it is looked at
            raise FileExistsError(errno.EEXIST, "File exists")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", raced)
    with _files.locked(tmp_path / "hidden" / "lock", "the store"):
        assert (tmp_path / "hidden" / "lock").exists()
    assert len(tried) == 2


def test_elements_that_another_process_made_are_known_as_ours(backed):
    other = spatialdata.read_zarr(backed.path)
    put(backed, {"one": labels(1)}, {"one": {"run": 1}})
    check_free(other, "one")
    put(other, {"one": labels(2)}, {"one": {"run": 2}})
    assert read(backed) == {"one": 2}


def test_a_store_that_cannot_be_written_is_named_before_anything_is(backed):
    (backed.path / ".hisdiff").write_text("no folder")
    with pytest.raises(OSError, match="The store .*a.zarr cannot be written"):
        put(backed, {"one": labels(1)}, {})
    assert read(backed) == {}


_WRITER = """
import sys
import numpy as np, spatialdata
from spatialdata.models import Labels2DModel
from hisdiff._sdata._store import put
path, name = sys.argv[1:]
sdata = spatialdata.read_zarr(path)
for run in range(3):
    put(sdata, {name: Labels2DModel.parse(np.full((8, 8), run + 1, np.int32), dims=("y", "x"))}, {name: {"run": run}})
"""


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(backed):
    names = ["one", "two", "three"]
    processes = [subprocess.Popen([sys.executable, "-c", _WRITER, str(backed.path), name]) for name in names]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert read(backed) == dict.fromkeys(names, 3)
    assert _journal.stored_notes(backed.path) == dict.fromkeys(names, {"run": 2})
    assert hidden(backed) == ["none"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of a file's size")
def test_where_files_cannot_grow_the_store_is_as_it_was(backed):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    noise = "np.random.default_rng(0).integers(1, 9, (900, 900), dtype=np.int32)"
    code = f"{limit}{_WRITER}".replace("np.full((8, 8), run + 1, np.int32)", noise)
    run = subprocess.run([sys.executable, "-c", code, str(backed.path), "one"], capture_output=True, text=True)
    assert "OSError" in run.stderr
    assert "GB are free there" in run.stderr
    assert read(backed) == {}
    assert hidden(backed) == ["none"]
