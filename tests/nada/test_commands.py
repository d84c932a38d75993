"""`stylograph adapt` and `stylograph blend` as a user meets them, on the embedded models and with hardly any steps."""

import json

import pytest
import torch
from PIL import Image

from stylograph import Generator
from stylograph.edit.base import Shift
from stylograph.jobs import AdaptJob, EditJob
from stylograph.nets.stylegan2 import StyleGAN2Config
from stylograph.world import World

FAST = ("--steps", 2, "--adapt.pool", 4, "--adapt.held-out", 2, "--clip", "avatars", "--seed", 1, 2)
ADAPT = ("adapt", "a drawing of a person", *FAST)


@pytest.fixture(scope="module")
def avatars():
    return Generator.from_pretrained("avatars")


@pytest.fixture(scope="module")
def child(avatars, tmp_path_factory):
    """The file of a child of the avatars, as far from them as a few steps of training would leave it."""
    net = Generator.from_pretrained("avatars").net
    rng = torch.Generator().manual_seed(0)
    for name, parameter in net.synthesis.named_parameters():
        if ".conv" in name and ".affine." not in name:
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng) * parameter.abs().mean()
    path = tmp_path_factory.mktemp("child") / "child.safetensors"
    Generator(net, provenance={"root": "avatars", "ancestors": [avatars.digest]}).save(path)
    return path


def text_of(path):
    with Image.open(path) as picture:
        return json.loads(picture.text["stylograph"])


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


