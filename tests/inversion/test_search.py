"""Inversion by optimisation: it finds codes, keeps the best ones, and does not depend on the neighbours."""

import math
from dataclasses import replace

import pytest
import torch

from inversion.kit import Pixels
from stylograph.errors import InvertError, StylographError
from stylograph.images import resize
from stylograph.inversion.config import SearchConfig
from stylograph.inversion.likeness import Likeness, Strangers
from stylograph.inversion.perceptual import Lpips, Perceptual
from stylograph.inversion.search import beginnings, search, structure, with_noise
from stylograph.types import Latents

QUICK = SearchConfig(steps=12, trial=3, pool=6, starts=2, noise=0, patience=0)


@pytest.fixture
def likeness():
    return Likeness(Pixels())


@pytest.fixture
def pictures(tiny):
    with torch.no_grad():
        return tiny.render(tiny.sample(2, seed=5)).clamp(-1, 1)


def error(generator, latents, pictures):
    with torch.no_grad():
        return (generator.render(latents).clamp(-1, 1) - pictures).square().mean((1, 2, 3))


class TestSearch:
    def test_comes_nearer_than_the_start(self, tiny, likeness, pictures):
        start = tiny.w_plus(tiny.mean(2))
        found = search(tiny, pictures, likeness, start=start, config=replace(QUICK, steps=40))
        assert found.space == "w+"
        assert (error(tiny, found, pictures) < 0.6 * error(tiny, start, pictures)).all()
        assert not found.tensor.requires_grad

    @pytest.mark.parametrize(("space", "alike"), [("w", True), ("w+", False)])
    def test_vectors_of_a_row(self, tiny, likeness, pictures, space, alike):
        found = search(tiny, pictures, likeness, config=replace(QUICK, space=space)).tensor
        assert found.shape == (2, tiny.num_ws, tiny.w_dim)
        assert torch.equal(found, found[:, :1].expand_as(found)) == alike

    def test_a_picture_does_not_depend_on_its_neighbours(self, tiny, likeness, pictures):
        both = search(tiny, pictures, likeness, config=QUICK).tensor
        alone = search(tiny, pictures[1:], likeness, config=replace(QUICK, batch=1)).tensor
        assert torch.allclose(both[1:], alone, atol=1e-4)

    def test_the_same_call_gives_the_same_codes(self, tiny, likeness, pictures):
        a, b = (search(tiny, pictures, likeness, config=QUICK).tensor for _ in range(2))
        assert torch.equal(a, b)

    def test_near_keeps_the_code_at_its_start(self, tiny, likeness, pictures):
        start = tiny.w_plus(tiny.sample(2, seed=9))
        free, held = (
            search(tiny, pictures, likeness, start=start, config=replace(QUICK, near=n)).tensor for n in (0, 100.0)
        )
        assert (held - start.tensor).norm() < 0.2 * (free - start.tensor).norm()

    def test_a_reduced_comparison_moves_what_it_sees(self, tiny, likeness, pictures):
        start = tiny.w_plus(tiny.mean(2))
        found = search(tiny, pictures, likeness, start=start, config=replace(QUICK, up_to=16, steps=30, near=0))
        with torch.no_grad():
            small = [tiny.render(codes, up_to=16) for codes in (start, found)]
        before, after = ((image - resize(pictures, 16)).square().mean() for image in small)
        assert after < 0.8 * before
        assert torch.equal(found.tensor[:, -1], start.tensor[:, -1])

    def test_pictures_of_nan_are_told(self, tiny, likeness):
        with pytest.raises(InvertError, match="NaN at the start"):
            search(tiny, torch.full((1, 3, 32, 32), math.nan), likeness, start=tiny.mean(1), config=QUICK)

    def test_progress_reaches_its_end(self, tiny, likeness, pictures):
        steps = []
        search(tiny, pictures, likeness, start=tiny.mean(2), config=replace(QUICK, batch=1), on_step=steps.append)
        assert steps[-1].done == steps[-1].total == 24

    def test_a_flat_loss_ends_early(self, tiny, likeness, pictures):
        steps = []
        settings = replace(QUICK, steps=60, lr=1e-9, patience=4)
        search(tiny, pictures, likeness, start=tiny.mean(2), config=settings, on_step=steps.append)
        assert steps[-1].done < 10

    @pytest.mark.parametrize(
        "change",
        [{"steps": 0}, {"starts": 0}, {"pool": 1}, {"lr": 0.0}, {"near": -1.0}, {"up_to": 33}, {"noise": math.nan}],
        ids=str,
    )
    def test_settings_that_make_no_sense(self, tiny, likeness, pictures, change):
        with pytest.raises(InvertError, match=next(iter(change))):
            search(tiny, pictures, likeness, config=replace(QUICK, **change))

    def test_as_many_starts_as_pictures(self, tiny, likeness, pictures):
        with pytest.raises(InvertError, match="3 codes"):
            search(tiny, pictures, likeness, start=tiny.mean(3), config=QUICK)


