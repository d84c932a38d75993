"""Pictures of one's own, from the command line: in every command that draws, tuned or not, and put back."""

import json

import numpy as np
import pytest
from PIL import Image

from recipes.avatars.attributes import sample_labels
from recipes.avatars.render import draw_persona
from stylograph import Generator, Inversion, load_edit
from stylograph.cli import main
from stylograph.render import read_metadata

LOOK = ("--align", "none", "--invert.stages", "encoder")
TUNE = ("--align", "none", "--invert.stages", "encoder", "tune", "--invert.enough", "1", "--invert.tune.steps", "2")
FAST = ("--strength", "3", "--direction.method", "universal")
GLASSES = "a person wearing sunglasses"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two drawings of 160 pixels with something beside them, and the first one's inversion, tuned a little."""
    place = tmp_path_factory.mktemp("own")
    labels = sample_labels(2, seed=77)
    for i in range(2):
        drawing = draw_persona({name: int(values[i]) for name, values in labels.items()}, size=160)
        canvas = np.full((160, 200, 3), 128, np.uint8)
        canvas[:, 20:180] = drawing
        Image.fromarray(canvas).save(place / f"{'ab'[i]}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLOGRAPH_CACHE", str(place / "cache"))
        main([str(a) for a in ("invert", place / "a.png", "-o", place / "me.safetensors", *TUNE)])
    return place


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLOGRAPH_CACHE", str(tmp_path / "cache"))


class TestInvert:
    def test_one_picture_becomes_a_file_and_a_picture(self, folder):
        inversion = Inversion.load(folder / "me.safetensors")
        assert [stage.name for stage in inversion.stages] == ["encoder", "tune"]
        assert inversion.figures.closeness > 0.5
        assert inversion.delta is not None
        assert read_metadata(folder / "me-inverted.png")["job"]["kind"] == "InvertJob"

    def test_the_report_is_told(self, say, folder, tmp_path):
        code, _, told = say("invert", folder / "b.png", "-o", tmp_path / "b.safetensors", *LOOK)
        assert code == 0
        assert "b.png: encoder" in told
        assert "closeness" in told
        assert "identity" in told

    def test_no_picture_of_ones_own_is_written_over(self, say, folder, tmp_path):
        mine = tmp_path / "mine-inverted.png"
        mine.write_bytes((folder / "a.png").read_bytes())
        code, _, told = say("invert", folder / "a.png", "-o", tmp_path / "mine.safetensors", *LOOK)
        assert code == 1
        assert "stylograph did not write" in told
        assert mine.read_bytes() == (folder / "a.png").read_bytes()

    def test_a_folder_goes_on_where_it_was_left(self, say, folder, tmp_path):
        arguments = ("invert", folder / "a.png", folder / "b.png", "-o", tmp_path / "out", *LOOK)
        assert say(*arguments)[0] == 0
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "a.safetensors",
            "b.safetensors",
            "manifest.json",
        ]
        (tmp_path / "out" / "b.safetensors").unlink()
        code, _, told = say(*arguments)
        assert code == 0
        assert "1 inverted, 1 were there already, 0 failed" in told
        entries = json.loads((tmp_path / "out" / "manifest.json").read_text())["pictures"]
        assert len(entries) == 2

    def test_one_file_is_for_one_picture(self, say, folder, tmp_path):
        code, _, told = say("invert", folder / "a.png", folder / "b.png", "-o", tmp_path / "x.safetensors", *LOOK)
        assert code == 1
        assert "expected a folder" in told


