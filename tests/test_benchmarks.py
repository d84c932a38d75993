"""A ratio is worth something only if both sides compute the same."""

import copy

import pytest
import torch
import torch.nn.functional as F

from benchmarks.adaptation_step import OneVector, PlainTwins, chance_overlap
from benchmarks.measure import timed
from benchmarks.optimization_step import baseline_render
from stylograph.embed import Tower
from stylograph.nada.config import AdaptConfig
from stylograph.nada.target import Target
from stylograph.nada.training import movement
from stylograph.nada.twins import Twins


def test_the_baseline_draws_the_same_picture(tiny):
    ws = tiny.sample(2).tensor[:, None].repeat(1, tiny.num_ws, 1).requires_grad_()
    ours = tiny.net(ws)
    plain = baseline_render(tiny.net, ws)
    assert float((ours - plain).detach().abs().max()) < 1e-4
    gradients = [torch.autograd.grad(image.square().sum(), ws)[0] for image in (ours, plain)]
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-2)


def test_timing_counts_only_the_repeats():
    calls = []
    found = timed(lambda: calls.append(1), repeats=3, warmup=2)
    assert len(calls) == 5
    assert found["seconds"] >= 0
    assert found["peak_gb"] > 0


@pytest.fixture(scope="module")
def twins(tiny):
    """The package's twins and the baseline's after the same change of every weight, aimed at the same vectors."""
    from transformers import CLIPConfig, CLIPModel

    layer = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config={**layer, "image_size": 32, "patch_size": 8}, projection_dim=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)  # as it is made, all pictures look alike to it
    clip = OneVector([Tower("random", model.eval().requires_grad_(False), None, 32, (0.5,) * 3, (0.5,) * 3)])
    point, way = F.normalize(torch.randn(2, 1, 16), dim=-1)
    config = AdaptConfig(
        batch=2, pool=4, held_out=2, top_k=0, lambda_global=0.0, noise="const", affine=True, const=True
    ).filled(7)
    ours = Twins(tiny, Target(clip, point, way, torch.ones(1), 1.0, {}), config)
    copied = Target(copy.deepcopy(clip), point, way, torch.ones(1), 1.0, {})  # the baseline thaws its CLIP
    plain = PlainTwins(tiny, copied, top_k=0, noise="const")
    with torch.no_grad():
        theirs = dict(plain.trained.named_parameters())
        for name, parameter in ours.parameters.items():
            parameter += 0.1 * torch.randn_like(parameter)
            theirs[name].copy_(parameter)
    return ours, plain


def test_loss_and_gradient_of_the_baseline_are_ours(twins):
    ours, plain = twins
    rows = torch.tensor([2, 0])
    new = ours.target.clip.embed_images(ours.child_pictures(rows, seed=0))
    loss = ours.target.directional(new, ours.old[rows]).mean()
    other = plain.loss(ours.pool.z[rows, 0])
    assert float((loss - other).detach().abs()) < 1e-5
    assert 0.01 < float(loss.detach()) < 2
    trained = {name: p for name, p in plain.trained.named_parameters() if p.requires_grad}
    assert set(trained) == set(ours.active)
    wanted = dict(zip(trained, torch.autograd.grad(other, trained.values())))
    for name, slope in zip(ours.active, torch.autograd.grad(loss, ours.active.values())):
        want = wanted[name]
        assert float((slope - want).norm()) <= 2e-3 * float(want.norm()), name
        assert float(want.norm()) > 0, name


def test_the_baseline_chooses_by_the_same_movement(twins):
    ours, plain = twins
    z = torch.randn((8, plain.trained.config.z_dim), generator=torch.Generator().manual_seed(5))
    found, wanted = movement(ours, seed=5), plain.movement(z)
    assert torch.allclose(found, wanted, rtol=2e-3)
    ours.let_train(ours.layers)


def test_only_what_is_chosen_moves(tiny, twins):
    chooser = PlainTwins(tiny, twins[1].target, top_k=2)
    chooser.step()
    before = tiny.net.state_dict()
    moved = {name for name, p in chooser.trained.named_parameters() if not torch.equal(p, before[name])}
    assert len({name.rsplit(".conv", 1)[0] + name.rsplit(".conv", 1)[1][0] for name in moved}) == 2
    assert all(".conv" in name for name in moved)


def test_overlap_of_random_sets():
    assert chance_overlap(1, 4) == pytest.approx(0.25)
    assert chance_overlap(2, 3) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert chance_overlap(5, 5) == 1
