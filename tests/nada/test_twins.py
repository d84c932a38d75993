"""Parent and child, what CLIP sees of them, and the choice of layers."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY

from nada.kit import CONVOLUTIONS, QUICK, SOURCE, WANTED, draw, twins_of
from stylograph import Generator
from stylograph.errors import AdaptError, EditError
from stylograph.nada.adapt import adapt_to, prepare
from stylograph.nada.target import aim
from stylograph.nada.training import losses, movement, train
from stylograph.nada.twins import Twins, convolutions, cropped, crops


def names_trained(twins):
    return {name.removeprefix("synthesis.") for name in twins.parameters}


class TestCrops:
    def test_are_squares_inside_the_picture_and_a_function_of_the_seed(self):
        found = crops(500, 0.4, 7)
        side, place = found[:, 0, 0], found[:, :, 2]
        assert torch.equal(side, found[:, 1, 1])
        assert not found[:, [0, 1], [1, 0]].any()
        assert 0.6 <= float(side.min()) < 0.62
        assert 0.98 < float(side.max()) <= 1
        assert float((place.abs() + side[:, None]).max()) <= 1 + 1e-6
        assert torch.equal(found, crops(500, 0.4, 7))
        assert not torch.equal(found, crops(500, 0.4, 8))

    def test_show_the_part_they_say(self):
        ramp = torch.linspace(-1, 1, 9).expand(1, 1, 9, 9)
        half = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]])
        edges = cropped(ramp, half)[0, 0, 4, [0, 6]]
        # Column i of nine looks at 0.5 + 0.5·((2i + 1)/9 - 1); the ramp's own columns stand at 8/9 of their values.
        assert torch.allclose(edges * 8 / 9, torch.tensor([0.5 - 4 / 9, 0.5 + 2 / 9]), atol=1e-6)
        assert torch.allclose(cropped(ramp, torch.eye(2, 3)[None]), ramp, atol=1e-6)

    def test_parent_and_child_are_seen_through_the_same_ones(self, tiny, target):
        settings = replace(QUICK, crops=0.3, noise="const").filled(len(CONVOLUTIONS))
        twins = Twins(tiny, target, settings)
        rows = torch.tensor([5, 0])
        child = twins.child_pictures(rows, seed=3)
        new, old = twins.see(child, rows, seed=3)
        assert torch.equal(new, old)
        assert float((old - twins.old[[5, 0]]).abs().max()) > 1e-3
        whole = Twins(tiny, target, replace(settings, crops=0.0))
        assert whole.pictures is None
        assert torch.equal(whole.see(child, rows, seed=3)[1], whole.old[[5, 0]])


class TestTwins:
    @pytest.mark.parametrize("memory", ["normal", "small", "smallest"])
    @pytest.mark.parametrize("noise", ["const", "random"])
    def test_the_child_begins_as_its_parent(self, tiny, target, memory, noise):
        twins = Twins(tiny, target, replace(QUICK, memory=memory, noise=noise).filled(7))
        codes = tiny.sample(3, seed=4)
        ws = tiny.w_plus(codes).tensor
        if noise == "const":
            assert torch.equal(twins.draw(twins.net, ws, 0), tiny.render(codes).clamp(-1, 1))
        for rows in torch.arange(4).split(twins.chunk):
            with torch.no_grad():
                seen = target.clip.embed_images(twins.child_pictures(rows, seed=int(rows[0])))
            assert float((seen - twins.old[rows]).abs().max()) < 1e-6

    @pytest.mark.parametrize("layers", [(), ("b8.conv0",), ("b8.conv1",)])
    def test_noise_is_the_same_wherever_training_begins(self, tiny, target, layers):
        twins = Twins(tiny, target, replace(QUICK, noise="random", layers=layers).filled(7 if not layers else 1))
        rows = torch.arange(3)
        codes = twins.pool.codes(tiny.net, rows)
        with torch.no_grad():
            assert float((twins.child_pictures(rows, seed=5) - twins.draw(twins.net, codes, 5)).abs().max()) < 1e-6

    def test_noise_is_drawn_anew_for_every_seed(self, tiny, target):
        twins = Twins(tiny, target, replace(QUICK, noise="random").filled(7))
        rows = torch.arange(2)
        first, again, other = (twins.child_pictures(rows, seed=s) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_what_is_frozen_is_the_parents_own(self, tiny, target):
        twins = Twins(tiny, target, replace(QUICK, layers=("b16",)).filled(2))
        parent = {**dict(tiny.net.named_parameters()), **dict(tiny.net.named_buffers())}
        child = {**dict(twins.net.named_parameters()), **dict(twins.net.named_buffers())}
        assert parent.keys() == child.keys()
        for name, tensor in child.items():
            assert (tensor.data_ptr() != parent[name].data_ptr()) == (name in twins.parameters), name
        assert not any(p.requires_grad for p in tiny.net.parameters())

    @pytest.mark.parametrize(
        ("settings", "more"),
        [
            ({}, set()),
            ({"affine": True}, {f"{la}.affine.{kind}" for la in CONVOLUTIONS for kind in ("weight", "bias")}),
            ({"torgb": True}, {f"b{r}.torgb.{kind}" for r in (4, 8, 16, 32) for kind in ("weight", "bias")}),
            (
                {"torgb": True, "affine": True},
                {
                    f"{name}{kind}"
                    for name in [
                        *(f"{la}.affine." for la in CONVOLUTIONS),
                        *(f"b{r}.torgb.{part}" for r in (4, 8, 16, 32) for part in ("", "affine.")),
                    ]
                    for kind in ("weight", "bias")
                },
            ),
            ({"const": True}, {"b4.const"}),
            ({"mapping": True}, {f"mapping.fc{i}.{kind}" for i in range(2) for kind in ("weight", "bias")}),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "changes",
    )
    def test_only_what_the_settings_allow_changes(self, tiny, target, settings, more):
        before, digest = {k: v.clone() for k, v in tiny.net.state_dict().items()}, tiny.digest
        usual = {f"{la}.{kind}" for la in CONVOLUTIONS for kind in ("weight", "bias", "noise_strength")}
        run = prepare(tiny, target, replace(QUICK, steps=1, **settings))
        assert names_trained(run.twins) == usual | more
        train(run, None, None)
        moved = {
            name.removeprefix("synthesis.")
            for name, tensor in run.twins.net.state_dict().items()
            if not torch.equal(tensor, before[name])
        }
        assert moved == usual | more
        released = run.twins.release(run.average).state_dict()
        changed = {k for k, v in released.items() if not torch.equal(v, before[k])}
        assert {name.removeprefix("synthesis.") for name in changed} == usual | more
        assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.net.state_dict().items())
        assert Generator.from_checkpoint(tiny.checkpoint()).digest == digest

    @pytest.mark.parametrize(
        ("layers", "settings"),
        [
            ((), {}),
            (("b8.conv0",), {}),
            (("b8.conv1", "b32.conv0"), {}),
            (("b32.conv1",), {}),
            (("b16",), {"affine": True}),
            (("b32",), {"torgb": True}),
            (("b32",), {"const": True}),
            (("b32",), {"mapping": True}),
        ],
        ids=str,
    )
    def test_gradients_are_those_of_running_the_whole_child(self, tiny, both, layers, settings):
        target = aim(tiny, both, WANTED, SOURCE)
        twins = twins_of(tiny, target, noise="const", layers=layers, top_k=0, lambda_global=0.7, **settings)
        rows = torch.tensor([5, 0, 3])
        terms = losses(twins, rows, seed=1)
        terms["loss"].backward()

        net = copy.deepcopy(twins.net).requires_grad_(True)
        new, old = (
            both.embed_images(draw(n, twins.pool.codes(n, rows))) for n in (net, tiny.net.requires_grad_(False))
        )
        direction = target.directional(new, old).mean()
        distance = target.distance(new).mean()
        (direction + 0.7 * distance).backward()
        assert terms["direction"].item() == pytest.approx(direction.item(), abs=1e-5)
        assert terms["global"].item() == pytest.approx(distance.item(), abs=1e-5)
        assert terms["loss"].item() == pytest.approx((direction + 0.7 * distance).item(), abs=1e-5)
        plain = dict(net.named_parameters())
        for name, parameter in twins.active.items():
            size = float(plain[name].grad.abs().max())
            assert size > 0, name
            assert float((parameter.grad - plain[name].grad).abs().max()) < 1e-4 * size + 1e-6, name

    def test_gradient_is_the_slope_of_the_loss(self, tiny, target):
        twins = twins_of(tiny, target, noise="const", layers=("b8", "b16"), affine=True)
        rows, parameters = torch.arange(4), list(twins.active.values())
        slopes = torch.autograd.grad(losses(twins, rows, seed=0)["loss"], parameters)
        length = float(torch.cat([slope.flatten() for slope in slopes]).norm())
        sides = []
        with torch.no_grad():
            for sign in (1, -2):
                for parameter, slope in zip(parameters, slopes):
                    parameter += sign * 0.02 * slope / length
                sides.append(losses(twins, rows, seed=0)["loss"].item())
        assert (sides[0] - sides[1]) / 0.04 == pytest.approx(length, rel=0.03)

    def test_a_layer_that_has_trained_before_counts_also_while_it_rests(self, tiny, target):
        twins = Twins(tiny, target, replace(QUICK, noise="const").filled(7))
        with torch.no_grad():
            twins.parameters["synthesis.b4.conv1.bias"] += 1.0
        twins.let_train([la for la in twins.layers if la.name == "b32.conv1"])
        rows = torch.arange(2)
        with torch.no_grad():
            whole = draw(twins.net, twins.pool.codes(twins.net, rows))
            assert float((twins.child_pictures(rows) - whole).abs().max()) < 1e-5

    @pytest.mark.parametrize("layers", [(), ("b16.conv1", "b32")], ids=str)
    def test_less_memory_gives_the_same_step(self, tiny, target, layers):
        def slopes(memory, noise):
            config = replace(QUICK, memory=memory, noise=noise, layers=layers, batch=3, affine=True, torgb=True)
            run = prepare(tiny, target, config)
            run.optimizer.step = lambda: None
            found = run.descend()
            return found, {name: p.grad.clone() for name, p in run.twins.active.items()}

        for noise, modes in {"const": ("normal", "small", "smallest"), "random": ("small", "smallest")}.items():
            (terms, want), *others = (slopes(mode, noise) for mode in modes)
            for found, got in others:
                assert found == pytest.approx(terms, abs=1e-5)
                for name, slope in got.items():
                    size = float(want[name].abs().max())
                    assert float((slope - want[name]).abs().max()) < 1e-4 * size + 1e-6, (noise, name)

    def test_released_child_owns_its_weights(self, tiny, target):
        twins = twins_of(tiny, target)
        net = twins.release({name: p.detach().clone() for name, p in twins.parameters.items()})
        rows = torch.arange(2)
        ws = twins.pool.codes(tiny.net, rows)
        assert torch.equal(net(ws, noise="const"), twins.net(ws, noise="const"))
        mine = {t.data_ptr() for t in (*net.parameters(), *net.buffers())}
        theirs = {t.data_ptr() for n in (tiny.net, twins.net) for t in (*n.parameters(), *n.buffers())}
        assert not mine & theirs

    def test_style_mixing(self, tiny, target):
        plain = Twins(tiny, target, replace(QUICK, mixing=0.0).filled(7))
        mixed = Twins(tiny, target, replace(QUICK, mixing=1.0).filled(7))
        rows = torch.arange(12)
        codes, same = mixed.pool.codes(tiny.net, rows), plain.pool.codes(tiny.net, rows)
        assert bool((same == same[:, :1]).all())
        for row, (some, first) in enumerate(zip(codes, same)):
            kept = (some == first).all(-1)
            if row >= QUICK.pool:  # held-out latents are never mixed
                assert bool(kept.all())
                continue
            cut = int(mixed.pool.cut[row])
            assert 1 <= cut < tiny.num_ws
            assert kept.tolist() == [i < cut for i in range(tiny.num_ws)]
            assert bool((some[cut:] == some[cut]).all())


class TestChoice:
    @pytest.mark.parametrize("memory", ["normal", "small"])
    def test_movement_is_the_mean_absolute_gradient(self, tiny, target, memory):
        twins = twins_of(tiny, target, memory=memory, noise="const", select_batch=5)
        got = movement(twins, seed=11)
        z = torch.randn((5, tiny.z_dim), generator=torch.Generator().manual_seed(11))
        ws = tiny.w_plus(tiny.map(z)).tensor.requires_grad_()
        seen = target.clip.embed_images(draw(twins.net, ws))
        loss = (1 - F.cosine_similarity(seen, target.points)).mean()
        (slope,) = torch.autograd.grad(loss, ws)
        want = slope.abs().mean((0, 2))
        assert got.shape == (tiny.num_ws,)
        assert (got / got.sum()).tolist() == pytest.approx((want / want.sum()).tolist(), rel=1e-2)
        assert not any(p.grad is not None for p in twins.net.parameters())

    @pytest.mark.parametrize("name", CONVOLUTIONS)
    def test_the_convolution_that_matters_wins(self, target, name):
        generator = Generator.random(TINY, seed=4)
        for layer in generator.layers:  # only this convolution listens to its latent code
            if layer.name != name:
                generator.net.synthesis.get_submodule(layer.name).affine.weight.zero_()
        (layer,) = [la for la in generator.layers if la.name == name]
        run = prepare(generator, target, replace(QUICK, top_k=1, select_steps=2))
        found = movement(run.twins, seed=0)
        assert [i for i, value in enumerate(found.tolist()) if value > 0] == [layer.w_index]
        run.choose_layers()
        assert run.chosen == [name]
        assert {n.removeprefix("synthesis.").rpartition(".")[0] for n in run.twins.active} == {name}

    def test_as_many_as_asked_for_and_the_rest_rests(self, tiny, target):
        run = prepare(tiny, target, replace(QUICK, top_k=2))
        before = run.weights()
        found = movement(run.twins, seed=0)
        run.choose_layers()
        order = sorted(run.twins.layers, key=lambda la: -float(found[la.w_index]))
        assert run.chosen == [la.name for la in order[:2]]
        run.descend()
        moved = {n.rpartition(".")[0] for n, t in run.weights().items() if not torch.equal(t, before[n])}
        assert moved == {f"synthesis.{chosen}" for chosen in run.chosen}

    def test_is_made_every_so_many_steps(self, tiny, target, monkeypatch):
        made = []
        monkeypatch.setattr(
            "stylograph.nada.training.movement", lambda twins, *, seed: made.append(seed) or torch.rand(tiny.num_ws)
        )
        adapt_to(tiny, target, config=replace(QUICK, steps=7, top_k=3, select_every=3))
        assert made == [0, 3, 6]
        adapt_to(tiny, target, config=replace(QUICK, steps=3, top_k=0))
        assert len(made) == 3

    def test_layers(self, tiny, target):
        assert [la.name for la in convolutions(tiny)] == CONVOLUTIONS
        assert [la.name for la in convolutions(tiny, ("8", "b32.*"))] == [*CONVOLUTIONS[1:3], *CONVOLUTIONS[5:]]
        run = prepare(tiny, target, replace(QUICK, layers=("conv0",), top_k=1))
        run.choose_layers()
        assert run.chosen[0].endswith("conv0")
        for patterns in (("torgb",), ("b16.torgb",)):
            with pytest.raises(AdaptError, match="none of them a convolution"):
                convolutions(tiny, patterns)
        with pytest.raises(EditError, match="'b64', which names no layer"):
            adapt_to(tiny, target, config=replace(QUICK, layers=("8", "b64")))
        with pytest.raises(AdaptError, match="top_k=3; this generator has 2 convolutions"):
            adapt_to(tiny, target, config=replace(QUICK, layers=("8",), top_k=3))
