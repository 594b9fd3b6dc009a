"""The scripts in the docs for a cluster, run on two slides; commands that go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import spatialdata as sd
import tifffile

import hisdiff as hd
from hisdiff._cli import main

SCRIPTS = Path(__file__).parents[2] / "docs" / "scripts"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A model, the store of its section, two slides, and a ``hisdiff`` that is found first."""
    home = tmp_path_factory.mktemp("cohort")
    section = hd.datasets.toy(seed=3, size_um=500)
    hd.pp.embed(section)
    hd.tl.fit(section, method="ridge", save=home / "model")
    section.write(home / "train.zarr")
    pixels = sd.get_pyramid_levels(section.images["toy_image"], n=0).transpose("y", "x", "c").to_numpy()
    (home / "slides").mkdir()
    for name, part in (("one", pixels[:600]), ("two (2)", pixels[200:])):
        tifffile.imwrite(
            home / "slides" / f"{name}.tif", part, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3
        )
    command = home / "bin" / "hisdiff"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hisdiff "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    return home


def run(cohort: Path, *line: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{cohort / 'bin'}:{os.environ['PATH']}", **variables}
    return subprocess.run(line, cwd=cohort, env=environment, capture_output=True, text=True, check=False)


def test_tasks_of_an_array_predict_one_slide_each_and_go_on(cohort) -> None:
    (cohort / "slides.txt").write_text("".join(f"{file}\n" for file in sorted((cohort / "slides").iterdir())))
    script = ("bash", str(SCRIPTS / "slurm_array.sh"), "slides.txt", "model", "stores")
    for task, name in (("0", "one"), ("1", "two (2)")):
        done = run(cohort, *script, SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1")
        assert done.returncode == 0, done.stderr
        (told,) = json.loads((cohort / "stores" / "reports" / f"{name}.json").read_text())["results"]
        assert told["status"] == "done"
        assert "ridge" in sd.read_zarr(cohort / told["store"]).tables["lattice"].layers
    assert run(cohort, *script, SLURM_ARRAY_TASK_ID="0").returncode == 0
    assert json.loads((cohort / "stores" / "reports" / "one.json").read_text())["results"][0]["status"] == "unchanged"
    missing = run(cohort, *script, SLURM_ARRAY_TASK_ID="2")
    assert (missing.returncode, "slides.txt has no line 3" in missing.stderr) == (2, True)


def test_the_rule_of_snakemake_makes_what_it_promises(cohort) -> None:
    rules = (SCRIPTS / "Snakefile").read_text()
    shell = re.search(r'shell:\s*"(.*)"', rules)[1]
    out = cohort / "rule"
    (out / "reports").mkdir(parents=True)
    values = {
        "threads": "1", "input.slide:q": "'slides/one.tif'", "input.model:q": "model", "params.out:q": str(out),
        "params.options": "--n-draws 2", "output:q": str(out / "reports" / "one.json"),
    }  # fmt: skip
    assert set(re.findall(r"{([^}]*)}", shell)) == set(values)
    line = re.sub(r"{([^}]*)}", lambda name: values[name[1]], shell)
    done = run(cohort, "bash", "-c", line)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "reports" / "one.json").read_text())["results"][0]["status"] == "done"


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_snakemake_predicts_all_slides_and_has_nothing_left_to_do(cohort) -> None:
    line = [
        "snakemake",
        "--cores",
        "1",
        "--snakefile",
        str(SCRIPTS / "Snakefile"),
        "--config",
        "slides=slides",
        "model=model",
    ]
    for told in ("3 of 3 steps", "Nothing to be done"):
        done = run(cohort, *line, "out=snake", "options=--n-draws 2")
        assert done.returncode == 0, done.stderr
        assert told in done.stderr + done.stdout
    for name in ("one", "two (2)"):
        (report,) = json.loads((cohort / "snake" / "reports" / f"{name}.json").read_text())["results"]
        assert "ridge" in sd.read_zarr(cohort / report["store"]).tables["lattice"].layers


def test_a_model_is_adapted_and_one_of_another_configuration_is_not_taken_for_it(cohort, capsys) -> None:
    train, model = str(cohort / "train.zarr"), str(cohort / "model")
    assert main(["adapt", train, "--model", model, "--save", str(cohort / "adapted"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["n_spots"] > 0
    again = ["fit", train, "--save", model, "--method", "ridge", "--resume", "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["status"] == "unchanged"
    assert main([*again, "--seed", "5"]) == 1
    assert "holds a model of another configuration (seed 0, asked for is 5)" in capsys.readouterr().err
    other = hd.datasets.toy(seed=4, size_um=500)
    other.tables["table"].var["hisdiff_selected"] = True
    hd.pp.embed(other, patch_um=200)
    other.write(cohort / "other.zarr")
    again[1] = str(cohort / "other.zarr")
    assert main(again) == 1
    told = capsys.readouterr().err
    assert "model holds a model of other data (" in told
    assert "spots with counts, of which 0 are among the" in told
    assert "embedding texture 1, patch 313.6 um, the sections have texture 1, patch 200 um" in told
