from __future__ import annotations

import pytest

import hisdiff as hd
from hisdiff._settings import settings
from hisdiff._training import _loop as _training

TINY = {
    "scalings": ["standardized"], "gammas": [0.3], "penalties": [1.0, 5.0], "n_components": 4, "n_factors": 2,
    "width": 8, "depth": 1, "n_members": 1, "max_steps": 20, "validate_every": 5, "n_steps": 2, "patience": None,
}  # fmt: skip


def test_an_interrupted_fit_leaves_a_checkpoint_that_the_same_call_goes_on_from(
    colored_sections, monkeypatch, caplog
) -> None:
    train = colored_sections[:2]
    expected = hd.tl.fit(train, config=TINY)
    advance, calls = _training._Run.advance, []

    def interrupted(run) -> None:
        calls.append(run)
        if len(calls) == 8:
            raise KeyboardInterrupt
        advance(run)

    for sdata in train:
        sdata.attrs.clear()
    monkeypatch.setattr(_training._Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.tl.fit(train, config=TINY)
    assert "resume=True goes on from" in caplog.text
    assert all("hisdiff" not in sdata.attrs for sdata in train)
    monkeypatch.setattr(_training._Run, "advance", advance)
    resumed = hd.tl.fit(train, config=TINY, resume=True)
    assert resumed.id == expected.id
    assert not any((settings.cache_dir / "checkpoints").iterdir())


def test_the_checkpoint_of_a_fit_belongs_to_one_process_at_a_time(colored_sections, monkeypatch, caplog) -> None:
    train = colored_sections[:2]
    advance, inner = _training._Run.advance, []

    def meanwhile(run) -> None:
        if not inner:
            monkeypatch.setattr(_training._Run, "advance", advance)
            with pytest.raises(BlockingIOError, match="in use by process"):
                hd.tl.fit(train, config=TINY, resume=True)
            inner.append(hd.tl.fit(train, config=TINY))
        advance(run)

    monkeypatch.setattr(_training._Run, "advance", meanwhile)
    assert hd.tl.fit(train, config=TINY).id == inner[0].id
    assert "This fit leaves no checkpoints" in caplog.text
    assert not any((settings.cache_dir / "checkpoints").iterdir())
