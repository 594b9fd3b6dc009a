"""Cores and memory that a process may use, and work on several threads, each on one core."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import hisdiff as hd
from hisdiff import _cores, _log
from hisdiff._sdata._read import open_sections
from hisdiff.tl._fit_job import check_memory


def test_the_share_of_cores_is_what_the_process_may_use(monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    files = {"/sys/fs/cgroup/cpu.max": "max 100000"}

    def text(file: str) -> str:
        if file not in files:
            raise FileNotFoundError(file)
        return files[file]

    monkeypatch.setattr(_cores, "_text", text)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert _cores.cpu_share() == 8
    files["/sys/fs/cgroup/cpu.max"] = "350000 100000"
    assert _cores.cpu_share() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert _cores.cpu_share() == 2
    files["/sys/fs/cgroup/cpu.max"] = "5000 100000"
    assert _cores.cpu_share() == 1


def test_a_panel_that_does_not_fit_the_memory_of_the_container_is_refused_with_the_figures(
    make_section, monkeypatch, caplog
) -> None:
    section = make_section(side=5)
    hd.pp.select_genes(section)
    files = {"/sys/fs/cgroup/memory.max": "10000", "/sys/fs/cgroup/memory.current": "8000"}
    monkeypatch.setattr(_cores, "_text", lambda file: files.get(file, "max"))
    with pytest.raises(
        ValueError, match=r"Fitting 12 genes on 25 spots takes at least 3.6e-06 GB .* 2e-06 GB are free.*about 1 fit"
    ):
        hd.tl.fit(section, method="ridge")
    assert "hisdiff_embedding" not in section.tables["table"].obsm  # said before any work
    files["/sys/fs/cgroup/memory.stat"] = (
        "anon 7000\ninactive_file 1000\n"  # files that were read make room when it is needed
    )
    files["/sys/fs/cgroup/memory.max"] = "12000"
    check_memory(open_sections(section, needs={"counts"}), 12)
    assert "Fitting 12 genes on 25 spots takes about 1.5e-05 GB of memory, and 5e-06 GB are free" in caplog.text


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_threads_have_one_core_each_and_leave_the_libraries_as_they_were(monkeypatch) -> None:
    monkeypatch.setattr(_cores, "_quotas", lambda: [3.0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    np.ones((2, 2)) @ np.ones((2, 2))
    before, meet = blas_threads(), threading.Barrier(3, timeout=20)

    def work(number: int) -> tuple[int, int, list[int]]:
        if number < 3:
            meet.wait()  # three are at work at once
        return number**2, _cores.cpu_share(), blas_threads()

    found = dict(_cores.on_threads(work, range(10)))
    assert {number: square for number, (square, *_) in found.items()} == {n: n**2 for n in range(10)}
    assert all(share == 1 and set(threads) <= {1} for _, share, threads in found.values())
    assert (blas_threads(), _cores.cpu_share()) == (before, 3)
    # No more than fit into half of the memory.
    monkeypatch.setattr(_cores, "free_memory", lambda: 100)
    here = threading.get_ident()
    assert all(of == here for _, of in _cores.on_threads(lambda _: threading.get_ident(), range(3), needs_bytes=40))


def test_a_fit_takes_no_more_threads_than_the_container_has_cores_and_gives_them_back(monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    with threadpool_limits(4, user_api="blas"):
        threads = torch.get_num_threads()
        torch.set_num_threads(4)
        try:
            for share, used in ((2, 2), (8, 4)):
                monkeypatch.setattr(_cores, "cpu_share", lambda share=share: share)
                with _cores.own_cores():
                    assert {*blas_threads(), torch.get_num_threads()} == {used}
                    assert {*_cores.one_core()(blas_threads)()} == {1}
                assert {*blas_threads(), torch.get_num_threads()} == {4}
        finally:
            torch.set_num_threads(threads)


def test_an_error_on_a_thread_ends_the_rest(monkeypatch) -> None:
    monkeypatch.setattr(_cores, "cpu_share", lambda: 2)
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        if number == 1:
            raise KeyError("of work")

    with pytest.raises(KeyError, match="of work"):
        list(_cores.on_threads(work, range(100)))
    assert len(begun) < 10


def test_parts_of_a_step_show_no_bars_and_say_nothing(monkeypatch, caplog, capsys) -> None:
    monkeypatch.setattr(_log, "ESTIMATE_S", 0.0)
    monkeypatch.setattr(_log, "LONG_S", 0.0)
    with _log.part_of_a_step():
        for _ in _log.progress(range(3), desc="inside", enabled=True):
            time.sleep(0.002)
    assert (caplog.text, capsys.readouterr().err) == ("", "")
    for _ in _log.progress(range(3), desc="outside", enabled=False):
        time.sleep(0.002)
    assert "outside: 3 steps" in caplog.text


def test_products_over_few_rows_stay_on_one_core_and_those_over_many_do_not() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        with _cores.cores_for(700):
            assert set(blas_threads()) == {1}
        with _cores.cores_for(100_000):
            assert set(blas_threads()) == {2}
