"""Latent mapper: the network, published checkpoints, training, and going on with a training that was cut off."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, save_tiny_clip

from stylograph import Clip, Generator, Latents, load_edit
from stylograph.edit import mapper_training
from stylograph.edit.mapper import load_mapper, mapper_shape, train_mapper
from stylograph.edit.mapper_training import MapperTraining, Objective, Run
from stylograph.errors import EditError, LatentsError, OutputError, PromptError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.nets.mapper import Group, LatentMapper, MapperConfig
from stylograph.nets.stylegan2 import StyleGAN2Config
from stylograph.resuming import batch_rows
from stylograph.weights.styleclip import read_mapper

pytestmark = pytest.mark.filterwarnings("ignore::stylograph.errors.PromptWarning")
TARGET, NEUTRAL = "a person wearing a hat", "a person"
QUICK = MapperTraining(steps=6, batch=4, images=12, held_out=4, check_every=2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def large():
    """All 18 W+ vectors of a generator of 1024 pixels, but hardly any channels."""
    return Generator.random(StyleGAN2Config(1024, (2,) * 9, z_dim=8, w_dim=64, mapping_features=(64,), noise=False))


@pytest.fixture(scope="module")
def edit(tiny, clip):
    return train_mapper(tiny, clip, TARGET, config=QUICK)


def plain_mapper(x, tensors, prefix, *, norm_axis):
    """The reference's network in plain torch: x / rms over an axis, then 4 × leaky ReLU(x·W·0.01/√in + 0.01·b)·√2."""
    x = x / (x.square().mean(norm_axis, keepdim=True) + 1e-8).sqrt()
    for i in range(1, 5):
        weight, bias = tensors[f"{prefix}mapping.{i}.weight"], tensors[f"{prefix}mapping.{i}.bias"]
        x = x @ (weight * 0.01 / weight.shape[1] ** 0.5).T + 0.01 * bias
        x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
    return x


def published(path, tensors, **opts):
    """A file as the StyleCLIP code saves them, with a generator inside that nobody should read."""
    state = {f"mapper.{name}": tensor for name, tensor in tensors.items()}
    state["decoder.input.input"] = torch.zeros(1, 2, 4, 4)
    torch.save({"state_dict": state, "opts": opts}, path)
    return path


def random_layers(prefix, width, seed):
    rng = torch.Generator().manual_seed(seed)
    shapes = {"weight": (width, width), "bias": (width,)}
    return {
        f"{prefix}mapping.{i}.{kind}": torch.randn(shape, generator=rng) * (100 if kind == "weight" else 20)
        for i in range(1, 5)
        for kind, shape in shapes.items()
    }


