"""Work on the workers of a dask client gives the same bytes as here, whatever happens to a worker; bad clusters are refused."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff import _workers

distributed = pytest.importorskip("distributed")
slow = pytest.mark.slow  # processes are started
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of distributed, whose sockets close late
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two processes on this machine, which find the encoder of the tests and what else is defined here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of files, but for the name of the folder that is noted in them."""
    names = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes().replace(str(folder).encode(), b"") for path, name in names.items()}


class Slow:
    """Squares numbers; the first time a worker kills itself half-way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, number: int) -> int:
        if number == 3 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2


@slow
def test_a_worker_that_dies_is_made_up_for(client, tmp_path) -> None:
    found = dict(_workers.spread(Slow(tmp_path / "mark"), range(1, 9), "squares"))
    assert found == {number: (number + 1) ** 2 for number in range(8)}
    assert (tmp_path / "mark").exists()


class Noted:
    """Notes each time that it is unpickled; says where it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)
        (self.folder / f"{os.getpid()}_{time.monotonic_ns()}").touch()

    def __call__(self, number: int) -> int:
        time.sleep(0.05)
        return os.getpid()


@slow
def test_a_worker_prepares_once_for_all_parts_and_forgets_it_afterwards(client, tmp_path) -> None:
    client.wait_for_workers(2)
    done_by = [pid for _, pid in _workers.spread(Noted(tmp_path), range(12), "parts")]
    prepared = [int(path.name.split("_")[0]) for path in tmp_path.iterdir()]
    assert sorted(prepared) == sorted(set(done_by))
    kept = lambda: sys.modules["hisdiff._sent_work"]._PREPARED  # noqa: E731
    end = time.monotonic() + 10
    while any(client.run(kept).values()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(client.run(kept).values())


@pytest.fixture
def stores(make_section, color_encoder, tmp_path) -> list[Path]:
    made = [make_section(f"s{i}", seed=i, side=4) for i in range(2)]
    hd.pp.select_genes(made)
    for section in made:
        section.write(tmp_path / f"{list(section.shapes)[0]}.zarr")
    return [tmp_path / f"s{i}.zarr" for i in range(2)]


def everything(stores: list[Path], folder: Path, encoder) -> dict[str, bytes]:
    """Embed, lay a grid, fit and predict, on copies of stores; return the bytes of all that is there afterwards."""
    sections = [sd.read_zarr(shutil.copytree(store, folder / store.name)) for store in stores]
    hd.pp.embed(sections, encoder, batch_size=4)
    hd.pp.grid(sections, 25)
    model = hd.tl.fit(sections, method="ridge", save=folder / "model", encoder=encoder)
    hd.tl.predict(sections, model, n_draws=2)
    for section in sections:
        hd.io.save(section)
    hd.tl.predict(sections, model, resolution_um=25, n_draws=2, encoder=encoder)
    return files_of(folder)


@slow
def test_the_same_bytes_as_alone_and_with_a_worker_killed_on_the_way(
    cluster, stores, tmp_path, monkeypatch, color_encoder
) -> None:
    from hisdiff.encoders import _embed
    from hisdiff.pp import _grid
    from hisdiff.tl import _fine

    monkeypatch.setattr(_embed, "_PART", 8)
    monkeypatch.setattr(_grid, "_MAX_CHUNKS", 1)
    monkeypatch.setattr(_grid, "_CHUNK_VALUES", 1)
    monkeypatch.setattr(_fine, "_TILE_VALUES", 1)
    alone = everything(stores, tmp_path / "alone", color_encoder)
    pid = next(iter(cluster.workers.values())).process.pid
    killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    with distributed.Client(cluster):
        killer.start()
        together = everything(stores, tmp_path / "together", color_encoder)
    killer.join()
    different = sorted(name for name in alone.keys() | together.keys() if alone.get(name) != together.get(name))
    assert different == []


@slow
def test_folds_and_comparisons_are_those_of_a_run_alone(cluster, colored_sections, tmp_path) -> None:
    columns = ["method", "fold", "section", "pcc_all", "mse", "energy_score"]
    with distributed.Client(cluster):
        together = hd.tl.cross_validate(colored_sections, ["ridge"], n_draws=2, save=tmp_path)
        assert len(list(tmp_path.glob("*.json"))) == 3
        compared = hd.tl.compare(colored_sections[:2], colored_sections[2], ["ridge"], n_seeds=2, n_draws=2)
    alone = hd.tl.cross_validate(colored_sections, ["ridge"], n_draws=2)
    assert together[columns].equals(alone[columns])
    again = hd.tl.compare(colored_sections[:2], colored_sections[2], ["ridge"], n_seeds=2, n_draws=2)
    assert compared[columns[2:]].equals(again[columns[2:]])


@slow
def test_workers_that_cannot_do_it_are_refused_before_the_work(client, stores, monkeypatch, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"Worker tcp.* does not see the store .*nowhere.zarr; put it on a disk"):
        _workers.check_stores("this", [tmp_path / "nowhere.zarr"])
    with pytest.raises(
        ValueError, match=r"store nowhere.zarr; workers run in other folders: open it by its whole path, /"
    ):
        _workers.check_stores("this", [Path("nowhere.zarr")])
    with pytest.raises(
        ValueError, match=r"may use .* GB of memory, and squares takes about 1000000.* GB on its 1 thread"
    ):
        list(_workers.spread(Slow(tmp_path), range(3), "squares", needs_bytes=10**15))
    monkeypatch.setattr(_workers, "VERSION", "99.0")
    with pytest.raises(ValueError, match=r"has hisdiff .*, this process 99.0; install the same on all"):
        list(_workers.spread(Slow(tmp_path), range(3), "squares"))


def test_a_worker_that_ends_while_it_is_asked_is_none(client, monkeypatch) -> None:
    from distributed.comm import CommClosedError

    told = []

    def with_a_dead_one(self, *args, **kwargs):
        answers = asked(self, *args, **kwargs)
        told.append(answers)
        return {**(answers if len(told) > 1 else {}), "tcp://127.0.0.1:1": CommClosedError("reset by peer")}

    asked = distributed.Client.sync
    with monkeypatch.context() as patched:
        patched.setattr(distributed.Client, "sync", with_a_dead_one)
        assert _workers._check_workers(client, "this", [], 0) == len(told[-1])
    assert len(told) == 2  # asked again where none was left


def test_a_scheduler_that_has_gone_is_named(tmp_path) -> None:
    cluster = distributed.LocalCluster(n_workers=0, dashboard_address=":0")
    with distributed.Client(cluster) as client:
        with pytest.raises(ValueError, match="has no workers"):
            list(_workers.spread(Slow(tmp_path), range(3), "squares"))
        address = client.scheduler.addr
        cluster.close()
        told = f"scheduler {address}(, .* lost it and is closed; make a new client| does not answer.*close the client)"
        with pytest.raises(ConnectionError, match=told):
            list(_workers.spread(Slow(tmp_path), range(3), "squares"))


@pytest.mark.parametrize("by", ["scheduler", "user"])
def test_a_client_that_lost_its_scheduler_between_two_calls_is_named_once(by, caplog) -> None:
    cluster = distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0")
    client = distributed.Client(cluster.scheduler_address, timeout=0.5)
    with cluster:
        assert dict(_workers.spread(abs, range(3), "numbers")) == {0: 0, 1: 1, 2: 2}
        address = client.scheduler.addr
        if by == "user":
            client.close()
    stop = time.monotonic() + 10
    while client.status != "closed" and time.monotonic() < stop:
        time.sleep(0.05)
    for _ in range(2):
        assert dict(_workers.spread(abs, range(3), "numbers")) == {0: 0, 1: 1, 2: 2}
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name == "hisdiff" and "lost it" in record.getMessage()
    ]
    assert len(told) == (by == "scheduler")
    assert all(address in message for message in told)


class Sleeps:
    """Takes a while."""

    def __call__(self, number: int) -> int:
        time.sleep(0.5)
        return number


def test_workers_that_all_leave_and_do_not_come_back_are_an_error_and_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(_workers, "_LOOK_S", 0.1)
    monkeypatch.setattr(_workers, "_LOST_S", 0.5)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, distributed.Client(cluster):
        parts = _workers.spread(Sleeps(), range(40), "naps")
        number, value = next(parts)
        assert number == value
        cluster.scale(0)
        with pytest.raises(ConnectionError, match="All workers of .* were lost in naps"):
            list(parts)
