from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hisdiff._log import logger, progress
from hisdiff._settings import settings


def test_override_restores_settings_even_after_an_error() -> None:
    before = settings.device
    changed = settings.override(device="cuda:7")
    with pytest.raises(ZeroDivisionError), changed:
        _ = 1 / 0
    assert settings.device == before


def test_unknown_settings_and_values_are_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no setting 'devcie'"):
        settings.devcie = "cpu"
    with pytest.raises(ValueError, match="verbosity is one of"):
        settings.verbosity = "loud"
    with pytest.raises(ValueError, match="precision is one of"):
        settings.precision = "fp8"


def test_verbosity_sets_the_level_of_the_one_logger() -> None:
    with settings.override(verbosity="error"):
        assert logger.level == logging.ERROR
    assert logger.level == logging.INFO


def test_cache_dir_becomes_a_path_with_the_home_folder_filled_in() -> None:
    with settings.override(cache_dir="~/somewhere"):
        assert settings.cache_dir == Path.home() / "somewhere"


def test_messages_reach_the_logging_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hisdiff"):
        logger.info("one line")
    assert "one line" in caplog.text


def test_progress_passes_items_through_and_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), desc="x", enabled=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