class TestNetwork:
    @pytest.mark.parametrize(("file", "name"), [("mapper_tiny", "all"), ("mapper_no_fine_tiny", "no_fine")])
    def test_published_mappers_give_the_reference_numbers(self, golden, large, file, name):
        expected = golden("mapper_tiny_expected.npz")
        found = load_mapper(GOLDEN / f"{file}.pt", large)
        codes = expected["w_plus"]
        change = found.net.residual(codes)
        assert float((change / 0.1 - expected[f"delta_{name}"]).abs().max()) < 2e-5
        assert float((codes + change - expected[f"w_edit_{name}"]).abs().max()) < 2e-6
        assert bool((change[:, 8:] == 0).all()) == (name == "no_fine")
        wrong = LatentMapper(replace(found.net.config, norm="features"))
        wrong.load_state_dict(found.net.state_dict())
        assert float((wrong.residual(codes).detach() / 0.1 - expected[f"delta_{name}"]).abs().max()) > 0.5

    def test_edit_is_the_styles_of_the_changed_codes(self, golden, large):
        expected = golden("mapper_tiny_expected.npz")
        got = load_mapper(GOLDEN / "mapper_tiny.pt", large)(Latents("w+", expected["w_plus"], large))
        want = large.styles(Latents("w+", expected["w_edit_all"], large))
        assert float((got.tensor - want.tensor).abs().max()) < 1e-5

    def test_what_no_group_covers_stays(self):
        config = MapperConfig("w+", (Group("a", 1, 3), Group("b", 4, 5)), length=6, width=5)
        change = LatentMapper(config).residual(torch.randn(2, 6, 5))
        assert change.shape == (2, 6, 5)
        assert change.abs().sum((0, 2)).ne(0).tolist() == [False, True, True, False, True, False]

    @pytest.mark.parametrize("norm", ["features", "layers"])
    def test_gradient(self, norm):
        net = LatentMapper(MapperConfig("w+", (Group("a", 0, 3),), length=4, width=3, depth=2, norm=norm)).double()
        codes = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(net.residual, (codes,))

    def test_config_survives_a_file(self):
        config = MapperConfig("s", (Group("b4.conv1", 0, 3), Group("b8.conv0", 5, 7)), length=9, depth=2, gain=0.2)
        assert MapperConfig.from_dict(config.to_dict()) == config
        assert set(LatentMapper(config).state_dict()) == {
            f"{name}.layers.{i}.{kind}"
            for name in ("b4_conv1", "b8_conv0")
            for i in range(2)
            for kind in ("weight", "bias")
        }

    @pytest.mark.parametrize(
        "change",
        [
            {"space": "z"},
            {"norm": "batch"},
            {"groups": []},
            {"groups": [{"name": "a", "start": 0, "stop": 2}, {"name": "b", "start": 1, "stop": 3}]},
            {"groups": [{"name": "a", "start": 0, "stop": 9}]},
            {"groups": [{"name": "a", "start": 2, "stop": 2}]},
            {"groups": [{"name": "../a", "start": 0, "stop": 2}]},
            {"depth": 0},
            {"width": 0},
            {"surprise": 1},
        ],
        ids=str,
    )
    def test_a_config_that_makes_no_sense(self, change):
        good = MapperConfig("w+", (Group("a", 0, 2),), length=4, width=3).to_dict()
        with pytest.raises(ValueError, match=r"mapper|groups|fields"):
            MapperConfig.from_dict({**good, **change})


class TestPublishedFiles:
    def test_single_network(self, large, tmp_path):
        tensors = random_layers("mapping.", 64, seed=1)
        found = load_mapper(published(tmp_path / "m.pt", tensors, stylegan_size=1024, description="a hat"), large)
        codes = large.w_plus(large.sample(3)).tensor + torch.randn(3, 18, 64) * 0.1
        want = 0.1 * plain_mapper(codes, tensors, "mapping.", norm_axis=1)
        assert float((found.net.residual(codes) - want).abs().max()) < 1e-5
        assert found.provenance["target"] == "a hat"

    def test_stylespace_networks(self, tiny, tmp_path):
        numbered = [(i, layer) for i, layer in enumerate(tiny.layers) if not layer.to_rgb]
        tensors = {}
        for i, layer in numbered:
            tensors |= random_layers(f"mapper_{i}.", layer.channels, seed=i)
        found = load_mapper(published(tmp_path / "m.pt", tensors, stylegan_size=32), tiny)
        s = tiny.styles(tiny.sample(3)).tensor
        want = torch.zeros_like(s)
        for i, layer in numbered:
            want[:, layer.s_slice] = 0.1 * plain_mapper(s[:, layer.s_slice], tensors, f"mapper_{i}.", norm_axis=1)
        assert float((found(tiny.sample(3)).tensor - s - want).abs().max()) < 1e-5
        with pytest.raises(WeightsError, match="1 style vectors; expected one for this generator's 7"):
            load_mapper(published(tmp_path / "m.pt", random_layers("mapper_0.", 16, 0), stylegan_size=32), tiny)

    def test_sizes_have_to_fit(self, tiny, large, tmp_path):
        with pytest.raises(WeightsError, match=r"1024 pixels, 18 W\+ vectors; expected .* 32 pixels, 8 W\+"):
            load_mapper(GOLDEN / "mapper_tiny.pt", tiny)
        narrow = published(tmp_path / "m.pt", random_layers("mapping.", 32, 0))
        with pytest.raises(WeightsError, match="do not fit"):
            load_mapper(narrow, large)

    def test_refusals(self, tmp_path):
        with pytest.raises(WeightsError, match="no file is; expected a StyleCLIP mapper"):
            read_mapper(tmp_path / "none.pt")
        with pytest.raises(WeightsError, match="without tensors named mapper"):
            read_mapper(GOLDEN / "rosinality_tiny.pt")
        with pytest.raises(WeightsError, match="safetensors"):
            read_mapper(save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, "edit", {}))
        for name in ("hidden_in_zip.pt", "os_system.pkl"):
            with pytest.raises(WeightsError):
                read_mapper(GOLDEN / "malicious" / name)
        whole = random_layers("mapping.", 4, 0)
        for tensors in (
            {k: v for k, v in whole.items() if k != "mapping.mapping.2.bias"},
            {**whole, **random_layers("fine_mapping.", 4, 0)},
            {**whole, "elsewhere.weight": torch.zeros(2)},
            {**whole, "mapping.mapping.1.bias": torch.full((4,), torch.nan)},
        ):
            with pytest.raises(WeightsError, match=r"expected a StyleCLIP mapper"):
                read_mapper(published(tmp_path / "m.pt", tensors))


