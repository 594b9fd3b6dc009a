from __future__ import annotations

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
    with pytest.raises(ValueError, match="no folder of a hisdiff model"):
        read_folder(tmp_path)
