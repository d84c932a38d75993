"""The recipe of the inverter: its parts, a few steps on a few drawings, and that an interrupted training goes on."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from recipes.avatars.recogniser_training import fit
from recipes.avatars.render import RenderConfig, render
from recipes.avatars.train_inverter import Teacher, TrainInverterConfig, recolour, train
from stylograph import Encoder, Generator
from stylograph.errors import WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.nets.inverter import Inverter, InverterConfig, load_inverter


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    render(RenderConfig(what="personas", out=folder, count=12, workers=1))
    return folder


@pytest.fixture(scope="module")
def made(work):
    """The file a training of three steps leaves."""
    config = TrainInverterConfig(work=work, out=work / "inverter.safetensors", steps=3, batch=4, report=2)
    return config, train(config)


def test_a_few_steps_leave_a_file_that_is_read(made):
    config, figures = made
    assert set(figures) == {"mse", "perceptual", "identity", "kept", "offsets"}
    network, record = load_inverter(config.out)
    assert record["generator"] == Generator.from_pretrained("avatars").digest
    assert record["held_out"] == figures
    assert network(torch.zeros(2, 3, 100, 100)).shape == (2, 12, 128)


def test_a_finished_training_is_not_done_again(made):
    config, _ = made
    before = load_tensors(config.out, "inverter")[0]
    train(replace(config, seed=99))
    after = load_tensors(config.out, "inverter")[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_generators_own_pictures_have_the_codes_they_say(work):
    teacher = Teacher(TrainInverterConfig(work=work), torch.zeros(4, 64, 64, 3, dtype=torch.uint8).numpy(), {})
    images, codes = teacher.drawn(5)
    assert images.shape[-1] == 64
    assert torch.equal(images, teacher.render(codes).clamp(-1, 1))


def test_other_colours_keep_white_and_leave_the_rest_alone():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand((40, 3, 4, 4), generator=rng)
    changed = (recolour(images, 0.5, rng) != images).flatten(1).any(1)
    assert 8 < int(changed.sum()) < 32
    assert torch.equal(recolour(images, 0.0, rng), images)


def test_an_interrupted_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.avatars.recogniser_training.SAVE_SECONDS", -1.0)
    x = torch.linspace(-1, 1, 16)[:, None]

    def run(state, stop=None):
        torch.manual_seed(0)
        net = torch.nn.Linear(1, 1)

        def on_step(step):
            if step == stop:
                raise KeyboardInterrupt

        fit(net, lambda: (net(x) - x.sin()).square().mean(), steps=6, lr=0.1, on_step=on_step, state=state)
        return net.weight

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", stop=4)
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["step"] == 3
    assert torch.equal(run(tmp_path / "cut.pt"), whole)


class TestInverter:
    def test_the_encoder_of_the_avatars(self, made):
        generator = Generator.from_pretrained("avatars")
        encoder = Encoder.from_pretrained("avatars")
        latents = generator.sample(8, seed=20)
        with torch.no_grad():
            images = generator.render(latents).clamp(-1, 1)
            back = encoder.latents(images, generator)
            error = (generator.render(back).clamp(-1, 1) - images).square().mean()
            spread = (images[:4] - images[4:]).square().mean()
        assert error < 0.1 * spread
        assert encoder.digest_of_generator == generator.digest

    def test_gradients_reach_the_picture(self, made):
        image = torch.zeros(1, 3, 64, 64, requires_grad=True)
        Encoder.from_pretrained("avatars").encode(image).sum().backward()
        assert image.grad.abs().sum() > 0

    def test_offsets_are_of_the_layers_after_the_first(self):
        network = Inverter(InverterConfig(10, 16, widths=(8, 8, 8), hidden=8)).eval()
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        w, offsets = network.parts(images)
        codes = network(images)
        assert torch.equal(codes[:, 0], w)
        assert torch.allclose(codes[:, 1:] - w[:, None], offsets, atol=1e-6)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda t, r: t.pop("base.weight"),
            lambda t, r: r["config"].update(size=-1),
            lambda t, r: r["config"].update(widths=[8, 8]),
            lambda t, r: r["config"].pop("hidden"),
            lambda t, r: r.update(generator=None),
        ],
        ids=["tensor", "size", "widths", "field", "generator"],
    )
    def test_damaged_files(self, made, tmp_path, spoil):
        tensors, record = load_tensors(made[0].out, "inverter")
        spoil(tensors, record)
        save_tensors(tmp_path / "x.safetensors", tensors, "inverter", record)
        with pytest.raises(WeightsError, match="contradicts itself"):
            load_inverter(tmp_path / "x.safetensors")
