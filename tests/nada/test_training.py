"""A training, what makes it stop, its settings, and what it will take."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import TINY

from nada.kit import QUICK, SOURCE, WANTED, draw, pictures
from stylograph import Clip, Generator
from stylograph.errors import AdaptError
from stylograph.nada.adapt import adapt, adapt_to, prepare
from stylograph.nada.config import PRESETS, AdaptConfig
from stylograph.nada.estimate import estimate
from stylograph.nada.target import Target, aim
from stylograph.nada.training import train
from stylograph.resuming import batch_rows


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
            ({"lambda_identity": -0.1}, "lambda_identity=-0.1"),
            ({"lambda_identity": float("nan")}, "lambda_identity=nan"),
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