class TestAdapt:
    def test_writes_a_generator_and_a_picture_and_nothing_else(self, say, tmp_path, avatars):
        out = tmp_path / "sketch.safetensors"
        code, printed, messages = say(*ADAPT, "-o", out)
        assert code == 0, messages
        assert printed == ""
        assert "step 2" in messages
        assert "gain" in messages
        assert f"wrote {out}" in messages
        assert files_in(tmp_path) == ["sketch.png", "sketch.safetensors"]
        made = Generator.from_pretrained(out)
        assert made.ancestors == (avatars.digest,)
        assert made.root == "avatars"
        told = made.provenance["adaptation"]
        assert (told["target"], told["source"], told["steps"]) == ("a drawing of a person", "a person", 2)
        assert (told["clip"], told["identity"]) == ("avatars", "avatars")
        assert f"identity {told['best']['identity']:.2f} of the parent's people" in messages
        job = text_of(tmp_path / "sketch.png")
        assert job["job"]["kind"] == "AdaptJob"
        assert job["child"] == made.digest
        with Image.open(tmp_path / "sketch.png") as picture:
            assert picture.width < picture.height * 1.2  # two columns, parent over child

    def test_an_interrupted_training_goes_on(self, say, tmp_path, monkeypatch):
        whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
        settings = ("--steps", 3, "--adapt.check-every", 1, "--adapt.batch", 2, "--preview")
        assert say(*ADAPT, *settings, tmp_path / "x.png", "-o", whole)[0] == 0
        from stylograph import cli

        drawn = cli.previewing

        def previewing(*arguments):
            show = drawn(*arguments)

            def stop(step):
                show(step)
                if step.done == 2 and step.stage == "adapting":
                    raise KeyboardInterrupt

            return stop

        monkeypatch.setattr("stylograph.cli.previewing", previewing)
        code, _, messages = say(*ADAPT, *settings, tmp_path / "y.png", "-o", cut)
        assert code == 130
        assert "interrupted" in messages
        assert files_in(tmp_path) == ["cut.training.safetensors", "whole.safetensors", "x.png", "y.png"]
        monkeypatch.undo()
        code, _, messages = say(*ADAPT, *settings, tmp_path / "y.png", "-o", cut)
        assert code == 0
        assert "step 2:" not in messages
        assert files_in(tmp_path) == ["cut.safetensors", "whole.safetensors", "x.png", "y.png"]
        assert cut.read_bytes() == whole.read_bytes()
        assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()

    def test_with_a_mapper_and_nothing_half_done_left(self, say, tmp_path):
        mapper = ("--mine", "--mapper.steps", 1, "--mapper.images", 4, "--mapper.held-out", 2)
        code, _, messages = say(*ADAPT, *mapper, "-o", tmp_path / "m.safetensors")
        assert code == 0, messages
        assert files_in(tmp_path) == ["m.png", "m.safetensors"]
        mined = Generator.from_pretrained(tmp_path / "m.safetensors")
        assert mined.mapper is not None
        assert len(mined.ancestors) == 2
        assert say("sample", "--model", tmp_path / "m.safetensors", "--seed", 1, "-o", tmp_path / "s.png")[0] == 0

    def test_a_dry_run_writes_nothing(self, say, tmp_path):
        code, _, messages = say(*ADAPT, "-o", tmp_path / "x.safetensors", "--dry-run")
        assert code == 0
        for said in ("trains", "numbers in 11 convolutions", "time", "2 steps", "memory", "GB"):
            assert said in messages
        assert not files_in(tmp_path)

    def test_by_a_folder_of_pictures(self, say, tmp_path, avatars):
        folder = tmp_path / "drawings"
        folder.mkdir()
        for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
            Image.new("RGB", (50, 40), colour).save(folder / name)
        out = tmp_path / "out" / "p.pt"
        out.parent.mkdir()
        code, _, messages = say(
            "adapt", *FAST, "--target-images", folder, "--source-images", folder / "a.png", "-o", out
        )
        assert code == 0, messages
        assert "note: the rosinality format has no room for provenance" in messages
        assert files_in(out.parent) == ["p.png", "p.pt"]
        assert text_of(out.with_suffix(".png"))["job"]["target_images"] == [str(folder)]
        assert Generator.from_pretrained(out).config.to_dict().keys() == avatars.config.to_dict().keys()

    def test_the_users_picture_is_not_overwritten(self, say, tmp_path):
        given = tmp_path / "robot.png"
        Image.new("RGB", (8, 8), "red").save(given)
        kept, ours = given.read_bytes(), tmp_path / "ours.png"
        Image.new("RGB", (8, 8), "blue").save(ours)
        say("adapt", *FAST, "--target-images", given, "--source-images", ours, "-o", tmp_path / "robot.safetensors")
        assert given.read_bytes() == kept

    def test_mistakes_about_the_mapper_are_told_before_the_work(self, say, tmp_path):
        code, _, messages = say(*ADAPT, "--steps", 1, "--mine", "--mapper.space", "s", "-o", tmp_path / "x.safetensors")
        assert (code, "mining needs one in 'w+'" in messages) == (1, True)
        assert not files_in(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("adapt", "a person"), "same sentence twice"),
            (("adapt",), "got no target; describe it"),
            (("adapt", " "), "got no target; describe it"),
            (("adapt", "a bald person", "--source", ""), "without a source"),
            (("adapt", "a bald person", "-o", "x.pkl"), "expected one of .safetensors"),
            (("adapt", "a bald person", "-o", "nowhere/x.safetensors"), "does not exist"),
            (("adapt", "a bald person", "--preview", "x.txt"), "expected one of .png"),
            (("adapt", "a bald person", "--preview", "nowhere/x.png"), "does not exist"),
            (("adapt", "--target-images", "gone"), "where no file is"),
            (("adapt", "--target-images", "."), "folder without pictures"),
            (("adapt", "a bald person", "--clip", "avatars", "--clip-weights", "1", "2"), "for 1 models"),
            (("adapt", "a bald person", "--clip", "avatars", "--layers", "b512"), "names no layer"),
            (("adapt", "a bald person", "--clip", "avatars", "--layers", "torgb"), "none of them a convolution"),
            (("adapt", "a bald person", "--clip", "avatars", "--steps", "0"), "steps=0"),
            (("adapt", "a bald person", "--clip", "avatars", "--adapt.top-k", "99"), "top_k=99"),
            (("adapt", "a bald person", "--clip", "avatars", "--adapt.lr", "0"), "nothing could change"),
            (
                ("adapt", "a bald person", *FAST, "--adapt.lambda-identity", "0.5", "--identity", "none"),
                "lambda_identity=0.5 and no recogniser",
            ),
            (("adapt", "a bald person", "--clip", "avatars", "--identity", "gone.pth"), "gone.pth"),
            (("adapt", "a bald person", "--clip", "avatars", "--seed"), "no seeds"),
            (("adapt", "a bald person", "--clip", "avatars", "--seed", "-1"), "whole numbers"),
            (("blend", "gone.safetensors"), "gone.safetensors"),
            (("blend", "avatars", "-o", "x.gif"), "expected one of .png"),
            (("blend", "avatars", "-o", "nowhere/x.png"), "does not exist"),
            (("blend", "avatars", "--start", "5"), "got resolution 5"),
            (("blend", "avatars", "--start", "16", "--stop", "8"), "which are none"),
            (("blend", "avatars", "--amounts"), "no amounts"),
            (("blend", "avatars", "-o", "x.safetensors"), "5 amounts for one generator"),
            (("blend", "avatars", "--amounts", "0", "1", "-o", "x.pt"), "2 amounts for one generator"),
            (("blend", "avatars", "--amounts", "nan"), "finite numbers"),
        ],
    )
    def test_mistakes_are_explained_in_one_line(self, say, tmp_path, monkeypatch, arguments, said):
        monkeypatch.chdir(tmp_path)
        code, _, messages = say(*arguments)
        assert code == 1
        assert said in messages
        assert messages.startswith("stylograph: ")
        assert len(messages.splitlines()) == 1
        assert not files_in(tmp_path)

    @pytest.mark.parametrize("wrong", [("--preset", "styl"), ("--memory", "huge"), ("--adapt.noise", "none")])
    def test_wrong_choices_are_wrong_usage(self, say, tmp_path, monkeypatch, wrong):
        monkeypatch.chdir(tmp_path)
        code, _, messages = say(*ADAPT, *wrong)
        assert code == 2
        assert wrong[1] in messages
        assert not files_in(tmp_path)

    def test_no_checkpoint_of_something_else_is_overwritten(self, say, tmp_path, avatars):
        beside = tmp_path / "x.training.safetensors"
        avatars.save(beside)
        kept = beside.read_bytes()
        code, _, messages = say(*ADAPT, "-o", tmp_path / "x.safetensors")
        assert code == 1
        assert "expected a stylograph adaptation file" in messages
        assert beside.read_bytes() == kept

    def test_other_settings_than_the_half_done_ones_are_told(self, say, tmp_path, monkeypatch):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("stylograph.cli.previewing", lambda *_: stop)
        out = tmp_path / "x.safetensors"
        assert say(*ADAPT, "-o", out)[0] == 130
        code, _, messages = say(*ADAPT, "--adapt.lr", 0.01, "-o", out)
        assert code == 1
        assert "which differs in lr; expected one of the same: delete it" in messages


