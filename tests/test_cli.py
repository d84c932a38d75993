"""The command as a user meets it, on the embedded models."""

import json
import subprocess
import sys

import pytest
from conftest import GOLDEN
from PIL import Image

from stylograph import Generator, load_edit
from stylograph.cli import main


@pytest.fixture
def say(capsys):
    """Runs the command; gives exit code, standard output and messages."""

    def run(*arguments):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


EDIT = ("edit", "a person wearing sunglasses", "--images", 8)


class TestEdit:
    def test_writes_a_strip_and_says_what_it_did(self, say, tmp_path):
        out = tmp_path / "out.png"
        code, _, messages = say(*EDIT, "--seed", 1, 2, "-o", out, "--count", 15, "--strength", 3.5)
        assert code == 0
        assert "strength 3.5 along 15 of" in messages
        assert "strongest: b" in messages
        with Image.open(out) as picture:
            assert picture.width < picture.height * 1.2  # two columns, two rows and captions
            job = json.loads(picture.text["stylograph"])
        assert job["target"] == "a person wearing sunglasses"
        assert job["seed"] == [1, 2]
        assert job["generator"] == Generator.from_pretrained("avatars").digest

    def test_same_job_same_bytes(self, say, tmp_path):
        for name in ("a.png", "b.png"):
            assert say(*EDIT, "--seed", 3, "-o", tmp_path / name)[0] == 0
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_the_edit_can_be_kept(self, say, tmp_path):
        file = tmp_path / "sunglasses.safetensors"
        assert say(*EDIT, "--seed", 3, "-o", tmp_path / "a.png", "--save-edit", file)[0] == 0
        edit = load_edit(file, Generator.from_pretrained("avatars"))
        assert edit.provenance["target"] == "a person wearing sunglasses"

    def test_no_progress_bar_in_pipes(self, tmp_path):
        command = [sys.executable, "-m", "stylograph", *map(str, EDIT), "--seed", "1", "-o", str(tmp_path / "o.png")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout == ""
        assert "\x1b" not in done.stderr
        assert "━" not in done.stderr
        assert len(done.stderr.splitlines()) == 3

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("edit", ""), "empty sentence"),
            (("edit", "a person", "--neutral", "a person"), "same sentence twice"),
            (("edit", "a bald person", "--beta", 2), "lower beta"),
            (("edit", "a bald person", "--beta", 0.1, "--count", 3), "one of them"),
            (("edit", "a bald person", "--model", "nothing.pkl"), "nothing.pkl"),
            (("edit", "a bald person", "--model", "ffhq-1023"), "ffhq-1024"),
            (("edit", "a bald person", "--clip", "nowhere/at-all", "--offline"), "no CLIP model"),
            (("edit", "a bald person", "--device", "tpu"), "this machine has"),
            (("edit", "a bald person", "--seed", -3), "whole numbers"),
            (("edit", "a bald person", "-o", "nowhere/out.png"), "does not exist"),
            (("edit", "a bald person", "-o", "out.exe"), "expected one of .png"),
            (("edit", "a bald person", "--seed"), "no seeds"),
        ],
    )
    def test_mistakes_are_explained_in_one_line(self, say, tmp_path, monkeypatch, arguments, said):
        monkeypatch.chdir(tmp_path)
        code, _, messages = say(*arguments)
        assert code == 1
        assert said in messages
        assert messages.startswith("stylograph: ")
        assert "Traceback" not in messages
        assert not list(tmp_path.iterdir())

    @pytest.mark.filterwarnings("always::stylograph.errors.PromptWarning")
    def test_unknown_words_are_a_warning(self, say, tmp_path):
        code, _, messages = say("edit", "a person wearing sunglases", "--images", 4, "-o", tmp_path / "o.png")
        assert "warning: avatars does not know 'sunglases' (near: sunglasses" in messages
        assert code in (0, 1)

    def test_interrupted(self, say, tmp_path, monkeypatch):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("stylograph.cli.run", stop)
        code, _, messages = say(*EDIT, "-o", tmp_path / "o.png")
        assert code == 130
        assert "interrupted" in messages
        assert not list(tmp_path.iterdir())


def test_sample(say, tmp_path):
    assert say("sample", "--seed", 1, 2, 3, "--columns", 2, "-o", tmp_path / "s.png")[0] == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width == picture.height


def test_info(say):
    code, out, _ = say("info", GOLDEN / "nvidia_fp16_tiny.pkl")
    assert code == 0
    assert "nvidia" in out
    assert "conv_clamp         256" in out
    facts = json.loads(say("info", GOLDEN / "rosinality_tiny.pt", "--json")[1])
    assert facts["config"]["resolution"] == 32


def test_info_on_a_hostile_file(say):
    code, _, messages = say("info", GOLDEN / "malicious" / "os_system.pkl")
    assert code == 1
    assert "os_system.pkl" in messages


def test_convert(say, tmp_path):
    target = tmp_path / "copy.pt"
    code, _, messages = say("convert", GOLDEN / "nvidia_fp16_tiny.pkl", target)
    assert code == 0
    assert "conv_clamp" in messages
    assert Generator.from_pretrained(target).resolution == 32


def test_models(say):
    code, out, _ = say("models")
    assert code == 0
    for name in ("avatars", "ffhq-256", "ffhq-512", "ffhq-1024", "metfaces"):
        assert name in out
    assert out.count("licence:") == out.count("from:") == len(json.loads(say("models", "--json")[1]))