class TestShape:
    def test_the_papers_split_at_1024(self, large):
        groups = mapper_shape(large, MapperTraining()).groups
        assert [(g.name, g.start, g.stop) for g in groups] == [("coarse", 0, 4), ("medium", 4, 8), ("fine", 8, 18)]
        both = mapper_shape(large, MapperTraining(levels=("fine", "medium"), single=True)).groups
        assert [(g.name, g.start, g.stop) for g in both] == [("single", 4, 18)]

    def test_a_small_generator_has_no_fine_level(self, tiny):
        groups = mapper_shape(tiny, MapperTraining()).groups
        assert [(g.name, g.start, g.stop) for g in groups] == [("coarse", 0, 4), ("medium", 4, 8)]
        with pytest.raises(EditError, match="'fine'; expected one of: coarse, medium"):
            mapper_shape(tiny, MapperTraining(levels=("fine",)))

    def test_stylespace_leaves_torgb_alone(self, tiny, large):
        config = mapper_shape(tiny, MapperTraining(space="s"))
        assert [g.name for g in config.groups] == [la.name for la in tiny.layers if not la.to_rgb]
        assert [(g.start, g.stop) for g in config.groups] == [
            (la.s_slice.start, la.s_slice.stop) for la in tiny.layers if not la.to_rgb
        ]
        assert len(mapper_shape(large, MapperTraining(space="s")).groups) == 17
        coarse = mapper_shape(large, MapperTraining(space="s", levels=("coarse",))).groups
        assert [g.name for g in coarse] == ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0"]  # W+ vectors 0 to 3

    @pytest.mark.parametrize(
        "settings", [MapperTraining(levels=()), MapperTraining(levels=("coarse", "fine"), single=True)]
    )
    def test_impossible_levels(self, large, settings):
        with pytest.raises(EditError, match="levels"):
            mapper_shape(large, settings)


class FakeIdentity:
    """Mean colours of a 2×2 grid, as a unit vector."""

    name = "colours"

    def __init__(self):
        self.seen = 0

    def embed(self, images):
        self.seen += len(images)
        return F.normalize(F.adaptive_avg_pool2d(images, 2).flatten(1) + 1, dim=-1)


