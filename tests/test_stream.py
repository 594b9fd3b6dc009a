from __future__ import annotations

import errno
import subprocess
import sys

import numpy as np
import pytest

from hisdiff import _stream
from hisdiff._stream import Output

OUTPUTS = {
    "rows": Output((10, 3), (4, 3)),
    "plane": Output((2, 6, 10), (2, 4, 4), "float16", float("nan")),
}
# Ten rows and ten columns in tiles of two, neither a multiple of the chunks.
REGIONS = [
    {"rows": (slice(2 * k, 2 * k + 2),), "plane": (slice(None), slice(1, 5), slice(2 * k, 2 * k + 2))} for k in range(5)
]


def work(k: int) -> dict[str, np.ndarray]:
    return {"rows": np.full((2, 3), k, dtype=np.float32), "plane": np.full((2, 4, 2), k / 2)}


def test_tiles_on_disk_equal_tiles_in_memory(tmp_path):
    memory = _stream.run(None, {}, OUTPUTS, REGIONS, work)
    disk = _stream.run(tmp_path / "run", {}, OUTPUTS, REGIONS, work)
    assert isinstance(memory["rows"], np.ndarray)
    np.testing.assert_array_equal(memory["rows"], np.repeat(np.arange(5), 2)[:, None] * np.ones(3))
    assert np.isnan(memory["plane"][:, 0]).all()
    for name in OUTPUTS:
        assert disk[name].dtype == OUTPUTS[name].dtype
        np.testing.assert_array_equal(disk[name].compute(), memory[name])


def test_a_stopped_run_goes_on_from_its_finished_tiles(tmp_path):
    done = []

    def stops_at_tile_3(k: int) -> dict[str, np.ndarray]:
        if k == 3 and len(done) == 3:
            raise KeyboardInterrupt
        done.append(k)
        return work(k)

    with pytest.raises(KeyboardInterrupt):
        _stream.run(tmp_path / "run", {"seed": 0}, OUTPUTS, REGIONS, stops_at_tile_3)
    done.append("again")
    arrays = _stream.run(tmp_path / "run", {"seed": 0}, OUTPUTS, REGIONS, stops_at_tile_3)
    assert done == [0, 1, 2, "again", 3, 4]
    np.testing.assert_array_equal(arrays["rows"].compute(), _stream.run(None, {}, OUTPUTS, REGIONS, work)["rows"])


@pytest.mark.parametrize("change", ["plan", "chunks", "regions"])
def test_an_unfinished_run_of_another_plan_is_replaced(tmp_path, change):
    calls = []

    def counted(k: int) -> dict[str, np.ndarray]:
        calls.append(k)
        return work(k)

    _stream.run(tmp_path / "run", {"seed": 0}, OUTPUTS, REGIONS[:4], counted)
    outputs = {**OUTPUTS, "rows": Output((10, 3), (5, 3))} if change == "chunks" else OUTPUTS
    regions = REGIONS if change == "regions" else REGIONS[:4]
    _stream.run(tmp_path / "run", {"seed": int(change == "plan")}, outputs, regions, counted)
    assert len(calls) == 4 + len(regions)


def test_a_process_killed_while_it_writes_loses_only_that_tile(tmp_path):
    code = f"""
import os, numpy as np
from hisdiff import _stream
from tests_of_stream import OUTPUTS, REGIONS, work
record = _stream._record
def dies(place, k):
    if k == 2:
        with (place / _stream._FINISHED).open("a") as file:
            file.write("2")  # the line is cut off
        os._exit(9)
    record(place, k)
_stream._record = dies
_stream.run({str(tmp_path / "run")!r}, {{}}, OUTPUTS, REGIONS, work)
"""
    loader = (
        f"import importlib.util, sys; spec = importlib.util.spec_from_file_location('tests_of_stream', {__file__!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['tests_of_stream'] = module; spec.loader.exec_module(module)\n"
    )
    assert subprocess.run([sys.executable, "-c", loader + code], check=False).returncode == 9
    calls = []

    def counted(k: int) -> dict[str, np.ndarray]:
        calls.append(k)
        return work(k)

    arrays = _stream.run(tmp_path / "run", {}, OUTPUTS, REGIONS, counted)
    assert calls == [2, 3, 4]
    np.testing.assert_array_equal(arrays["rows"].compute(), _stream.run(None, {}, OUTPUTS, REGIONS, work)["rows"])


def test_a_full_disk_says_where_and_how_much_and_keeps_what_is_finished(tmp_path, monkeypatch):
    fill = _stream._fill

    def full(arrays, region, parts, k):
        if k == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fill(arrays, region, parts, k)

    monkeypatch.setattr(_stream, "_fill", full)
    with pytest.raises(
        OSError, match=r"tile 3 of 5 in .*run failed \(No space left.*GB are free.*2 finished"
    ) as caught:
        _stream.run(tmp_path / "run", {}, OUTPUTS, REGIONS, work)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(_stream, "_fill", fill)
    calls = []
    _stream.run(tmp_path / "run", {}, OUTPUTS, REGIONS, lambda k: (calls.append(k), work(k))[1])
    assert calls == [2, 3, 4]


def test_a_folder_that_no_run_made_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(FileExistsError, match="left alone"):
        _stream.run(tmp_path / "mine", {}, OUTPUTS, REGIONS, work)
    _stream.discard(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    _stream.run(tmp_path / "run", {}, OUTPUTS, REGIONS, work)
    _stream.discard(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_while_it_wrote_its_plan_is_begun_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".plan.json.0123456789ab").write_text('{"dig')
    _stream.run(tmp_path / "run", {}, OUTPUTS, REGIONS, work)
    _stream.discard(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tile_of_the_wrong_shape_or_name_is_an_error():
    with pytest.raises(ValueError, match=r"'rows' of shape \(2, 3\) and gave \(1, 3\)"):
        _stream.run(
            None, {}, {"rows": OUTPUTS["rows"]}, [{"rows": (slice(0, 2),)}], lambda k: {"rows": np.zeros((1, 3))}
        )
    with pytest.raises(ValueError, match="Tile 0 should give"):
        _stream.run(None, {}, OUTPUTS, REGIONS, lambda k: {"rows": np.zeros((2, 3))})
