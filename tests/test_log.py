"""How long steps are followed: bars where they can be seen, else lines in the log."""

import logging
import textwrap
import warnings

import pytest

import hisdiff as hd
from hisdiff import _log
from hisdiff._log import duration, libraries_silent, progress


def test_a_step_that_ends_early_fills_its_bar_and_says_why(capsys):
    with progress(desc="fitting", total=300, enabled=True, keep=True) as bar:
        bar.update(100)
        bar.stop("stopped early: best at step 25")
    assert bar.bar.n == bar.bar.total == 100
    last = capsys.readouterr().err.split("\r")[-1]
    assert "fitting: 100%" in last
    assert "stopped early: best at step 25" in last


def test_a_step_that_cannot_be_followed_is_announced_where_it_is_long(caplog):
    _log.announce("clustering 9 bins", 4.0)
    _log.announce("clustering 900 bins", 40.0)
    assert caplog.messages == ["clustering 900 bins: about 40 s"]


def test_without_a_bar_a_long_step_is_told_once_with_its_size_and_time(monkeypatch, caplog):
    monkeypatch.setattr(_log, "ESTIMATE_S", 0.0)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(_log.time, "monotonic", lambda: float(next(clock)))
    assert list(progress(range(40), desc="embedding 'C5'", unit="patches", enabled=False)) == list(range(40))
    assert caplog.messages == ["embedding 'C5': 40 patches, about 80 s"]
    caplog.clear()
    list(progress(range(2), desc="short", enabled=False))
    assert not caplog.messages


def test_a_long_first_unit_of_many_does_not_enter_the_time_that_is_announced(monkeypatch, caplog):
    monkeypatch.setattr(_log, "ESTIMATE_S", 0.0)
    clock = iter([0, *range(1000, 2000, 2)])
    monkeypatch.setattr(_log.time, "monotonic", lambda: float(next(clock)))
    list(progress(range(40), desc="fitting", enabled=False))
    assert caplog.messages == ["fitting: 40 steps, about 80 s"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (7.4, "7 s"), (33, "35 s"), (200, "3 min"), (8000, "2.2 h")]
)
def test_durations_are_rounded_to_what_is_known(seconds, told):
    assert duration(seconds) == told


def test_the_console_stays_clean(capsys, make_section):
    sdata = make_section()
    with warnings.catch_warnings(record=True) as caught:
        hd.tl.enrich(
            sdata,
            {"none of them": ["B01", "B03"], "A": ["A00", "A02"]},
            layer="X",
            by={"A": ["A04", "A06"]},
            min_size=1,
        )
    assert "[ERROR]" not in "".join(capsys.readouterr())
    assert not caught
    with libraries_silent():
        logging.getLogger("some library").error("never seen")
    assert logging.root.manager.disable == 0


@pytest.mark.slow
def test_a_notebook_shows_bars_that_end_full_and_green_and_only_warnings_in_red(tmp_path):
    pytest.importorskip("ipywidgets")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    code = """
    from hisdiff._log import logger, progress
    with progress(desc="fitting", total=300, keep=True) as bar:
        bar.update(100); bar.stop("stopped early: best at step 25")
    logger.info("calm")
    logger.warning("loud")
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    states = [
        each["state"]
        for each in notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    ]
    bar = next(state for state in states if state.get("_model_name") == "FloatProgressModel")
    assert (bar["value"], bar["max"], bar["bar_style"]) == (100, 100, "success")
    assert any("stopped early" in str(state.get("value")).replace("\u2007", " ") for state in states)
    printed = {output["name"]: output["text"] for output in notebook.cells[0].outputs if output.output_type == "stream"}
    assert printed == {"stdout": "hisdiff: calm\n", "stderr": "hisdiff: loud\n"}