class TestLoss:
    @pytest.mark.parametrize("space", ["w+", "s"])
    @pytest.mark.parametrize("clip_loss", ["directional", "similarity"])
    def test_is_the_formula(self, tiny, clip, space, clip_loss):
        settings = replace(QUICK, space=space, clip_loss=clip_loss, lambda_clip=2.0, lambda_id=0.3, lambda_l2=0.7)
        source = tiny.styles(tiny.sample(6)) if space == "s" else tiny.w_plus(tiny.sample(6))
        target, neutral = clip.embed_text([TARGET, NEUTRAL])
        wanted = clip.text_direction(TARGET, NEUTRAL) if clip_loss == "directional" else target
        identity = FakeIdentity()
        objective = Objective(tiny, clip, identity, settings, wanted, source.tensor)
        net = LatentMapper(mapper_shape(tiny, settings))
        rows = torch.tensor([4, 1, 3])
        got = objective(net, rows)

        change = net.residual(source.tensor[rows])
        before = tiny.render(source[rows])
        after = tiny.render(Latents(space, source.tensor[rows] + change))
        e0, e1 = clip.embed_images(before), clip.embed_images(after)
        if clip_loss == "directional":
            clip_term = 1 - F.cosine_similarity(e1 - e0, (target - neutral)[None]).mean()
        else:
            clip_term = 1 - F.cosine_similarity(e1, target[None]).mean()
        faces = (identity.embed(before) * identity.embed(after)).sum(1).mean()
        if space == "s":
            layers = [layer for layer in tiny.layers if not layer.to_rgb]
            l2 = sum((change[:, layer.s_slice] ** 2).mean() for layer in layers)
        else:
            l2 = (change**2).mean()
        want = 2.0 * clip_term + 0.3 * (1 - faces) + 0.7 * l2
        assert got["clip"].item() == pytest.approx(clip_term.item(), abs=1e-4)
        assert got["loss"].item() == pytest.approx(want.item(), abs=2e-4)

    def test_gradient_is_the_slope_of_the_loss(self, tiny, clip):
        objective = Objective(
            tiny, clip, FakeIdentity(), QUICK, clip.text_direction(TARGET, NEUTRAL), tiny.w_plus(tiny.sample(4)).tensor
        )
        net = LatentMapper(mapper_shape(tiny, QUICK))
        parameters, rows = list(net.parameters()), torch.arange(4)
        gradients = torch.autograd.grad(objective(net, rows)["loss"], parameters)
        length = float(torch.cat([g.flatten() for g in gradients]).norm())
        sides = []
        with torch.no_grad():
            for sign in (1, -2):
                for parameter, gradient in zip(parameters, gradients):
                    parameter += sign * 0.5 * gradient / length
                sides.append(objective(net, rows)["loss"].item())
        assert (sides[0] - sides[1]) / 1.0 == pytest.approx(length, rel=0.03)


