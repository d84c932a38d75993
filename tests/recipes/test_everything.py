"""The whole embedded world: all steps in miniature, and where their commands write."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import tyro

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from recipes.avatars import everything
from recipes.avatars.everything import PHASES, SMOKE, EverythingConfig, chosen, make, steps
from recipes.avatars.manifest import FOLDER, MODELS
from recipes.avatars.render import WORK
from recipes.avatars.stepping import ROOT, Ledger
from stylograph.generator import Generator


def test_the_smoke_makes_a_world_that_works(tmp_path, capsys):
    """Every step as a command, from the drawings to an edited picture, and nothing twice."""
    work, assets = tmp_path / "work", tmp_path / "assets"
    command = [sys.executable, "-m", "recipes.avatars.everything", "--smoke", "--work", work, "--assets", assets]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert told.returncode == 0, told.stdout + told.stderr
    found = steps(work, assets, wordnet=work / "wordnet")
    for step in found:
        assert Ledger(work).read(step.name).finished, step.name
    assert "all models work" in Ledger(work).log("check_world").read_text()
    assert set(json.loads((assets / "MANIFEST.json").read_text())["models"]) == {name.rstrip("/") for name in MODELS}
    generator = Generator.from_pretrained(assets / "generator.safetensors")
    assert generator.resolution == 128
    assert generator.provenance["images_seen"] == 12 * len(PHASES)
    make(EverythingConfig(smoke=True, list=True, work=work, assets=assets))
    assert all(line.startswith("finished") for line in capsys.readouterr().out.splitlines())


class Parsed(Exception):
    """Carries the config a command line stands for."""


@pytest.mark.parametrize("step", steps(Path("/w"), Path("/a"), wordnet=Path("/w/dict")), ids=lambda step: step.name)
def test_commands_stay_in_their_folders(step, monkeypatch):
    """A recipe's option that names a place is given, so that no default leads into the package."""
    real = tyro.cli

    def parse(config):
        raise Parsed(real(config))

    for more in ([], SMOKE.get(step.name, "").split()):
        monkeypatch.setattr("tyro.cli", parse)
        monkeypatch.setattr("sys.argv", [step.module, *step.arguments, *more])
        monkeypatch.delitem(sys.modules, step.module, raising=False)
        with pytest.raises(Parsed) as caught:
            runpy.run_module(step.module, run_name="__main__", alter_sys=True)
        places = [place for place in _paths(caught.value.args[0]) if place is not None]
        assert places
        assert all(place.is_relative_to("/w") or place.is_relative_to("/a") for place in places), places


def _paths(config):
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _paths(value)
        elif isinstance(value, Path):
            yield value


def test_steps_come_after_what_they_need():
    before = set()
    for step in steps(Path("w"), Path("a")):
        assert before.issuperset(step.needs), step.name
        before.add(step.name)
    assert SMOKE.keys() <= before
    assert set(everything.ALONE) <= before


def test_every_model_has_a_step():
    said = " ".join(step.command for step in steps(Path("/w"), Path("/a")))
    for name in MODELS:
        assert f"/a/{name.rstrip('/')}" in said


def test_phases_go_on_with_each_other():
    phases = [step for step in steps(Path("w"), Path("a")) if step.module.endswith("train_generator")]
    assert [step.start for step in phases] == [None, *(step.state for step in phases[:-1])]
    ends = [int(step.arguments[step.arguments.index("--until") + 1]) for step in phases]
    assert ends == sorted(set(ends)), "images are counted from the very first"


def test_choosing_steps():
    found = steps(Path("w"), Path("a"))
    assert [step.name for step in chosen(found, "train_locator", ())] == ["train_locator", "manifest", "check_world"]
    assert [step.name for step in chosen(found, None, ("manifest", "render"))] == ["render", "manifest"]
    with pytest.raises(SystemExit, match="got step 'rendr'; expected one of render, train_features"):
        chosen(found, "rendr", ())


def test_the_smoke_stays_away_from_the_models(tmp_path):
    for places in ({"work": WORK, "assets": tmp_path}, {"work": tmp_path, "assets": FOLDER}):
        with pytest.raises(SystemExit, match="useless models"):
            make(EverythingConfig(smoke=True, **places))
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_beforehand(tmp_path, monkeypatch):
    config = EverythingConfig(work=tmp_path / "work", assets=tmp_path / "assets")
    with pytest.raises(SystemExit, match="widen_words expects WordNet's folder"):
        make(config)
    monkeypatch.setattr(everything.shutil, "disk_usage", lambda place: _Usage(1e9))
    with pytest.raises(SystemExit, match=r"got 1\.0 GB of free disk space, expected 5\.0"):
        make(EverythingConfig(only=("render",), work=tmp_path / "work", assets=tmp_path / "assets"))
    monkeypatch.setattr(everything, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[recipes\]'"):
        make(config)
    assert list(tmp_path.iterdir()) == []


class _Usage:
    def __init__(self, free):
        self.free = free


def test_the_list_runs_nothing(tmp_path, capsys):
    make(EverythingConfig(list=True, work=tmp_path / "work", assets=tmp_path / "assets"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(steps(tmp_path, tmp_path))
    assert f"recipes.avatars.render --out {tmp_path}/work" in said[0]
    assert list(tmp_path.iterdir()) == []
