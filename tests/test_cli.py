"""The command as a user meets it, on the embedded models."""

import json
import subprocess
import sys

import pytest
from conftest import GOLDEN
from PIL import Image

from stylograph import Generator, load_edit
from stylograph.nets.stylegan2 import StyleGAN2Config

QUICK = ("--direction.method", "universal", "--auto.steps", 4)
EDIT = ("edit", "a person wearing sunglasses", *QUICK)


class TestEdit:
    def test_writes_a_strip_and_says_what_it_did(self, say, tmp_path):
        out = tmp_path / "out.png"
        code, _, messages = say(*EDIT, "--seed", 1, 2, "-o", out, "--count", 15, "--strength", 3.5)
        assert code == 0
        assert "moves 15 of" in messages
        assert "strongest: b" in messages
        with Image.open(out) as picture:
            assert picture.width < picture.height * 1.2  # two columns, two rows and captions
            job = json.loads(picture.text["stylograph"])
        assert job["job"]["target"] == "a person wearing sunglasses"
        assert job["job"]["seed"] == [1, 2]
        assert job["models"]["generator"] == Generator.from_pretrained("avatars").digest

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
        assert len(done.stderr.splitlines()) == 5

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
            (("edit",), "no saved edit"),
            (("edit", "--edit", "gone.safetensors"), "where no file is"),
            (("edit", "a bald person", "--lock", "b999"), "names no layer"),
            (("edit", "a bald person", "--identity", "gone.pth"), "gone.pth"),
            (("edit", "a bald person", "--method", "optimize", "--optimize.space", "z"), "space"),
            (("sweep", "a bald person", "-o", "out.txt"), "expected one of .png"),
            (("grid", ""), "empty sentence"),
            (("grid", "a bald person", "--beta", 0.1), "--counts"),
            (("imagine", ""), "empty sentence"),
            (("rerun", "gone.png"), "gone.png"),
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
        sentence = "a person wearing sunglasses and a monocel"
        code, _, messages = say("edit", sentence, *QUICK, "--seed", 1, "-o", tmp_path / "o.png")
        assert "warning: avatars does not know 'monocel'" in messages
        assert code == 0

    def test_a_sentence_of_unknown_words_is_an_error(self, say, tmp_path):
        code, _, messages = say("edit", "a person wearing sunglases", "-o", tmp_path / "o.png")
        assert code == 1
        assert "does not know 'sunglases' (near: sunglasses" in messages
        assert not list(tmp_path.iterdir())

    def test_interrupted(self, say, tmp_path, monkeypatch):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("stylograph.cli.run", stop)
        code, _, messages = say(*EDIT, "-o", tmp_path / "o.png")
        assert code == 130
        assert "interrupted" in messages
        assert not list(tmp_path.iterdir())


def text_of(path):
    with Image.open(path) as picture:
        return json.loads(picture.text["stylograph"])


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