class TestTraining:
    def test_lowers_the_loss_on_images_it_never_saw(self, tiny, clip):
        looks = []
        config = replace(QUICK, steps=40, check_every=10, lambda_l2=0.1)
        found = train_mapper(
            tiny, clip, TARGET, config=config, on_step=lambda s: looks.append(s.values.get("held_out"))
        )
        assert len(looks) == 40
        untrained = LatentMapper(found.net.config)
        fresh = tiny.w_plus(tiny.sample(8, seed=77)).tensor
        wanted = clip.text_direction(TARGET, NEUTRAL)
        objective = Objective(tiny, clip, None, config, wanted, fresh)
        rows = torch.arange(8)
        with torch.no_grad():
            assert float(objective(found.net, rows)["clip"]) < float(objective(untrained, rows)["clip"]) - 0.2
        assert found.provenance["held_out"]["loss"] == min(v for v in looks if v is not None)

    def test_same_seed_same_bytes(self, tiny, clip, edit, tmp_path):
        torch.manual_seed(123)  # must not matter
        again = train_mapper(tiny, clip, TARGET, config=QUICK)
        first, second = edit.save(tmp_path / "a.safetensors"), again.save(tmp_path / "b.safetensors")
        assert first.read_bytes() == second.read_bytes()
        other = train_mapper(tiny, clip, TARGET, config=replace(QUICK, seed=1))
        assert not torch.equal(next(other.net.parameters()), next(edit.net.parameters()))

    def test_file_holds_the_mapper_and_nothing_else(self, tiny, edit, tmp_path):
        path = edit.save(tmp_path / "e.safetensors")
        tensors, _ = load_tensors(path, "edit")
        assert tensors.keys() == edit.net.state_dict().keys()
        codes = tiny.sample(3, seed=50)
        assert torch.equal(load_edit(path, tiny)(codes).tensor, edit(codes).tensor)

    def test_only_the_chosen_layers_move(self, tiny, clip):
        found = train_mapper(tiny, clip, TARGET, config=replace(QUICK, levels=("coarse",)))
        codes = tiny.sample(2, seed=9)
        moved = (found(codes).tensor - tiny.styles(codes).tensor).abs().sum(0)
        for layer in tiny.layers:
            assert bool(moved[layer.s_slice].any()) == (layer.w_index < 4), layer.name
        found = train_mapper(tiny, clip, TARGET, config=replace(QUICK, space="s", optimizer="radam"))
        moved = (found(codes).tensor - tiny.styles(codes).tensor).abs().sum(0)
        for layer in tiny.layers:
            assert bool(moved[layer.s_slice].any()) != layer.to_rgb, layer.name

    def test_given_latents_and_identity(self, tiny, clip):
        identity, steps = FakeIdentity(), []
        codes = tiny.w_plus(tiny.sample(10, seed=3))
        run = {"latents": codes, "identity": identity, "on_step": steps.append}
        found = train_mapper(tiny, clip, TARGET, config=replace(QUICK, lambda_id=5.0), **run)
        assert "identity" in steps[0].values
        assert identity.seen == 10 + 6 * 4 + 3 * 2  # each image once, then 6 steps of 4 and 3 looks at the last 2
        assert found.provenance["identity"] == "colours"
        free = train_mapper(tiny, clip, TARGET, config=replace(QUICK, lambda_id=0.0), latents=codes, identity=identity)
        assert found.provenance["held_out"]["identity"] < free.provenance["held_out"]["identity"]

    def test_rate_fits_the_width_and_falls_to_zero(self, tiny):
        settings = replace(QUICK, space="s", lr=2.0, steps=4)
        run = Run(mapper_shape(tiny, settings), settings, torch.device("cpu"))
        widths = [layer.channels for layer in tiny.layers if not layer.to_rgb]
        assert run.rates == pytest.approx([2.0 * (512 / width) ** 0.5 for width in widths])
        used = []
        for _ in range(4):
            run.descend(sum(p.sum() for p in run.net.parameters()), settings)
            used.append(run.optimizer.param_groups[0]["lr"] / run.rates[0])
        assert used == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])

    def test_several_neutral_sentences(self, tiny, clip):
        found = train_mapper(tiny, clip, TARGET, neutral=[NEUTRAL, "a man"], config=replace(QUICK, steps=1))
        assert found.provenance["neutral"] == [NEUTRAL, "a man"]

    def test_every_image_once_per_epoch(self):
        rows = torch.cat([batch_rows(12, QUICK.batch, seed=QUICK.seed, step=step) for step in range(6)]).view(2, 12)
        assert rows[0].sort().values.tolist() == rows[1].sort().values.tolist() == list(range(12))
        assert rows[0].tolist() != rows[1].tolist()
        assert sorted(batch_rows(3, QUICK.batch, seed=QUICK.seed, step=5).tolist()) == [0, 1, 2]

    def test_stops_when_nothing_gets_better(self, tiny, clip):
        steps = []
        config = replace(QUICK, steps=50, lr=1e-12, patience=2)
        found = train_mapper(tiny, clip, TARGET, config=config, on_step=steps.append)
        assert len(steps) == found.provenance["steps"] == 6  # the first look is the best, the next two are no better

    def test_a_loss_that_is_no_number(self, tiny, clip):
        with pytest.raises(EditError, match=r"loss of (nan|inf) at step \d+; .* smaller lr than 1e\+30"):
            train_mapper(tiny, clip, TARGET, config=replace(QUICK, lr=1e30))


class Stop(Exception):
    pass