class TestBlend:
    def test_a_picture_of_all_mixtures(self, say, tmp_path, child, avatars):
        out = tmp_path / "row.png"
        code, _, messages = say("blend", child, "--seed", 1, 2, "--amounts", 0, 0.5, 1, "-o", out)
        assert code == 0, messages
        assert files_in(tmp_path) == ["row.png"]
        with Image.open(out) as picture:
            assert picture.width > picture.height  # three columns, two rows
        told = text_of(out)
        assert told["models"]["generator"] == avatars.digest
        assert told["other"] == Generator.from_pretrained(child).digest

    def test_the_picture_can_be_made_again(self, say, tmp_path, child):
        out = tmp_path / "row.png"
        assert say("blend", child, "--seed", 1, "--amounts", 0.5, "-o", out)[0] == 0
        code, _, messages = say("rerun", out)
        assert code == 0
        assert f"identical to {out}" in messages

    @pytest.mark.parametrize("ending", ["safetensors", "pt"])
    def test_one_mixture_as_a_generator(self, say, tmp_path, child, avatars, ending):
        out = tmp_path / f"half.{ending}"
        code, _, messages = say("blend", child, "--amounts", 0.5, "--start", 16, "-o", out)
        assert code == 0, messages
        assert files_in(tmp_path) == [out.name]
        mixed, other = (
            Generator.from_pretrained(out).net.state_dict(),
            Generator.from_pretrained(child).net.state_dict(),
        )
        ours = avatars.net.state_dict()
        for name in ("synthesis.b8.conv1.weight", "synthesis.b16.conv0.weight"):
            part = 0.5 if ".b16." in name else 0.0
            assert float((mixed[name] - ((1 - part) * ours[name] + part * other[name])).abs().max()) < 1e-5

    def test_an_ending_in_capitals(self, say, tmp_path, child):
        assert say("blend", child, "--amounts", 0.5, "-o", tmp_path / "half.PT")[0] == 0

    def test_strangers(self, say, tmp_path, avatars):
        Generator.random(avatars.config).save(tmp_path / "s.safetensors")
        code, _, messages = say("blend", tmp_path / "s.safetensors", "-o", tmp_path / "row.png")
        assert code == 1
        assert "without a common ancestor" in messages
        small = StyleGAN2Config(32, (8,) * 4, z_dim=8, w_dim=8, mapping_features=(8,))
        Generator.random(small).save(tmp_path / "s.safetensors")
        assert "two generators of one shape" in say("blend", tmp_path / "s.safetensors", "-o", tmp_path / "row.png")[2]
        assert files_in(tmp_path) == ["s.safetensors"]


class TestChild:
    def test_sample_and_info(self, say, tmp_path, child, avatars):
        out = tmp_path / "s.png"
        assert say("sample", "--model", child, "--seed", 1, 2, "-o", out)[0] == 0
        assert say("sample", "--seed", 1, 2, "-o", tmp_path / "p.png")[0] == 0
        assert out.read_bytes() != (tmp_path / "p.png").read_bytes()
        assert json.loads(say("info", child, "--json")[1])["provenance"]["ancestors"] == [avatars.digest]

    def test_an_edit_of_the_parent(self, say, tmp_path, child, avatars):
        delta = torch.zeros(avatars.s_dim)
        delta[:40] = 3.0
        edit = Shift(delta=delta, layers=avatars.layer_widths, generator_digest=avatars.digest)
        edit.save(tmp_path / "e.safetensors")
        code, _, messages = say(
            "edit", "--edit", tmp_path / "e.safetensors", "--model", child, "--seed", 1, "-o", tmp_path / "e.png"
        )
        assert code == 0, messages
        assert "moves 40 of" in messages
        grown = Generator.from_pretrained(child)
        own = Shift(delta=delta, layers=grown.layer_widths, generator_digest=grown.digest)
        own.save(tmp_path / "own.safetensors")
        code, _, messages = say("edit", "--edit", tmp_path / "own.safetensors", "--seed", 1, "-o", tmp_path / "o.png")
        assert code == 1
        assert "this edit was made for" in messages

    def test_the_avatars_own_clip_is_used(self, child):
        assert World(EditJob(model=str(child)), None).clip.name == "avatars"
        assert World(AdaptJob(model=str(child)), None).clip.name == "avatars-robust"