def test_beginnings_hold_the_average_and_the_nearest(tiny, likeness):
    config = replace(QUICK, pool=5, starts=2)
    w = tiny.net.mapping.w_avg.lerp(tiny.w_samples(5, seed=config.seed), 0.7)[3:4]
    with torch.no_grad():
        picture = tiny.render(Latents("w", w, tiny)).clamp(-1, 1)
    found = beginnings(tiny, picture, config).tensor
    assert torch.equal(found[0, 0], tiny.net.mapping.w_avg)
    assert torch.allclose(found[1, 0], w[0])


class TestNoise:
    def test_maps_are_the_pictures_own_and_the_rest_is_shared(self, tiny):
        net, maps = with_noise(tiny.net, 3)
        assert {tuple(m.shape[:2]) for m in maps.values()} == {(3, 1)}
        assert len(maps) == sum(not layer.to_rgb for layer in tiny.layers)
        assert all(a is b for a, b in zip(net.parameters(), tiny.net.parameters()))
        assert tiny.net.get_submodule("synthesis.b8.conv0").noise_const.ndim == 2

    def test_maps_are_optimised_and_forgotten(self, tiny, likeness, pictures):
        maps = {n: b.clone() for n, b in tiny.net.named_buffers()}
        start, grain = tiny.w_plus(tiny.sample(2, seed=5)), torch.Generator().manual_seed(1)
        noisy = (pictures + 0.3 * torch.randn(pictures.shape, generator=grain)).clamp(-1, 1)
        with_maps, without = (
            search(tiny, noisy, likeness, start=start, config=replace(QUICK, noise=noise)).tensor for noise in (1e5, 0)
        )
        assert not torch.equal(with_maps, without)
        assert all(torch.equal(b, maps[n]) for n, b in tiny.net.named_buffers())

    def test_structure_is_small_for_noise_and_large_for_a_picture(self):
        noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        assert structure(noise) < 0.05
        assert structure(torch.linspace(-1.7, 1.7, 32).expand(2, 1, 32, 32)) > 1

    def test_structure_of_a_checkerboard_by_hand(self):
        checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
        assert structure(checks).item() == pytest.approx(2.0)


class TestLikeness:
    def test_is_the_sum_of_its_terms(self, tiny, pictures):
        class Who:
            def embed(self, images):
                return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)

        likeness = Likeness(Pixels(), Who(), lambda_perceptual=0.5, lambda_identity=0.25)
        other, who = pictures.flip(0), Who().embed(pictures)
        wanted = (
            (other - pictures).square().mean((1, 2, 3))
            + 0.5 * (other - pictures).abs().mean((1, 2, 3))
            + 0.25 * (1 - (who * who.flip(0)).sum(1))
        )
        assert torch.allclose(likeness.loss(other, likeness.of(pictures, tiny)), wanted, atol=1e-6)

    def test_figures(self, tiny, likeness, pictures):
        original = likeness.of(pictures, tiny)
        same, other = (likeness.figures(p, original, Strangers.of(tiny)) for p in (pictures, pictures.flip(0)))
        assert [f.closeness for f in same] == [1.0, 1.0]
        assert (same[0].verdict, same[0].identity) == ("very close", None)
        assert other[0].mse == pytest.approx(float((pictures[0] - pictures[1]).square().mean()), rel=1e-5)
        assert other[0].closeness < 0.9

    def test_strangers_are_compared_as_one_by_one(self, tiny, pictures):
        drawn = tiny.render(tiny.sample(16, seed=0, truncation=0.7)).clamp(-1, 1)
        wanted = (drawn[None] - pictures[:, None]).square().mean((1, 2, 3, 4))
        assert torch.allclose(Strangers.of(tiny).error(pictures), wanted, atol=1e-5)

    def test_parts_of_an_original(self, tiny, likeness, pictures):
        original = likeness.of(pictures, tiny)
        assert torch.equal(likeness.loss(pictures[1:], original[[1]]), likeness.loss(pictures, original)[1:])


class TestPerceptual:
    def test_equal_pictures_are_at_zero_and_others_are_not(self, clip, pictures):
        distance = Perceptual(clip)
        seen = distance.see(pictures)
        assert torch.allclose(distance.distance(pictures, seen), torch.zeros(2), atol=1e-6)
        assert (distance.distance(pictures.flip(0), seen) > 1e-3).all()

    def test_gradients_reach_the_picture(self, clip, pictures):
        image, distance = pictures.clone().requires_grad_(), Perceptual(clip)
        distance.distance(image, distance.see(pictures.flip(0))).sum().backward()
        assert image.grad.abs().sum() > 0

    def test_one_picture_against_many(self, clip, pictures):
        distance = Perceptual(clip)
        found = distance.distance(pictures[:1], distance.see(pictures))
        assert found.shape == (2,)
        assert found[0] < 1e-6 < found[1]

    def test_lpips_says_what_is_missing(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "lpips", None)
        with pytest.raises(StylographError, match=r"stylograph\[lpips\]"):
            Lpips()
