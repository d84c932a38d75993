"""Pivotal tuning: closer to the picture within its budget, true figures, the generator itself untouched."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from inversion.kit import Pixels
from stylograph import Latents
from stylograph.errors import InvertError, LatentsError
from stylograph.generator import Generator
from stylograph.inversion.config import TuneConfig
from stylograph.inversion.delta import digest_of, sharing
from stylograph.inversion.likeness import Likeness
from stylograph.inversion.tuning import _Tuning, ranks, trained, tune
from stylograph.nets.stylegan2 import StyleGAN2, StyleGAN2Config

QUICK = TuneConfig(steps=25, budget=0.2, patience=0, enough=0)


class Eye:
    """A recogniser of nothing in particular."""

    name = "eye"

    def embed(self, images):
        return F.normalize(F.adaptive_avg_pool2d(images, 4).flatten(1), dim=-1)


@pytest.fixture
def likeness():
    return Likeness(Pixels(), Eye())


@pytest.fixture
def picture(tiny):
    """A picture of another code, so that there is something to learn."""
    return tiny.render(tiny.sample(1, seed=5)).clamp(-1, 1)


@pytest.fixture
def code(tiny):
    return tiny.sample(1, seed=6)


def error(generator, latents, picture):
    with torch.no_grad():
        return float((generator.render(latents) - picture).square().mean())


@pytest.mark.parametrize("space", ["w", "w+", "s"])
def test_the_tuned_generator_draws_the_picture(tiny, likeness, picture, code, space):
    code = {"w": lambda c: c, "w+": tiny.w_plus, "s": tiny.styles}[space](code)
    before = tiny.digest
    with torch.no_grad():  # as callers may have it
        delta, figures = tune(tiny, picture, code, likeness, config=QUICK)
    tuned = delta.apply(tiny)
    assert figures["before"]["mse"] == pytest.approx(error(tiny, code, picture), rel=1e-4)
    assert figures["stored"]["mse"] == pytest.approx(error(tuned, code, picture), rel=1e-4)
    assert figures["after"]["mse"] < 0.5 * figures["before"]["mse"]
    assert figures["stored"]["loss"] < 1.05 * figures["after"]["loss"], "eight bits cost next to nothing"
    assert (delta.generator_digest, delta.latents_digest) == (before, digest_of(code))
    del tiny.__dict__["digest"]
    assert tiny.digest == before
    assert not any(p.requires_grad or p.grad is not None for p in tiny.net.parameters())


def test_the_figures_say_how_large_it_is(tiny, likeness, picture, code):
    delta, figures = tune(tiny, picture, code, likeness, config=replace(QUICK, steps=2))
    size = 4 * sum(p.numel() for p in tiny.net.parameters())
    assert figures["bytes"] == delta.size <= 0.2 * size
    assert figures["share"] == pytest.approx(delta.size / size)
    assert figures["rank"] == max(m.left.shape[1] for m in delta.matrices.values())
    assert figures["steps"] == 2
    assert figures["ended"] == "all steps done"


def test_everything_but_mapping_and_affine_layers_changes(tiny, likeness, picture, code):
    delta, _ = tune(tiny, picture, code, likeness, config=replace(QUICK, steps=3))
    tuned = dict(delta.apply(tiny).net.named_parameters())
    same = {name for name, p in tiny.net.named_parameters() if torch.equal(p, tuned[name])}
    assert same == {name for name, _ in tiny.net.named_parameters() if "affine" in name or name.startswith("mapping.")}


def test_the_same_seed_gives_the_same_bytes(tiny, likeness, picture, code):
    def made(seed):
        delta, _ = tune(tiny, picture, code, likeness, config=replace(QUICK, steps=4, seed=seed))
        return delta.apply(tiny).digest

    assert made(1) == made(1) != made(2)


def test_factors_get_the_gradient_of_the_loss(tiny, likeness, picture, code):
    work = _Tuning(tiny, picture, code, likeness, replace(QUICK, locality=0))
    rng = torch.Generator().manual_seed(0)
    for name, left in work.left.items():
        left.copy_(0.1 * torch.randn(left.shape, generator=rng))
        work.sigma[name] = 1.5
    work.put()
    work.losses()[0].backward()
    assert work.pass_on()
    for part in (work.left, work.right):
        for name in ("synthesis.b4.conv1.weight", "synthesis.b32.conv0.weight"):
            slope = part[name].grad
            way = slope / slope.norm()
            found = []
            for step in (0.01, -0.01):
                part[name].add_(step * way)
                work.put()
                found.append(float(work.losses()[0].detach()))
                part[name].sub_(step * way)
            assert (found[0] - found[1]) / 0.02 == pytest.approx(float(slope.norm()), rel=0.02)


def test_weights_of_another_scale_are_tuned_alike(tiny, likeness, picture, code):
    """Demodulation takes the scale of a convolution's weights out of the picture."""
    scaled = Generator(sharing(tiny.net, trained(tiny.net)[0]))
    for parameter in trained(scaled.net)[0].values():
        parameter.mul_(4.0)
    (_, once), (_, four) = (tune(g, picture, code, likeness, config=replace(QUICK, steps=8)) for g in (tiny, scaled))
    for name in ("before", "after", "stored"):
        assert four[name]["mse"] == pytest.approx(once[name]["mse"], rel=0.02)


