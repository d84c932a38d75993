"""A ratio is worth something only if both sides compute the same."""

import torch

from benchmarks.measure import timed
from benchmarks.optimization_step import baseline_render


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