class TestEdit:
    def test_from_a_file_to_a_file_and_back_into_the_picture(self, say, folder, tmp_path):
        out, back = tmp_path / "out.png", tmp_path / "back.png"
        code, _, told = say("edit", GLASSES, "--image", folder / "a.png", "-o", out, "--pasted", back, *LOOK, *FAST)
        assert code == 0, told
        assert "closeness" in told
        before, after = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (folder / "a.png", back))
        assert np.array_equal(before[:, :20], after[:, :20])
        assert np.array_equal(before[:, 180:], after[:, 180:])
        assert np.abs(before - after)[60:100, 70:130].mean() > 5
        assert Image.open(out).height > 3 * 128  # aligned, inverted, edited

    def test_whole_and_change_differ(self, say, folder, tmp_path):
        made = []
        for way in ("change", "whole"):
            back = tmp_path / f"{way}.png"
            arguments = (
                "--image",
                folder / "me.safetensors",
                "-o",
                tmp_path / "o.png",
                "--pasted",
                back,
                "--paste",
                way,
            )
            assert say("edit", GLASSES, *arguments, *FAST)[0] == 0
            made.append(np.asarray(Image.open(back)).astype(int))
        original = np.asarray(Image.open(folder / "a.png")).astype(int)
        shirt = np.s_[140:, 60:140]
        assert np.abs(made[0] - original)[shirt].mean() < np.abs(made[1] - original)[shirt].mean()

    def test_tuned_and_untuned_pictures_together(self, say, folder, tmp_path):
        saved = tmp_path / "edit.safetensors"
        pictures = ("--image", folder / "b.png", folder / "me.safetensors")
        code, _, told = say("edit", GLASSES, *pictures, "-o", tmp_path / "o.png", "--save-edit", saved, *LOOK, *FAST)
        assert code == 0, told
        assert load_edit(saved, Generator.from_pretrained("avatars")).strength == 3

    def test_optimised_picture_by_picture(self, say, folder, tmp_path):
        saved = tmp_path / "edit.safetensors"
        arguments = ("--method", "optimize", "--optimize.steps", "2", "--optimize.space", "w+", "--strength", "1")
        pictures = ("--image", folder / "b.png", folder / "me.safetensors")
        code, _, told = say(
            "edit", GLASSES, *pictures, *arguments, "-o", tmp_path / "o.png", "--save-edit", saved, *LOOK
        )
        assert code == 0, told
        edit = load_edit(saved, Generator.from_pretrained("avatars"))
        assert len(edit.delta) == 2
        assert "b.png, me.safetensors" in edit.provenance["images"]

    def test_automatic_strength_is_found_on_the_tuned_generator(self, say, folder, tmp_path):
        pictures = ("--image", folder / "me.safetensors", folder / "b.png")
        quick = ("--auto.steps", "2", "--direction.method", "universal", "--count", "60")
        code, _, told = say("edit", GLASSES, *pictures, "-o", tmp_path / "o.png", *LOOK, *quick)
        assert code == 0, told
        assert "automatic strength" in told
        assert "identity kept" in told

    def test_the_picture_can_be_made_again(self, say, folder, tmp_path):
        out = tmp_path / "out.png"
        assert say("edit", GLASSES, "--image", folder / "me.safetensors", "-o", out, *FAST)[0] == 0
        code, _, told = say("rerun", out)
        assert code == 0
        assert "identical" in told

    def test_but_not_of_another_picture(self, say, folder, tmp_path):
        mine, out = tmp_path / "mine.png", tmp_path / "out.png"
        mine.write_bytes((folder / "a.png").read_bytes())
        assert say("edit", GLASSES, "--image", mine, "-o", out, *LOOK, *FAST)[0] == 0
        mine.write_bytes((folder / "b.png").read_bytes())
        code, _, told = say("rerun", out)
        assert code == 1
        assert "other images" in told


class TestOtherCommands:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("sweep", GLASSES, "--strengths", "0", "1", *FAST),
            ("grid", GLASSES, "--counts", "10", "--alphas", "0", "1", "--direction.method", "universal"),
            ("sample",),
        ],
        ids=lambda a: a[0],
    )
    def test_draw_pictures_of_ones_own(self, say, folder, tmp_path, arguments):
        out = tmp_path / "out.png"
        code, _, told = say(*arguments, "--image", folder / "me.safetensors", "-o", out)
        assert code == 0, told
        assert "me.safetensors: " in told
        assert out.is_file()

    def test_a_child_draws_the_person_in_its_own_way(self, say, folder, tmp_path):
        parent = Generator.from_pretrained("avatars")
        checkpoint = parent.checkpoint()
        checkpoint.tensors["synthesis.b64.torgb.bias"].add_(0.5)
        checkpoint.provenance.update(ancestors=[parent.digest])
        Generator.from_checkpoint(checkpoint).save(tmp_path / "child.safetensors")
        made = []
        for model in ("avatars", tmp_path / "child.safetensors"):
            out = tmp_path / f"{len(made)}.png"
            code, _, told = say("sample", "--model", model, "--image", folder / "me.safetensors", "-o", out)
            assert code == 0, told
            made.append(np.asarray(Image.open(out).convert("RGB")).astype(int))
        assert (made[1] - made[0]).mean() > 10
        # A picture is inverted by the parent, which is known by its name.
        out = tmp_path / "blend.png"
        code, _, told = say("blend", tmp_path / "child.safetensors", "--image", folder / "b.png", "-o", out, *LOOK)
        assert code == 0, told

    def test_a_sentence_alone_needs_no_picture(self, say, folder, tmp_path):
        code, _, told = say("imagine", GLASSES, "--image", folder / "a.png", "-o", tmp_path / "o.png")
        assert code == 1
        assert "stylograph edit" in told