def test_locality_keeps_the_rest_as_it_was(tiny, likeness, picture, code):
    others = tiny.sample(8, seed=50, truncation=1.0)
    drift = {}
    for weight in (0.0, 1.0):
        delta, figures = tune(
            tiny, picture, code, likeness, config=replace(QUICK, steps=40, locality=weight, reach=1.0)
        )
        assert figures["after"]["mse"] < 0.6 * figures["before"]["mse"]
        with torch.no_grad():
            moved = delta.apply(tiny).render(others) - tiny.render(others)
        drift[weight] = float(moved.square().mean())
    assert drift[1.0] < 0.6 * drift[0.0]


@pytest.mark.parametrize("space", ["w", "w+", "s"])
def test_a_neighbour_is_as_far_as_the_settings_say(tiny, likeness, picture, code, space):
    code = {"w": lambda c: c, "w+": tiny.w_plus, "s": tiny.styles}[space](code)
    spread = tiny.style_statistics(truncation=1.0).std.norm() if space == "s" else tiny.w_samples(1000).std(0).norm()
    work = _Tuning(tiny, picture, code, likeness, replace(QUICK, reach=0.5))
    first, second = (work.neighbour() for _ in range(2))
    assert not torch.equal(first.tensor, second.tensor), "each is another"
    far = (first.tensor - code.tensor).norm(dim=-1)
    assert torch.allclose(far, 0.5 * spread.expand_as(far), rtol=0.02)


def test_a_conditional_generator_has_neighbours_of_all_classes(likeness, picture):
    config = StyleGAN2Config(32, (16, 16, 12, 8), 24, 20, (28, 20), c_dim=3, embed_features=4)
    generator = Generator.random(config)
    code = generator.sample(1, label=1)
    _, figures = tune(generator, picture, code, likeness, config=replace(QUICK, steps=3, locality=1.0))
    assert figures["after"]["loss"] < figures["before"]["loss"]


def test_it_stops_when_close_enough(tiny, likeness, picture, code):
    _, all_the_way = tune(tiny, picture, code, likeness, config=QUICK)
    enough = 0.5 * (all_the_way["before"]["mse"] + all_the_way["after"]["mse"])
    _, figures = tune(tiny, picture, code, likeness, config=replace(QUICK, enough=enough))
    assert figures["ended"] == "close enough"
    assert figures["steps"] < 25
    assert figures["after"]["mse"] < enough


def test_it_stops_when_nothing_improves(tiny, likeness, picture, code):
    _, figures = tune(tiny, picture, code, likeness, config=replace(QUICK, lr=1e-9, patience=5))
    assert figures["ended"] == "no longer better"
    assert figures["steps"] == 5
    assert figures["stored"]["mse"] == pytest.approx(figures["before"]["mse"], rel=1e-3)


def test_a_picture_that_is_there_already_needs_no_step(tiny, likeness, code):
    delta, figures = tune(tiny, tiny.render(code), code, likeness, config=replace(QUICK, enough=1e-6))
    assert (figures["steps"], figures["ended"]) == (0, "close enough")
    assert delta.apply(tiny).digest == tiny.digest


