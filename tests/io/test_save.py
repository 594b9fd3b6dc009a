"""Tables of a backed object are written back to its store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff._sdata import _journal


@pytest.fixture
def backed(make_section, tmp_path: Path) -> sd.SpatialData:
    sdata = make_section()
    sdata.write(tmp_path / "s.zarr")
    return sd.read_zarr(tmp_path / "s.zarr")


def test_what_was_added_to_a_table_is_stored(backed, color_encoder, caplog) -> None:
    hd.pp.select_genes(backed)
    hd.pp.embed(backed, color_encoder)
    hd.io.save(backed)
    again = sd.read_zarr(backed.path).tables["table"]
    table = backed.tables["table"]
    np.testing.assert_array_equal(again.obsm["hisdiff_embedding"], table.obsm["hisdiff_embedding"])
    assert again.var["hisdiff_selected"].equals(table.var["hisdiff_selected"])
    assert again.uns["hisdiff"]["embedding"]["encoder"] == "colour"
    assert "wrote 'tissue_s1_image', 'table' to" in caplog.text
    assert "tissue_s1_image" in sd.read_zarr(backed.path).shapes
    caplog.clear()
    hd.io.save(sd.read_zarr(backed.path))
    assert "is up to date" in caplog.text


def test_a_table_of_the_users_stays_the_users(backed) -> None:
    backed.tables["table"].obs["note"] = "x"
    hd.io.save(backed)
    again = sd.read_zarr(backed.path)
    assert (again.tables["table"].obs["note"] == "x").all()
    assert not again.attrs.get("hisdiff", {}).get("written")
    assert not list((Path(backed.path) / ".hisdiff").glob("change-*"))


def test_an_interrupted_save_leaves_the_old_table(backed, monkeypatch) -> None:
    backed.tables["table"].obs["note"] = "x"
    monkeypatch.setattr(_journal, "commit", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        hd.io.save(backed)
    assert "note" not in sd.read_zarr(backed.path).tables["table"].obs


def test_an_object_without_a_store_is_refused(make_section) -> None:
    with pytest.raises(ValueError, match=r"sdata\.write"):
        hd.io.save(make_section())


def test_what_an_ended_process_left_is_cleared_where_nothing_else_changed(backed) -> None:
    left = Path(backed.path) / ".hisdiff" / "change-0123456789ab"
    (left / "replaced").mkdir(parents=True)
    hd.io.save(backed)
    assert not left.exists()
