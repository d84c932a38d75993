"""`stylograph bench` as a user meets it."""

import json

import pytest

PLUG = '''
import torch
from stylograph.benchmark.tasks import Task

TASKS = [Task("a person on a green background", {"background": ("green",)}, group="mine")]


def green(case):
    """Paints everything that has the colour of the upper left corner."""
    ground = (case.images - case.images[:, :, :1, :1]).abs().amax(1, keepdim=True) < 0.35
    colour = torch.tensor([0.82, 0.96, 0.82])[:, None, None] * 2 - 1
    return torch.where(ground, colour, case.images)


def broken(case):
    return case.images[0]
'''


@pytest.fixture
def plug(tmp_path):
    file = tmp_path / "plug.py"
    file.write_text(PLUG)
    return file


def test_a_function_of_ones_own(say, tmp_path, plug):
    out = tmp_path / "out"
    command = ("bench", "--quick", "--seeds", 6, "--tasks", f"{plug}:TASKS", "--methods", f"{plug}:green", "-o", out)
    code, printed, messages = say(*command)
    assert (code, printed) == (0, "")
    assert "plug.py:green, own: a person on a green background: success" in messages
    assert "3 rows, 0 failed; wrote" in messages
    told = json.loads((out / "bench.json").read_text())
    assert {row["method"] for row in told["rows"]} == {"plug.py:green", "shift", "stranger"}
    assert all(p["identity"] <= 1.0001 for row in told["rows"] for p in row["pictures"])
    assert (out / "report.html").stat().st_size > 5000
    assert say(*command)[2].count("own:") == 0  # nothing is done again


def test_a_failure_is_told_and_the_rest_goes_on(say, tmp_path, plug):
    methods = ("--methods", f"{plug}:broken", f"{plug}:green")
    common = ("bench", "--quick", "--seeds", 2, "--tasks", f"{plug}:TASKS", "-o", tmp_path / "out")
    code, _, messages = say(*common, *methods)
    assert code == 1
    assert "3 rows, 1 failed" in messages
    assert "Traceback" not in messages
    assert say(*common, "--methods", f"{plug}:green")[0] == 0  # an old failure is nobody's fault now


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "nothing"), "expected one of"),
        (("--methods", "gone.py:edit"), "no file is"),
        (("--strengths", "half"), "expected fixed or auto"),
        (("--seeds", 0), "expected 2 to"),
        (("--clip", "gone_module_of_mine:clip"), "no module here"),
        (("--judge", "gone.safetensors"), "gone.safetensors"),
        (("--domains", "nowhere"), "robot"),
        (("--adapters", "nothing", "--domains", "robot"), "expected one of"),
        (("--reference", "gone.safetensors", "--domains", "robot"), "gone.safetensors"),
        (("--generator", "nothing.pkl"), "nothing.pkl"),
    ],
)
def test_mistakes_are_told_before_the_work(say, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, messages = say("bench", *arguments)
    assert code == 1
    assert said in messages
    assert messages.startswith("stylograph: ")
    assert not list(tmp_path.iterdir())