class TestOtherWays:
    def test_a_sweep_is_a_strip_or_an_animation(self, say, tmp_path):
        common = ("sweep", "a person with blue hair", *QUICK, "--seed", 1, 2, "--strengths", 0, 1, 2)
        assert say(*common, "-o", tmp_path / "s.png")[0] == 0
        width, height = size_of(tmp_path / "s.png")
        assert width > height  # three columns, two rows
        assert say(*common, "--frames", 5, "-o", tmp_path / "s.gif")[0] == 0
        with Image.open(tmp_path / "s.gif") as animation:
            assert animation.n_frames == 8  # there and back again

    def test_a_grid_has_a_row_per_number_of_channels(self, say, tmp_path):
        out = tmp_path / "g.png"
        assert say("grid", "a person with blue hair", "--alphas", 0, 1, "--counts", 5, 50, 200, "-o", out)[0] == 0
        width, height = size_of(out)
        assert height > width

    def test_saved_edits_are_stacked(self, say, tmp_path):
        for name, sentence in (("blue", "a person with blue hair"), ("dark", "a person wearing sunglasses")):
            file = tmp_path / f"{name}.safetensors"
            assert say("edit", sentence, *QUICK, "--seed", 1, "-o", tmp_path / "x.png", "--save-edit", file)[0] == 0
        files = [tmp_path / "blue.safetensors", tmp_path / "dark.safetensors"]
        code, _, messages = say("edit", "--edit", *files, "--seed", 1, 2, "-o", tmp_path / "both.png")
        assert code == 0
        assert "blue hair" in messages
        assert "sunglasses" in messages
        more = (
            "edit",
            "a person in a green shirt",
            *QUICK,
            "--edit",
            files[0],
            "--seed",
            1,
            "-o",
            tmp_path / "three.png",
        )
        assert say(*more, "--save-edit", tmp_path / "all.safetensors")[0] == 0
        assert len(load_edit(tmp_path / "all.safetensors").parts) == 2

    def test_a_published_mapper(self, say, tmp_path):
        shape = StyleGAN2Config(1024, (2,) * 9, z_dim=8, w_dim=64, mapping_features=(64,), noise=False)
        Generator.random(shape).save(tmp_path / "g.safetensors")
        mapper = ("--edit", GOLDEN / "mapper_tiny.pt", "--model", tmp_path / "g.safetensors")
        code, _, messages = say("edit", *mapper, "--seed", 1, "-o", tmp_path / "m.png")
        assert code == 0
        assert "latent mapper in W+ (coarse, medium, fine)" in messages

    def test_optimization(self, say, tmp_path):
        quick = (*QUICK, "--optimize.steps", 3, "--method", "optimize", "--seed", 1)
        code, _, messages = say("edit", "a person with blue hair", *quick, "-o", tmp_path / "o.png")
        assert code == 0
        assert "automatic strength" in messages

    def test_a_mapper_is_trained_once(self, say, tmp_path, monkeypatch):
        monkeypatch.setenv("STYLOGRAPH_CACHE", str(tmp_path / "cache"))
        quick = ("--mapper.steps", 2, "--mapper.images", 10, "--mapper.held-out", 2, "--method", "mapper", "--seed", 1)
        for name in ("a.png", "b.png"):
            assert say("edit", "a person with blue hair", *quick, "-o", tmp_path / name)[0] == 0
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        assert len(list((tmp_path / "cache" / "mappers").iterdir())) == 1

    def test_imagine(self, say, tmp_path):
        out = tmp_path / "i.png"
        assert say("imagine", "a person with blue hair", *QUICK, "--seed", 1, 2, "-o", out)[0] == 0
        assert text_of(out)["job"]["kind"] == "ImagineJob"


class TestRerun:
    @pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
    def test_the_same_bytes(self, say, tmp_path, ending):
        out = tmp_path / f"a.{ending}"
        assert say(*EDIT, "--seed", 3, 4, "--count", 20, "-o", out)[0] == 0
        code, _, messages = say("rerun", out)
        assert code == 0
        assert f"identical to {out}" in messages
        assert (tmp_path / f"a-again.{ending}").read_bytes() == out.read_bytes()

    def test_an_animation(self, say, tmp_path):
        out = tmp_path / "a.gif"
        assert say("sweep", "a person with blue hair", *QUICK, "--seed", 1, "--frames", 4, "-o", out)[0] == 0
        assert f"identical to {out}" in say("rerun", out, "-o", tmp_path / "b.gif")[2]
        assert "not the same bytes" in say("rerun", out, "-o", tmp_path / "b.webp")[2]

    def test_other_models_are_noticed(self, say, tmp_path):
        from stylograph.render import save_picture

        assert say(*EDIT, "--seed", 3, "-o", tmp_path / "a.png")[0] == 0
        told = text_of(tmp_path / "a.png")
        told["models"]["generator"] = "0" * 64
        save_picture(Image.new("RGB", (4, 4)), tmp_path / "b.png", metadata=told)
        code, _, messages = say("rerun", tmp_path / "b.png")
        assert code == 1
        assert "other models" in messages

    def test_a_job_of_another_version(self, say, tmp_path):
        from stylograph.render import save_picture

        for job in ({}, {"kind": "Dance"}, {"kind": "EditJob", "colour": 3}):
            save_picture(Image.new("RGB", (4, 4)), tmp_path / "b.png", metadata={"job": job})
            assert say("rerun", tmp_path / "b.png")[0] == 1


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
