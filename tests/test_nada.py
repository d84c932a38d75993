"""StyleGAN-NADA: losses against recorded numbers, targets, twins, the choice of layers, and training."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from test_embed import save_tiny_clip

from stylograph import Clip, Generator
from stylograph.errors import AdaptError, EditError, PromptError
from stylograph.losses import NO_MOVE, directional_loss, mean_direction
from stylograph.nada.adapt import adapt, adapt_to, prepare
from stylograph.nada.config import PRESETS, AdaptConfig
from stylograph.nada.estimate import estimate
from stylograph.nada.target import FIRST_SOURCE_SEED, SOURCE_IMAGES, Target, aim
from stylograph.nada.training import losses, movement, train
from stylograph.nada.twins import Twins, convolutions, cropped, crops
from stylograph.resuming import batch_rows

SOURCE, WANTED = "a person", "a robot"
QUICK = AdaptConfig(
    crops=0.0,
    steps=6,
    lr=0.01,
    batch=2,
    pool=8,
    held_out=4,
    check_every=2,
    select_every=3,
    select_batch=2,
    patience=9,
    thrift=0.0,
)
CONVOLUTIONS = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1", "b32.conv0", "b32.conv1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [save_tiny_clip(root / "one"), save_tiny_clip(root / "two", seed=1, size=40, width=12)]


@pytest.fixture(scope="module")
def clip(folders):
    return Clip.from_pretrained(folders[0])


@pytest.fixture(scope="module")
def both(folders):
    return Clip.from_pretrained(folders, weights=[3, 1])


@pytest.fixture(scope="module")
def target(tiny, clip):
    return aim(tiny, clip, WANTED, SOURCE)


def draw(net, ws):
    """Pictures of W+ codes as a file would hold them, by the plain network."""
    return net(ws, noise="const").clamp(-1, 1)


def twins_of(generator, target, **settings):
    """Twins whose child has already left the parent, so that no gradient is special."""
    config = replace(QUICK, **{"pool": 6, "held_out": 2, **settings}).filled(len(CONVOLUTIONS))
    made = Twins(generator, target, config)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng)
    return made


def pictures(count, seed=0, size=32):
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestRecordedNumbers:
    @pytest.fixture
    def recorded(self, golden):
        return golden("nada_losses.npz")

    def test_text_direction(self, recorded):
        got = mean_direction(recorded["text_target"], recorded["text_source"])
        assert float((got - recorded["text_direction"][0]).abs().max()) < 1e-6

    def test_directional_loss_and_its_gradient(self, recorded):
        new = recorded["image_target"].requires_grad_()
        old = F.normalize(recorded["image_source"], dim=-1)
        loss = directional_loss(F.normalize(new, dim=-1), old, recorded["text_direction"][0]).mean()
        (slope,) = torch.autograd.grad(loss, new)
        assert loss.item() == pytest.approx(recorded["directional_cosine"].item(), abs=1e-6)
        assert float((slope - recorded["directional_cosine_grad_image_target"]).abs().max()) < 1e-6

    def test_global_loss_and_its_gradient(self, recorded, clip):
        point = F.normalize(recorded["global_prompt_text"], dim=-1)
        target = Target(clip, point, point, torch.ones(1), 1.0, {})
        new = recorded["image_target"].requires_grad_()
        loss = target.distance(F.normalize(new, dim=-1)).mean()
        (slope,) = torch.autograd.grad(loss, new)
        assert loss.item() == pytest.approx(recorded["global_loss"].item(), abs=1e-6)
        assert float((slope - recorded["global_loss_grad_image_target"]).abs().max()) < 1e-6

    def test_direction_to_pictures_and_its_loss(self, recorded):
        wanted = mean_direction(recorded["style_image_features"], recorded["image_source"])
        assert float((wanted - recorded["image_guided_direction"][0]).abs().max()) < 1e-6
        new, old = (F.normalize(recorded[f"image_{name}"], dim=-1) for name in ("target", "source"))
        loss = directional_loss(new, old, wanted).mean()
        assert loss.item() == pytest.approx(recorded["directional_cosine_image_guided"].item(), abs=1e-6)


class TestDirectionalLoss:
    def rows(self, n=5, d=7):
        rng = torch.Generator().manual_seed(0)
        new, old = (F.normalize(torch.randn(n, d, generator=rng), dim=-1) for _ in range(2))
        return new, old, F.normalize(torch.randn(d, generator=rng), dim=0)

    def test_is_one_minus_the_cosine_however_long_the_move(self):
        new, old, wanted = self.rows()
        want = 1 - F.cosine_similarity(new - old, wanted[None])
        for length in (1.0, 0.01, 30.0):
            got = directional_loss(old + length * (new - old), old, wanted)
            assert float((got - want).abs().max()) < 2e-5
        assert directional_loss(old + 0.1 * wanted, old, wanted).tolist() == pytest.approx([0.0] * 5, abs=1e-5)
        assert directional_loss(old - 0.1 * wanted, old, wanted).tolist() == pytest.approx([2.0] * 5, abs=1e-5)

    def test_rows_that_have_not_moved_are_pulled_along_the_wanted_direction(self):
        new, old, wanted = self.rows()
        new[1], new[3] = old[1], old[3] + 0.5 * NO_MOVE * wanted
        new.requires_grad_()
        loss = directional_loss(new, old, wanted)
        (slope,) = torch.autograd.grad(loss.sum(), new)
        assert bool(slope.isfinite().all())
        for row in (1, 3):
            assert loss[row].item() == pytest.approx(1, abs=NO_MOVE)
            assert torch.equal(slope[row], -wanted)
        assert float((slope[0] + wanted).abs().max()) > 0.01

    def test_gradient(self):
        new, old, wanted = (t.double() for t in self.rows())
        assert torch.autograd.gradcheck(lambda x: directional_loss(x, old, wanted), (new.requires_grad_(),))


class TestTarget:
    def test_of_a_sentence(self, tiny, clip):
        found = aim(tiny, clip, WANTED, SOURCE)
        new, old = (F.normalize(clip.embed_templates(s), dim=-1) for s in (WANTED, SOURCE))
        move = (new - old).mean(0)
        assert float((found.directions[0] - move / move.norm()).abs().max()) < 1e-5
        point = F.normalize(new.mean(0), dim=0)
        assert float((found.points[0] - point).abs().max()) < 1e-5
        assert found.length == pytest.approx(move.norm().item(), rel=1e-4)
        assert found.record == {
            "target": WANTED,
            "source": SOURCE,
            "target_images": None,
            "shares": [1.0],
            "clip": clip.name,
        }
        middle = old.mean(0)
        ways = torch.stack([middle, middle + move, middle + 0.5 * move])
        assert found.gain(ways, middle.expand(3, -1)).tolist() == pytest.approx([0, 1, 0.5], abs=1e-4)

    def test_of_pictures(self, tiny, clip):
        there = pictures(3)
        found = aim(tiny, clip, None, None, target_images=there, source_images=pictures(4, seed=1))
        new, old = clip.embed_images(there), clip.embed_images(pictures(4, seed=1))
        assert float((found.directions[0] - F.normalize(new.mean(0) - old.mean(0), dim=0)).abs().max()) < 1e-5
        assert float((found.points[0] - F.normalize(new.mean(0), dim=0)).abs().max()) < 1e-6
        assert found.shares.tolist() == [1.0]
        assert found.record["target_images"] == 3
        assert found.record["target"] is None

    def test_the_generators_own_pictures_are_the_source_of_pictures(self, tiny, clip):
        codes = tiny.sample(SOURCE_IMAGES, seed=FIRST_SOURCE_SEED, truncation=1.0)
        own = aim(tiny, clip, None, None, target_images=pictures(2))
        given = aim(tiny, clip, None, None, target_images=pictures(2), source_images=tiny.render(codes).clamp(-1, 1))
        assert float((own.directions - given.directions).abs().max()) < 1e-5

    @pytest.mark.parametrize("weights", [[1, 1], [3, 1]])
    def test_an_ensemble_is_the_weighted_mean_of_its_models(self, tiny, folders, weights):
        together = Clip.from_pretrained(folders, weights=weights)
        images, before = pictures(3, seed=4), pictures(3, seed=5)
        want = {"directional": torch.zeros(3), "distance": torch.zeros(3)}
        for folder, weight in zip(folders, weights):
            single = Clip.from_pretrained(folder)
            new, old = single.embed_images(images), single.embed_images(before)
            texts = [F.normalize(single.embed_templates(s), dim=-1) for s in (WANTED, SOURCE)]
            share = weight / sum(weights)
            want["directional"] += share * (1 - F.cosine_similarity(new - old, (texts[0] - texts[1]).mean(0)[None]))
            want["distance"] += share * (1 - F.cosine_similarity(new, texts[0].mean(0)[None]))
        found = aim(tiny, together, WANTED, SOURCE)
        new, old = together.embed_images(images), together.embed_images(before)
        assert float((found.directional(new, old) - want["directional"]).abs().max()) < 1e-5
        assert float((found.distance(new) - want["distance"]).abs().max()) < 1e-5

    def test_an_ensemble_looks_at_pictures_in_the_same_way(self, tiny, folders, both):
        given, before = pictures(2), pictures(3, seed=1)
        images = pictures(3, seed=4)
        want = {"directional": torch.zeros(3), "distance": torch.zeros(3)}
        for folder, share in zip(folders, (0.75, 0.25)):
            single = Clip.from_pretrained(folder)
            there, source, new, old = map(single.embed_images, (given, before, images, before))
            want["directional"] += share * (1 - F.cosine_similarity(new - old, (there.mean(0) - source.mean(0))[None]))
            want["distance"] += share * (1 - F.cosine_similarity(new, there.mean(0)[None]))
        found = aim(tiny, both, None, None, target_images=given, source_images=before)
        new, old = both.embed_images(images), both.embed_images(before)
        assert float((found.directional(new, old) - want["directional"]).abs().max()) < 1e-5
        assert float((found.distance(new) - want["distance"]).abs().max()) < 1e-5

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_sentence_and_pictures_share_both_losses(self, tiny, both, share):
        given = {"target_images": pictures(2), "source_images": pictures(3, seed=1)}
        text = aim(tiny, both, WANTED, SOURCE)
        image = aim(tiny, both, None, None, **given)
        mixed = aim(tiny, both, WANTED, SOURCE, **given, image_share=share)
        new, old = both.embed_images(pictures(4, seed=6)), both.embed_images(pictures(4, seed=7))
        for loss in (lambda t: t.directional(new, old), lambda t: t.distance(new)):
            want = (1 - share) * loss(text) + share * loss(image)
            assert float((loss(mixed) - want).abs().max()) < 1e-5
        assert mixed.shares.tolist() == pytest.approx([1 - share, share])

    def test_impossible_targets(self, tiny, clip):
        for sentence in (None, "", "  "):
            with pytest.raises(AdaptError, match="got no target; describe it"):
                aim(tiny, clip, sentence, SOURCE)
        for source in (None, " "):
            with pytest.raises(AdaptError, match="without a source"):
                aim(tiny, clip, WANTED, source)
        with pytest.raises(PromptError, match="twice"):
            aim(tiny, clip, "A person ", SOURCE)


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
        new, old = twins.see(torch.tensor([5, 0]), seed=3)
        assert torch.equal(new, old)
        assert float((old - twins.old[[5, 0]]).abs().max()) > 1e-3
        whole = Twins(tiny, target, replace(settings, crops=0.0))
        assert whole.pictures is None
        assert torch.equal(whole.see(torch.tensor([5, 0]), seed=3)[1], whole.old[[5, 0]])


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
        ids=str,
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


def spread_of(net, ws):
    """Mean distance between pictures of 8 by 8 pixels, each the mean of a square."""
    small = draw(net, ws).unflatten(-1, (8, 4)).unflatten(-3, (8, 4)).mean((-3, -1)).flatten(1)
    pairs = [(small[i] - small[j]).norm() for i in range(len(small)) for j in range(i)]
    return float(sum(pairs)) / len(pairs)


class TestTraining:
    def test_reaches_what_it_was_never_shown(self, tiny, clip):
        target = aim(tiny, clip, WANTED, SOURCE)
        looks = []
        config = replace(QUICK, steps=40, check_every=10, batch=4, pool=16)
        child = adapt_to(tiny, target, config=config, on_step=lambda s: looks.append(s))
        codes = tiny.sample(8, seed=900, truncation=1.0)
        old, new = (clip.embed_images(g.render(codes).clamp(-1, 1)) for g in (tiny, child))
        assert float(target.directional(new, old).mean()) < 0.85
        assert float(target.distance(new).mean()) < float(target.distance(old).mean())
        assert float(target.gain(new, old).mean()) > 0.1
        assert len(looks) == 40
        seen = [step for step in looks if step.images is not None]
        assert [step.done for step in seen] == [10, 20, 30, 40]
        assert all(step.images.shape == (4, 3, 32, 32) for step in seen)
        assert set(seen[0].values) == {"loss", "direction", "global", "gain", "similarity", "diversity", "score"}
        assert set(looks[0].values) == {"loss", "direction", "global"}

    def test_looks_say_what_they_say(self, tiny, target):
        run = prepare(tiny, target, replace(QUICK, noise="const", thrift=0.5, steps=4))
        train(run, None, None)
        last = run.looks[-1]
        net = run.twins.release(run.average)
        rows = torch.arange(8, 12)
        codes = run.twins.pool.codes(tiny.net, rows)
        new, old = (target.clip.embed_images(draw(n, codes)) for n in (net, tiny.net))
        gain = float(((new - old) @ target.directions[0]).mean() / target.length)
        spread = spread_of(net, codes) / spread_of(tiny.net, codes)
        assert last["gain"] == pytest.approx(gain, abs=1e-4)
        assert last["similarity"] == pytest.approx(float((new @ target.points[0]).mean()), abs=1e-5)
        assert last["diversity"] == pytest.approx(spread, rel=1e-3)
        assert last["score"] == pytest.approx(last["gain"] * last["diversity"] ** 0.5, rel=1e-6)
        assert run.looks[0] == pytest.approx(
            {"step": 0, "gain": 0, "similarity": float((old @ target.points[0]).mean()), "diversity": 1, "score": 0},
            abs=1e-4,
        )

    @pytest.mark.parametrize("pool", [8, 7])
    def test_the_first_look_is_at_the_parent_itself(self, tiny, target, pool):
        run = prepare(tiny, target, replace(QUICK, pool=pool, noise="random"))
        found, _ = run.look()
        assert found["gain"] == pytest.approx(0, abs=1e-5)

    def test_is_the_moving_average_of_the_weights(self, tiny, target):
        run = prepare(tiny, target, replace(QUICK, ema=0.75, steps=3, check_every=50))
        want, name = run.weights(), "synthesis.b8.conv0.weight"
        average = want[name]
        seen = []
        train(run, lambda step: seen.append(run.weights()[name]), None)
        for weights in seen:
            average = 0.75 * average + 0.25 * weights
        assert float((run.average[name] - average).abs().max()) < 1e-6
        assert float((run.average[name] - seen[-1]).abs().max()) > 1e-3

    def test_every_latent_once_per_epoch(self):
        config = replace(QUICK, pool=12, batch=4)
        rows = torch.cat([batch_rows(12, config.batch, seed=config.seed, step=step) for step in range(6)]).view(2, 12)
        assert rows[0].sort().values.tolist() == rows[1].sort().values.tolist() == list(range(12))
        assert rows[0].tolist() != rows[1].tolist()
        assert len(batch_rows(3, config.batch, seed=config.seed, step=5)) == 3

    def test_same_seed_same_bytes(self, tiny, target, tmp_path):
        config = replace(QUICK, steps=4, mixing=0.5, top_k=3)
        made = []
        for seed, state in ((0, 1), (0, 2), (1, 1)):
            torch.manual_seed(state)  # must not matter
            made.append(adapt_to(tiny, target, config=replace(config, seed=seed)))
        for child, name in zip(made, "abc"):
            child.save(tmp_path / name, format="safetensors")
        files = [(tmp_path / name).read_bytes() for name in "abc"]
        assert files[0] == files[1]
        assert made[0].digest == made[1].digest != made[2].digest

    def test_the_best_look_is_the_result(self, tiny, target, monkeypatch):
        gains = iter([0.0, 0.1, 0.5, 0.3, 0.4])
        monkeypatch.setattr(Target, "gain", lambda self, new, old: torch.full((len(new),), next(gains)))
        run, averages = prepare(tiny, target, replace(QUICK, steps=8)), {}
        train(run, lambda s: averages.update({s.done: {k: v.clone() for k, v in run.average.items()}}), None)
        assert [look["gain"] for look in run.looks] == pytest.approx([0.0, 0.1, 0.5, 0.3, 0.4])
        assert run.best_look["step"] == 4
        assert all(torch.equal(run.best[name], tensor) for name, tensor in averages[4].items())
        assert not torch.equal(averages[4]["synthesis.b4.conv1.weight"], averages[6]["synthesis.b4.conv1.weight"])

        gains = iter([0.0, 0.1, 0.5, 0.3, 0.4])
        child = adapt_to(tiny, target, config=replace(QUICK, steps=8))
        assert all(torch.equal(child.net.state_dict()[name], tensor) for name, tensor in averages[4].items())
        assert child.provenance["adaptation"]["best"]["step"] == 4
        assert child.provenance["adaptation"]["ended"] == "all steps done"

    def test_stops_when_it_no_longer_pays(self, tiny, target, monkeypatch):
        gains = iter([0.0, 0.2, 0.1, 0.1, 0.3, 0.2, 0.2, 0.2, 0.9])
        monkeypatch.setattr(Target, "gain", lambda self, new, old: torch.full((len(new),), next(gains)))
        steps = []
        child = adapt_to(tiny, target, config=replace(QUICK, steps=90, patience=3), on_step=steps.append)
        assert len(steps) == 2 * 7
        told = child.provenance["adaptation"]
        assert told["ended"] == "no better result for a while"
        assert told["best"]["step"] == 8
        assert [look["gain"] for look in told["looks"]] == pytest.approx([0.0, 0.2, 0.1, 0.1, 0.3, 0.2, 0.2, 0.2])

    def test_thrift_weighs_diversity(self, tiny, target, monkeypatch):
        gains, spreads = iter([0.0, 0.5, 1.0]), iter([2.0, 1.8, 0.32])
        monkeypatch.setattr(Target, "gain", lambda self, new, old: torch.full((len(new),), next(gains)))
        monkeypatch.setattr("stylograph.nada.training.resize", lambda images, size: next(spreads) * torch.eye(4))
        run = prepare(tiny, target, replace(QUICK, steps=4, batch=4, thrift=0.5))
        train(run, None, None)
        scores = [look["score"] for look in run.looks]
        assert scores == pytest.approx([0.0, 0.5 * 0.9**0.5, 1.0 * 0.16**0.5])
        assert [look["diversity"] for look in run.looks] == pytest.approx([1.0, 0.9, 0.16])
        assert run.best_look["step"] == 2

    def test_account_of_itself(self, tiny, target):
        parent = Generator.from_checkpoint(tiny.checkpoint())
        parent.provenance["root"] = "somewhere"
        child = adapt_to(parent, target, config=QUICK)
        grandchild = adapt_to(child, target, config=replace(QUICK, steps=2, layers=("b8",)))
        assert (child.root, grandchild.root) == ("somewhere", "somewhere")
        assert child.ancestors == (tiny.digest,)
        assert grandchild.ancestors == (child.digest, tiny.digest)
        told = child.provenance
        assert told["method"] == "StyleGAN-NADA"
        assert told["parent"] is None
        assert told["adaptation"]["target"] == WANTED
        assert told["adaptation"]["source"] == SOURCE
        assert told["adaptation"]["clip"] == target.clip.name
        assert told["adaptation"]["lr"] == 0.01
        assert told["adaptation"]["top_k"] == 0
        assert [look["step"] for look in told["adaptation"]["looks"]] == [0, 2, 4, 6]
        assert told["adaptation"]["best"] in told["adaptation"]["looks"]
        assert grandchild.provenance["parent"]["adaptation"] == told["adaptation"]
        assert grandchild.provenance["adaptation"]["layers"] == ["b8"]
        assert json.loads(json.dumps(grandchild.provenance, allow_nan=False)) == grandchild.provenance

    def test_a_conditional_generator(self, clip):
        parent = Generator.random(replace(TINY, c_dim=3, embed_features=8, noise=False), seed=2)
        child = adapt(parent, clip, WANTED, source=SOURCE, config=replace(QUICK, top_k=2, mixing=0.5))
        assert child.digest != parent.digest
        assert child.render(child.sample(2, label=1)).shape == (2, 3, 32, 32)

    def test_half_precision(self, tiny, target):
        parent = Generator.from_checkpoint(tiny.checkpoint()).to(dtype=torch.bfloat16)
        child = adapt_to(parent, target, config=QUICK)
        assert child.dtype == torch.bfloat16
        assert child.digest != parent.digest
        assert {p.dtype for p in child.net.parameters()} == {torch.float32}

    def test_by_pictures_alone(self, tiny, clip):
        child = adapt(tiny, clip, target_images=pictures(2), source_images=pictures(2, seed=1), config=QUICK)
        assert child.provenance["adaptation"]["target_images"] == 2
        assert "target" not in child.provenance["adaptation"]


class Breaking(Clip):
    """A CLIP whose embeddings become NaN from some training step on."""

    def __init__(self, clip, after):
        super().__init__(clip.towers)
        self.left = after

    def embed_images(self, images):
        found = super().embed_images(images)
        if found.requires_grad:
            self.left -= 1
            if self.left < 0:
                return found * torch.nan
        return found


class TestGoingAstray:
    def test_at_once(self, tiny, clip):
        broken = replace(aim(tiny, clip, WANTED, SOURCE), clip=Breaking(clip, 0))
        with pytest.raises(AdaptError, match=r"no longer a number at step 0; .* smaller lr than 0\.01"):
            adapt_to(tiny, broken, config=QUICK)

    def test_a_rate_far_too_high(self, tiny, target):
        digest = tiny.digest
        with pytest.raises(AdaptError, match=r"no longer a number at step \d+; .* smaller lr than 1e\+20"):
            adapt_to(tiny, target, config=replace(QUICK, lr=1e20, steps=20))
        assert Generator.from_checkpoint(tiny.checkpoint()).digest == digest

    def test_after_something_good(self, tiny, clip, monkeypatch):
        gains = iter([0.0, 0.1, 0.2, 0.3])
        monkeypatch.setattr(Target, "gain", lambda self, new, old: torch.full((len(new),), next(gains)))
        broken = replace(aim(tiny, clip, WANTED, SOURCE), clip=Breaking(clip, 5))
        child = adapt_to(tiny, broken, config=QUICK)
        told = child.provenance["adaptation"]
        assert "no longer a number at step 5" in told["ended"]
        assert told["best"]["step"] == 4
        assert all(bool(t.isfinite().all()) for t in child.net.state_dict().values())

    def test_a_look_at_nonsense_is_not_the_best(self, tiny, target, monkeypatch):
        gains = iter([0.0, 0.1, float("nan"), 0.05])
        monkeypatch.setattr(Target, "gain", lambda self, new, old: torch.full((len(new),), next(gains)))
        run = prepare(tiny, target, QUICK)
        train(run, None, None)
        assert run.best_look["step"] == 2

    def test_nonsense_is_not_told_in_numbers(self, tiny, target, monkeypatch):
        gains = iter([0.0, 0.1, float("nan"), 0.05])
        monkeypatch.setattr(Target, "gain", lambda self, new, old: torch.full((len(new),), next(gains)))
        json.dumps(adapt_to(tiny, target, config=QUICK).provenance, allow_nan=False)


class TestSettings:
    def test_presets_fill_what_is_left_out(self):
        for name, values in PRESETS.items():
            full = AdaptConfig(preset=name).filled(8)
            assert (full.steps, full.lr, full.lambda_global) == tuple(
                values[k] for k in ("steps", "lr", "lambda_global")
            )
            assert full.top_k == (4 if values["share"] == 0.5 else 0)
        own = AdaptConfig(preset="subtle", steps=7, lr=0.5, lambda_global=0.25, top_k=1).filled(8)
        assert (own.steps, own.lr, own.lambda_global, own.top_k) == (7, 0.5, 0.25, 1)
        assert AdaptConfig(preset="subtle", lambda_global=0.0, top_k=0).filled(8).top_k == 0
        assert AdaptConfig().filled(8).filled(8) == AdaptConfig().filled(8)

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"preset": "styl"}, "preset 'styl'; expected one of: style"),
            ({"memory": "tiny"}, "memory 'tiny'"),
            ({"noise": "none"}, "noise 'none'"),
            ({"steps": 0}, "steps=0"),
            ({"batch": 0}, "batch=0"),
            ({"select_every": 0}, "select_every=0"),
            ({"select_batch": 0}, "select_batch=0"),
            ({"select_steps": 0}, "select_steps=0"),
            ({"pool": 0}, "pool=0"),
            ({"check_every": 0}, "check_every=0"),
            ({"held_out": 1}, "held_out=1; expected a whole number from 2"),
            ({"patience": 0}, "patience=0"),
            ({"seed": -1}, "seed=-1"),
            ({"top_k": -1}, "top_k=-1"),
            ({"top_k": 8}, "top_k=8; this generator has 7"),
            ({"lr": -1.0}, "lr=-1.0"),
            ({"lr": float("inf")}, "lr=inf"),
            ({"lambda_global": float("nan")}, "lambda_global=nan"),
            ({"lambda_direction": -0.1}, "lambda_direction=-0.1"),
            ({"thrift": -1.0}, "thrift=-1.0"),
            ({"image_share": 1.5}, "image_share=1.5"),
            ({"mixing": -0.5}, "mixing=-0.5"),
            ({"ema": 2.0}, "ema=2.0"),
            ({"lr": 0.0}, "nothing could change"),
            ({"lambda_global": 0.0, "lambda_direction": 0.0}, "nothing could change"),
        ],
        ids=str,
    )
    def test_that_make_no_sense(self, tiny, target, settings, said):
        with pytest.raises(AdaptError) as error:
            adapt_to(tiny, target, config=replace(QUICK, **settings))
        assert said in str(error.value)

    def test_a_large_seed(self, tiny, target):
        with pytest.raises(AdaptError, match="seed"):
            adapt_to(tiny, target, config=replace(QUICK, steps=1, seed=2**48))


class TestEstimate:
    def test_counts_and_leaves_the_parent_alone(self, tiny, target):
        before = {name: t.clone() for name, t in tiny.net.state_dict().items()}
        config = replace(QUICK, steps=None, preset="subtle", layers=("b8", "b16"), top_k=1)
        found = estimate(tiny, target, config)
        assert found.layers == ("b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")
        shapes = [(16, 16), (16, 16), (12, 16), (12, 12)]
        assert found.parameters == sum(9 * out * n_in + out + 1 for out, n_in in shapes)
        assert found.settings == config.filled(4)
        assert found.settings.steps == 100
        assert 0 < found.step_seconds < 5
        assert 0 < found.choice_seconds < 5
        assert found.seconds > 100 * found.step_seconds
        assert all(torch.equal(t, before[name]) for name, t in tiny.net.state_dict().items())
        assert "b16.conv1" in found.describe()
        assert "all 100 steps" in found.describe()

    def test_memory_grows_with_the_batch_and_shrinks_on_request(self, tiny, target):
        def needed(**settings):
            return estimate(tiny, target, replace(QUICK, **settings)).bytes

        weights = sum(4 * t.numel() for t in (*tiny.net.parameters(), *target.clip.towers[0].model.parameters()))
        one, two, four = (needed(batch=batch) for batch in (1, 2, 4))
        assert weights < one < two < four
        assert four - two == pytest.approx(2 * (two - one), rel=0.2)
        assert needed(batch=4, memory="smallest") <= needed(batch=4, memory="small") < four
        assert needed(batch=4, layers=("b32",)) < four