class TestGoingOn:
    @pytest.mark.parametrize("optimizer", ["adamw", "radam"])
    @pytest.mark.parametrize("stop_at", [1, 3, 4])
    def test_a_training_cut_off_ends_as_if_it_never_was(self, tiny, clip, tmp_path, monkeypatch, optimizer, stop_at):
        # Steps 2, 4, 6 are looks; the one cut off in step 3 also has a checkpoint between looks.
        monkeypatch.setattr(mapper_training, "SAVE_SECONDS", -1.0 if stop_at == 3 else 1e9)
        config = replace(QUICK, optimizer=optimizer)
        whole = train_mapper(tiny, clip, TARGET, config=config)
        path, steps = tmp_path / "run.safetensors", []

        def cut(step):
            if step.done == stop_at:
                raise Stop

        with pytest.raises(Stop):
            train_mapper(tiny, clip, TARGET, config=config, path=path, on_step=cut)
        again = train_mapper(tiny, clip, TARGET, config=config, path=path, on_step=steps.append)
        assert steps[0].done == {1: 1, 3: 4, 4: 5}[stop_at]
        assert again.save(tmp_path / "a").read_bytes() == whole.save(tmp_path / "b").read_bytes()

    def test_a_finished_training_is_not_repeated(self, tiny, clip, edit, tmp_path):
        path, steps = tmp_path / "run.safetensors", []
        train_mapper(tiny, clip, TARGET, config=QUICK, path=path)
        again = train_mapper(tiny, clip, TARGET, config=QUICK, path=path, on_step=steps.append)
        assert not steps
        assert again.save(tmp_path / "a").read_bytes() == edit.save(tmp_path / "b").read_bytes()

    def test_refuses_the_checkpoint_of_another_training(self, tiny, clip, tmp_path):
        path = tmp_path / "run.safetensors"
        train_mapper(tiny, clip, TARGET, config=QUICK, path=path)
        other = Generator.random(replace(tiny.config, noise=False), seed=3)
        kept = path.read_bytes()
        for name, arguments in {
            "target": {"target": "a red robot"},
            "neutral": {"neutral": "a man"},
            "generator": {"generator": other},
            "lr, seed": {"config": replace(QUICK, lr=0.1, seed=2)},
            "latents": {"latents": tiny.sample(8)},
            "identity": {"identity": FakeIdentity()},
        }.items():
            call = {"generator": tiny, "clip": clip, "target": TARGET, "config": QUICK, "path": path, **arguments}
            with pytest.raises(EditError, match=f"another training, which differs in {name};"):
                train_mapper(**call)
        stranger = Clip(clip.towers)
        stranger.text_direction = lambda *_, **__: -clip.text_direction(TARGET, NEUTRAL)
        with pytest.raises(EditError, match="another CLIP"):
            train_mapper(tiny, stranger, TARGET, config=QUICK, path=path)
        assert path.read_bytes() == kept

    def test_damaged_or_foreign_checkpoints(self, tiny, clip, edit, tmp_path):
        path = tmp_path / "run.safetensors"
        train_mapper(tiny, clip, TARGET, config=QUICK, path=path)
        tensors, record = load_tensors(path, "mapper training")
        first = next(iter(tensors))
        for broken in (
            {k: v for k, v in tensors.items() if k != first},
            {**tensors, first: tensors[first] * torch.nan},
        ):
            save_tensors(path, broken, "mapper training", record)
            with pytest.raises(EditError, match="damaged checkpoint"):
                train_mapper(tiny, clip, TARGET, config=QUICK, path=path)
        shutil.copy(edit.save(tmp_path / "e.safetensors"), path)
        with pytest.raises(WeightsError, match="mapper training"):
            train_mapper(tiny, clip, TARGET, config=QUICK, path=path)

    def test_a_path_that_cannot_be_written_is_found_out_at_once(self, tiny, clip, tmp_path):
        steps = []
        with pytest.raises(OutputError, match="does not exist"):
            train_mapper(tiny, clip, TARGET, config=QUICK, path=tmp_path / "no" / "x", on_step=steps.append)
        assert not steps


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"optimizer": "ranger"}, "optimizer 'ranger'; expected one of: adamw, radam"),
            ({"space": "w"}, "mapper space 'w'"),
            ({"clip_loss": "cosine"}, "clip_loss 'cosine'"),
            ({"space": "s", "single": True}, "differ in width"),
            ({"levels": ()}, "nothing could change"),
            ({"steps": 0}, "steps=0"),
            ({"batch": -1}, "batch=-1"),
            ({"lambda_l2": -1.0}, "lambda_l2=-1.0"),
            ({"lambda_id": float("nan")}, "lambda_id=nan"),
            ({"lr": 0.0}, "lr=0.0"),
            ({"seed": -1}, "seed=-1"),
        ],
    )
    def test_settings(self, tiny, clip, settings, message):
        with pytest.raises(EditError, match=message):
            train_mapper(tiny, clip, TARGET, config=replace(QUICK, **settings))

    def test_sentences(self, tiny, clip):
        with pytest.raises(PromptError, match="empty"):
            train_mapper(tiny, clip, "  ", config=QUICK)
        with pytest.raises(PromptError, match="twice"):
            train_mapper(tiny, clip, NEUTRAL, config=QUICK)

    def test_latents(self, tiny, clip):
        with pytest.raises(LatentsError, match="at least two"):
            train_mapper(tiny, clip, TARGET, config=QUICK, latents=tiny.sample(1))
        with pytest.raises(LatentsError, match=r"expected W or W\+"):
            train_mapper(tiny, clip, TARGET, config=QUICK, latents=tiny.styles(tiny.sample(4)))