def test_every_step_is_told_and_may_be_the_last(tiny, likeness, picture, code):
    told = []
    tune(tiny, picture, code, likeness, config=replace(QUICK, steps=3), on_step=told.append)
    assert [(step.stage, step.done, step.total) for step in told] == [("tuning", i, 3) for i in range(4)]
    assert all({"loss", "mse"} <= set(step.values) for step in told)
    before = tiny.digest

    def stop(step):
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tiny, picture, code, likeness, config=QUICK, on_step=stop)
    del tiny.__dict__["digest"]
    assert tiny.digest == before
    assert not any(p.requires_grad for p in tiny.net.parameters())


class Breaking(Likeness):
    """NaN from some step on."""

    def __init__(self, good):
        super().__init__(Pixels())
        self.good = good

    def loss(self, images, original):
        self.good -= 1
        return super().loss(images, original) * (1.0 if self.good >= 0 else math.nan)


def test_a_loss_that_is_nan_ends_it_with_the_best_so_far(tiny, picture, code):
    _, figures = tune(tiny, picture, code, Breaking(4), config=replace(QUICK, locality=0))
    assert figures["ended"] == "the loss or its gradient is no longer a number"
    assert figures["steps"] == 4
    assert figures["stored"]["mse"] < figures["before"]["mse"]
    with pytest.raises(InvertError, match="NaN at the start"):
        tune(tiny, picture, code, Breaking(0), config=QUICK)


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_a_rate_far_too_large_gives_nothing_worse_than_the_start(tiny, likeness, picture, code, lr):
    delta, figures = tune(tiny, picture, code, likeness, config=replace(QUICK, lr=lr, steps=8))
    for name in ("after", "stored"):
        assert figures[name]["loss"] <= figures["before"]["loss"] * 1.001
    assert math.isfinite(error(delta.apply(tiny), code, picture))


FFHQ = StyleGAN2Config(1024, (512, 512, 512, 512, 512, 256, 128, 64, 32), 512, 512, (512,) * 8)


@pytest.mark.parametrize("config", [FFHQ, replace(FFHQ, resolution=256, channels=FFHQ.channels[:7])])
@pytest.mark.parametrize("budget", [0.002, 0.01, 0.05, 1.0])
def test_the_budget_holds_for_large_generators(config, budget):
    with torch.device("meta"):
        net = StyleGAN2(config)
    found, (large, small) = ranks(net, budget), trained(net)
    size = sum(r * (large[n].shape[0] + large[n][0].numel() + 4) for n, r in found.items())
    size += 2 * sum(p.numel() for p in small.values())
    total = 4 * sum(p.numel() for p in net.parameters())
    assert size <= budget * total
    assert set(found) == set(large)
    if budget == 1.0:
        assert all(found[name] == p.shape[0] for name, p in large.items()), "no more than of use"
    else:
        assert size > 0.9 * budget * total, "what is allowed is used"


def test_a_budget_too_small_says_what_would_do(tiny):
    with pytest.raises(InvertError, match=r"needs at least 0\.\d+") as caught:
        ranks(tiny.net, 1e-4)
    least = float(str(caught.value).split("at least ")[1].split(":")[0])
    assert set(ranks(tiny.net, least).values()) == {1}


def test_wrong_pictures_and_codes_are_refused(tiny, likeness, picture, code):
    for wrong in (picture[0], picture[:, :, :16], F.interpolate(picture, 16), picture.repeat(2, 1, 1, 1), picture[:0]):
        with pytest.raises(InvertError, match="resize it"):
            tune(tiny, wrong, code, likeness, config=QUICK)
    with pytest.raises(InvertError, match="finite"):
        tune(tiny, picture * math.nan, code, likeness, config=QUICK)
    with pytest.raises(LatentsError, match="one picture at a time"):
        tune(tiny, picture, tiny.sample(2), likeness, config=QUICK)
    with pytest.raises(LatentsError, match="this generator takes"):
        tune(tiny, picture, Latents("w", torch.zeros(1, 7)), likeness, config=QUICK)


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"budget": 0.0},
        {"budget": 1.5},
        {"budget": math.nan},
        {"locality": -1.0},
        {"locality": math.nan},
        {"reach": -0.1},
        {"enough": -1.0},
        {"patience": -1},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny, likeness, picture, code, setting):
    with pytest.raises(InvertError, match=next(iter(setting))):
        tune(tiny, picture, code, likeness, config=replace(QUICK, **setting))
