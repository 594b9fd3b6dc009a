from __future__ import annotations

import os

import numpy as np
import pytest

from hisdiff._training._checkpoint import WEIGHTS, read_folder, write_folder

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], dtype=np.uint64)}


def test_what_is_written_is_read_back_bit_by_bit(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {"x": [1, 2.5, None]}, "genes.txt": "A\nB\n"})
    arrays, files = read_folder(tmp_path / "m")
    assert files == {"config.json": {"x": [1, 2.5, None]}, "genes.txt": "A\nB\n"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_a_failed_write_leaves_the_former_folder_and_nothing_beside_it(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {"run": 1}})
    with pytest.raises(TypeError):
        write_folder(tmp_path / "m", ARRAYS, {"config.json": {"run": object()}})
    assert read_folder(tmp_path / "m")[1]["config.json"] == {"run": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_is_replaced_whole(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"old.json": {}})
    write_folder(tmp_path / "m", {"a": ARRAYS["a"]}, {})
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [WEIGHTS]


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="left alone"):
        write_folder(tmp_path / "thesis", ARRAYS, {})
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_damaged_files_are_refused_by_name(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {"x": 1}})
    weights = tmp_path / "m" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="truncated or no safetensors"):
        read_folder(tmp_path / "m")
    weights.write_bytes(whole)
    (tmp_path / "m" / "config.json").write_text('{"x": ')
    with pytest.raises(ValueError, match="config.json is truncated"):
        read_folder(tmp_path / "m")
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="not the folder of a hisdiff model"):
        read_folder(tmp_path)


def test_what_a_dead_process_left_is_removed_and_a_users_folder_is_not(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {}})
    around = tmp_path / ".m.hisdiff"
    for name, file in (("new-1", WEIGHTS), ("old-2", "config.json"), ("new-3", "thesis.tex"), ("new-4", ".tmp7vEVMY")):
        (around / name).mkdir(parents=True)
        (around / name / file).write_text("half")
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {"run": 2}})
    assert [path.name for path in around.iterdir()] == ["new-3"]
    assert read_folder(tmp_path / "m")[1]["config.json"] == {"run": 2}


def test_a_folder_that_was_moved_away_and_not_replaced_comes_back(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {"run": 1}})
    (tmp_path / ".m.hisdiff").mkdir()
    (tmp_path / "m").rename(tmp_path / ".m.hisdiff" / "old-1")
    with pytest.raises(TypeError):
        write_folder(tmp_path / "m", ARRAYS, {"config.json": {"run": object()}})
    assert read_folder(tmp_path / "m")[1]["config.json"] == {"run": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_others_may_read_what_the_mask_lets_them(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "m", ARRAYS, {"config.json": {}})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m", *(tmp_path / "m").iterdir())}
    assert modes == {"m": 0o750, WEIGHTS: 0o640, "config.json": 0o640}


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_links_out_of_the_folder_and_pipes_are_not_read(tmp_path, name) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {}})
    file = tmp_path / "m" / name
    file.rename(tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=f"{name} is a link that leads out"):
        read_folder(tmp_path / "m")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=f"{name} is not a regular file"):
        read_folder(tmp_path / "m")


def test_text_that_is_nested_too_deep_or_too_long_is_refused(tmp_path) -> None:
    write_folder(tmp_path / "m", ARRAYS, {"config.json": {}})
    (tmp_path / "m" / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config.json is truncated or no JSON"):
        read_folder(tmp_path / "m")
    with (tmp_path / "m" / "config.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"config.json has .* MB"):
        read_folder(tmp_path / "m")
