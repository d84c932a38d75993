"""Latent optimization: the loss is the paper's, images are independent, nothing is random."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import save_tiny_clip

from stylograph import Clip, Latents, load_edit
from stylograph.edit.optimize import OptimizeConfig, _Problem, learning_rate, optimize
from stylograph.errors import EditError, LatentsError, PromptError, StylographError

pytestmark = pytest.mark.filterwarnings("ignore::stylograph.errors.PromptWarning")
TARGET, NEUTRAL = "a person wearing a hat", "a person"
QUICK = OptimizeConfig(space="w+", steps=12, patience=0, l2=0.008)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip")))


class Eye:
    """A recogniser of nothing in particular."""

    name = "eye"

    def embed(self, images):
        small = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return torch.nn.functional.normalize(small, dim=-1)


def test_the_schedule_is_the_references(golden):
    recorded = golden("lr_schedule.npz")
    lr = float(recorded["initial_lr_f64"])
    steps = len(recorded["lr_f64"])
    got = [learning_rate(i / steps, lr=lr) for i in range(steps)]
    assert np.allclose(got, recorded["lr_f64"].numpy(), atol=1e-12)


@pytest.mark.parametrize("space", ["w+", "s"])
@pytest.mark.parametrize("neutral", [None, NEUTRAL])
def test_the_loss_falls_and_the_reported_loss_is_true(tiny, clip, space, neutral):
    w, eye = tiny.sample(2), Eye()
    config = replace(QUICK, space=space, identity=0.3)
    edit = optimize(tiny, clip, w, TARGET, neutral=neutral, identity=eye, config=config)
    assert edit.provenance["fall"] > 0.001
    with torch.no_grad():
        before, after = tiny.render(w), tiny.render(edit(w))
        old, new = clip.embed_images(before), clip.embed_images(after)
        if neutral is None:
            clip_term = 1 - new @ clip.embed_text(TARGET, templates=False)[0]
        else:
            clip_term = 1 - (new - old) @ clip.text_direction(TARGET, neutral)
        person = 1 - (eye.embed(before) * eye.embed(after)).sum(-1)
    rest = edit.provenance["loss"] - float((clip_term + 0.3 * person).mean())
    assert rest > 0  # what is left is λ·‖offset‖², whose size a run without the term says nothing about
    if space == "s":
        std = tiny.style_statistics().std
        square = (edit.delta / std.clamp_min(1e-12)).square().sum(1)
        assert rest == pytest.approx(float(config.l2 * square.mean()), rel=1e-2)


def test_l2_in_w_plus_is_the_sum_over_all_numbers(tiny, clip):
    """A heavy λ keeps the code where it is; the mean over 160 numbers weighs 160 times less than the sum."""
    w = tiny.sample(1)
    length = {
        reduction: float(
            optimize(tiny, clip, w, TARGET, config=replace(QUICK, l2=1.0, l2_reduction=reduction)).delta.norm()
        )
        for reduction in ("sum", "mean")
    }
    assert length["sum"] < 0.5 * length["mean"]
    numbers = tiny.num_ws * tiny.w_dim
    same = optimize(tiny, clip, w, TARGET, config=replace(QUICK, l2=float(numbers), l2_reduction="mean"))
    assert float(same.delta.norm()) == pytest.approx(length["sum"], rel=1e-3)


def test_torgb_stays_in_s(tiny, clip):
    edit = optimize(tiny, clip, tiny.sample(1), TARGET, config=replace(QUICK, space="s"))
    for layer in tiny.layers:
        assert bool(edit.delta[:, layer.s_slice].any()) != layer.to_rgb


def test_same_call_same_result_and_images_are_independent(tiny, clip):
    w = tiny.sample(3)
    together = optimize(tiny, clip, w, TARGET, neutral=NEUTRAL, config=QUICK)
    with torch.no_grad():  # what the caller does about gradients is the caller's business
        assert torch.equal(together.delta, optimize(tiny, clip, w, TARGET, neutral=NEUTRAL, config=QUICK).delta)
    for i in range(3):
        alone = optimize(tiny, clip, w[i], TARGET, neutral=NEUTRAL, config=QUICK)
        assert torch.allclose(alone.delta[0], together.delta[i], atol=2e-3)
    in_parts = optimize(tiny, clip, w, TARGET, neutral=NEUTRAL, config=replace(QUICK, batch=2))
    assert torch.allclose(in_parts.delta, together.delta, atol=2e-3)


@pytest.mark.parametrize("space", ["w+", "s"])
def test_the_gradient_is_that_of_the_loss(tiny, clip, space):
    config = replace(QUICK, space=space, identity=0.3, l2=0.05)
    source = (tiny.styles if space == "s" else tiny.w_plus)(tiny.sample(1))
    problem = _Problem(tiny, clip, source, clip.text_direction(TARGET, NEUTRAL), True, Eye(), config)
    rng = torch.Generator().manual_seed(0)
    offset = 0.1 * torch.randn(source.tensor.shape, generator=rng)
    towards = torch.randn(source.tensor.shape, generator=rng)
    (gradient,) = torch.autograd.grad(problem.loss(offset.requires_grad_()).sum(), offset)
    step = 0.01
    with torch.no_grad():
        rise = problem.loss(offset + step * towards) - problem.loss(offset - step * towards)
    assert float((gradient * towards).sum()) == pytest.approx(float(rise) / (2 * step), rel=0.05)


def test_the_best_step_is_kept(tiny, clip):
    """With an absurd rate the last step is worse than the start; the result must not be."""
    w = tiny.sample(2)
    seen = []
    config = replace(QUICK, lr=50.0)
    edit = optimize(tiny, clip, w, TARGET, config=config, on_step=lambda step: seen.append(step.values["loss"]))
    assert seen == sorted(seen, reverse=True)
    assert edit.provenance["loss"] == pytest.approx(seen[-1], abs=1e-6)
    assert edit.provenance["fall"] >= 0


def test_stops_when_flat(tiny, clip):
    heavy = OptimizeConfig(steps=60, patience=5, l2=1e6)
    assert optimize(tiny, clip, tiny.sample(1), TARGET, config=heavy).provenance["steps"] < 20


def test_from_the_mean_latent(tiny, clip):
    edit = optimize(tiny, clip, tiny.mean(), TARGET, config=replace(QUICK, l2=0.0, steps=20))
    text = clip.embed_text(TARGET, templates=False)[0]
    with torch.no_grad():
        old, new = (clip.embed_images(tiny.render(codes)) @ text for codes in (tiny.mean(), edit(tiny.mean())))
    assert float(new) > float(old) + 0.005


def test_a_start_is_refined_in_its_own_channels(tiny, clip):
    w = tiny.sample(2)
    begin = tiny.styles(w).tensor.clone()
    chosen = [0, 3, tiny.layers[2].s_slice.start]
    begin[:, chosen] += 0.5 * tiny.style_statistics().std[chosen]
    start, config = Latents("s", begin), replace(QUICK, space="s", l2=0.0)
    edit = optimize(tiny, clip, w, TARGET, neutral=NEUTRAL, start=start, config=config)
    moved = edit.delta.abs().amax(0).nonzero().flatten().tolist()
    assert moved == chosen
    wanted = clip.text_direction(TARGET, NEUTRAL)
    with torch.no_grad():
        reached, started = (clip.embed_images(tiny.render(codes)) @ wanted for codes in (edit(w), start))
    assert bool((reached > started).all())
    with pytest.raises(LatentsError, match="one each"):
        optimize(tiny, clip, tiny.sample(3), TARGET, start=start, config=config)


def test_half_resolution_judges_the_smaller_image(tiny, clip):
    """Layers above the image that is judged cannot be asked to move."""
    edit = optimize(tiny, clip, tiny.sample(1), TARGET, config=replace(QUICK, space="s", up_to=16))
    for layer in tiny.layers:
        if layer.resolution > 16:
            assert not edit.delta[:, layer.s_slice].any()


def test_kept_as_a_file(tiny, clip, tmp_path):
    w = tiny.sample(2)
    edit = optimize(tiny, clip, w, TARGET, config=QUICK)
    again = load_edit(edit.save(tmp_path / "hat.safetensors"), tiny)
    assert torch.equal(again(w).tensor, edit(w).tensor)
    assert again.provenance["settings"]["steps"] == 12


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"space": "z"}, StylographError),
        ({"l2_reduction": "max"}, StylographError),
        ({"steps": 0}, EditError),
        ({"l2": -1.0}, EditError),
        ({"lr": 0.0}, EditError),
        ({"up_to": 24}, StylographError),
    ],
)
def test_wrong_settings(tiny, clip, changes, error):
    with pytest.raises(error, match="got"):
        optimize(tiny, clip, tiny.sample(1), TARGET, config=replace(QUICK, **changes))


def test_wrong_input(tiny, clip):
    with pytest.raises(PromptError, match="empty"):
        optimize(tiny, clip, tiny.sample(1), " ")
    with pytest.raises(PromptError, match="same sentence"):
        optimize(tiny, clip, tiny.sample(1), NEUTRAL, neutral=NEUTRAL)
    with pytest.raises(LatentsError, match="space='s'"):
        optimize(tiny, clip, Latents("s", torch.ones(1, tiny.s_dim)), TARGET, config=QUICK)
