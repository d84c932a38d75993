"""The people of parent and child: a loss that keeps them, and a figure that says how much of them is left."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nada.kit import QUICK, SOURCE, WANTED, draw
from stylograph.errors import AdaptError
from stylograph.files import load_tensors, save_tensors
from stylograph.nada import training
from stylograph.nada.adapt import adapt, adapt_to, prepare
from stylograph.nada.estimate import estimate
from stylograph.nada.training import losses, train

GUARDED = replace(QUICK, lambda_identity=0.5)


class Who:
    """A recogniser of 32 x 32 pictures that counts what it is shown."""

    def __init__(self, name="who"):
        self.name = name
        self.network = torch.nn.Linear(3 * 8 * 8, 6, bias=False).requires_grad_(False)
        rng = torch.Generator().manual_seed(len(name))
        self.network.weight.copy_(torch.randn(6, 3 * 8 * 8, generator=rng))
        self.kept = 0
        """Pictures it was shown without a gradient."""
        self.trained = 0

    def embed(self, images):
        assert images.shape[1:] == (3, 32, 32)  # whole pictures, neither crops nor what CLIP is shown
        if images.requires_grad:
            self.trained += len(images)
        else:
            self.kept += len(images)
        return F.normalize(self.network(F.avg_pool2d(images, 4).flatten(1)), dim=1)


def cosine(who, parent, twins, rows, child=None):
    """Between the pictures of two plain networks, [N]."""
    codes = twins.pool.codes(parent, rows)
    new, old = (who.embed(draw(net, codes)) for net in (child or twins.net, parent))
    return F.cosine_similarity(new, old)


def away(tiny, target, who, **settings):
    """A training whose child has already left its parent."""
    run = prepare(tiny, target, replace(GUARDED, **settings), who)
    with torch.no_grad():
        for parameter in run.twins.parameters.values():
            parameter.mul_(1.3)
    return run


class TestLoss:
    @pytest.mark.parametrize("crops", [0.0, 0.3])
    def test_is_one_minus_the_cosine_of_whole_pictures(self, tiny, target, crops):
        who, rows = Who(), torch.tensor([5, 0, 3])
        free, held = (
            losses(away(tiny, target, who, noise="const", crops=crops, lambda_identity=w).twins, rows, seed=1)
            for w in (0.0, 0.7)
        )
        want = 1 - float(cosine(who, tiny.net, away(tiny, target, who).twins, rows).mean().detach())
        assert want > 1e-3
        assert held["identity_loss"].item() == pytest.approx(want, abs=1e-6)
        assert set(held) - set(free) == {"identity_loss"}
        assert held["loss"].item() == pytest.approx(free["loss"].item() + 0.7 * want, abs=1e-6)

    def test_its_gradient_reaches_all_of_the_child(self, tiny, target):
        who, rows, slopes = Who(), torch.tensor([5, 0, 3]), {}
        for weight in (0.0, 0.7):
            run = away(tiny, target, who, noise="const", affine=True, lambda_identity=weight)
            losses(run.twins, rows, seed=1)["loss"].backward()
            slopes[weight] = {name: p.grad.clone() for name, p in run.twins.active.items()}
        net = copy.deepcopy(run.twins.net).requires_grad_(True)
        (1 - cosine(who, tiny.net, run.twins, rows, net).mean()).backward()
        plain = dict(net.named_parameters())
        for name, slope in slopes[0.7].items():
            want = 0.7 * plain[name].grad
            size = float(slope.abs().max())
            assert float(want.abs().max()) > 0, name
            assert float((slope - slopes[0.0][name] - want).abs().max()) < 1e-4 * size + 1e-6, name

    def test_keeps_people(self, tiny, target):
        found = {}
        for weight in (0.0, 3.0):
            config = replace(QUICK, steps=20, check_every=10, lambda_identity=weight)
            child = adapt_to(tiny, target, identity=Who(), config=config)
            found[weight] = child.provenance["adaptation"]["looks"][-1]
        assert 1 - found[3.0]["identity"] < 0.5 * (1 - found[0.0]["identity"])
        assert found[3.0]["gain"] > 0.03

    @pytest.mark.parametrize("memory", ["small", "smallest"])
    def test_less_memory_gives_the_same_step(self, tiny, target, memory):
        steps = []
        for mode in (memory, "normal"):
            run = away(tiny, target, Who(), memory=mode, batch=3, noise="const")
            run.optimizer.step = lambda: None
            steps.append((run.descend(), {name: p.grad.clone() for name, p in run.twins.active.items()}))
        (terms, slopes), (want, wanted) = steps
        assert want["identity_loss"] > 1e-3
        assert terms == pytest.approx(want, abs=1e-5)
        for name, slope in slopes.items():
            size = float(wanted[name].abs().max())
            assert float((slope - wanted[name]).abs().max()) < 1e-4 * size + 1e-6, name

    def test_the_parent_is_recognised_once(self, tiny, target):
        who = Who()
        adapt_to(tiny, target, identity=who, config=GUARDED)  # 6 steps of 2; looks at 0, 2, 4, 6
        assert who.kept == (8 + 4) + 4 * 4
        assert who.trained == 6 * 2

    def test_without_a_weight_only_looks_recognise(self, tiny, target):
        who = Who()
        adapt_to(tiny, target, identity=who, config=QUICK)
        assert who.kept == 4 + 4 * 4
        assert who.trained == 0

    def test_without_a_weight_nothing_else_changes(self, tiny, target):
        plain, seen = (adapt_to(tiny, target, identity=who, config=QUICK) for who in (None, Who()))
        assert plain.digest == seen.digest
        theirs, ours = (dict(child.provenance["adaptation"]) for child in (plain, seen))
        assert "identity" not in theirs
        assert "lambda_identity" not in theirs
        assert ours.pop("identity") == "who"
        ours["best"], ours["looks"] = dict(ours["best"]), [dict(look) for look in ours["looks"]]
        for look in (ours["best"], *ours["looks"]):
            assert 0 < look.pop("identity") <= 1
        assert ours == theirs

    def test_without_a_recogniser(self, tiny, clip, target):
        for call in (
            lambda: adapt(tiny, clip, WANTED, source=SOURCE, config=GUARDED),
            lambda: adapt_to(tiny, target, config=GUARDED),
            lambda: estimate(tiny, target, GUARDED),
        ):
            with pytest.raises(AdaptError, match=r"lambda_identity=0\.5 and no recogniser; .*--identity avatars"):
                call()

    def test_a_recogniser_that_sees_no_numbers(self, tiny, target):
        who = Who()
        who.network.weight[0, 0] = torch.nan
        with pytest.raises(AdaptError, match="no longer numbers at step 0"):
            adapt_to(tiny, target, identity=who, config=GUARDED)

    def test_an_estimate_counts_the_recogniser(self, tiny, target):
        who = Who()
        plain, seen = estimate(tiny, target, QUICK), estimate(tiny, target, QUICK, identity=who)
        assert seen.bytes - plain.bytes == 4 * 6 * 3 * 8 * 8
        assert estimate(tiny, target, GUARDED, identity=who).bytes > seen.bytes  # activations of the recogniser
        assert "lambda_identity 0.5" in estimate(tiny, target, GUARDED, identity=who).describe()


class TestLook:
    @pytest.mark.parametrize("settings", [{}, {"lambda_identity": 0.5}, {"memory": "small", "batch": 3}], ids=str)
    def test_says_what_it_says(self, tiny, target, settings):
        who, steps = Who(), []
        run = prepare(tiny, target, replace(QUICK, noise="const", steps=4, **settings), who)
        train(run, steps.append, None)
        net = run.twins.release(run.average)
        want = float(cosine(who, tiny.net, run.twins, torch.arange(8, 12), net).mean())
        assert want < 0.999
        assert run.looks[-1]["identity"] == steps[-1].values["identity"] == pytest.approx(want, abs=1e-5)
        assert run.looks[0]["identity"] == pytest.approx(1, abs=1e-5)
        assert "identity" not in steps[0].values

    def test_random_noise_does_not_count_at_the_parent_itself(self, tiny, target):
        run = prepare(tiny, target, replace(QUICK, pool=7, noise="random"), Who())
        assert run.look()[0]["identity"] == pytest.approx(1, abs=1e-5)


class Stop(Exception):
    pass


def stopping(step):
    if step.done == 4:
        raise Stop


class TestGoingOn:
    @pytest.mark.parametrize("memory", ["normal", "smallest"])
    def test_a_training_cut_off_ends_as_if_it_never_was(self, tiny, target, tmp_path, monkeypatch, memory):
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
        config = replace(GUARDED, steps=6, check_every=3, memory=memory, crops=0.25, top_k=3)
        path, files = tmp_path / "run.safetensors", []
        with pytest.raises(Stop):
            adapt_to(tiny, target, identity=Who(), config=config, path=path, on_step=stopping)
        for place in (path, None):
            adapt_to(tiny, target, identity=Who(), config=config, path=place).save(tmp_path / "child.safetensors")
            files.append((tmp_path / "child.safetensors").read_bytes())
        assert files[0] == files[1]

    def test_refuses_what_another_recogniser_or_weight_was_used_for(self, tiny, target, tmp_path):
        path, config = tmp_path / "run.safetensors", replace(GUARDED, steps=1)
        adapt_to(tiny, target, identity=Who(), config=config, path=path)
        kept = path.read_bytes()
        for names, who, weight in (
            ("identity", Who("another"), 0.5),
            ("lambda_identity", Who(), 0.25),
            ("lambda_identity", Who(), 0.0),
            ("identity, lambda_identity", None, 0.0),
        ):
            other = replace(config, lambda_identity=weight)
            with pytest.raises(AdaptError, match=f"another adaptation, which differs in {names};"):
                adapt_to(tiny, target, identity=who, config=other, path=path)
        assert path.read_bytes() == kept
        adapt_to(tiny, target, config=replace(QUICK, steps=1), path=tmp_path / "free.safetensors")
        with pytest.raises(AdaptError, match="differs in identity, lambda_identity;"):
            adapt_to(tiny, target, identity=Who(), config=config, path=tmp_path / "free.safetensors")

    def test_a_checkpoint_in_which_nobody_was_recognised(self, tiny, target, tmp_path):
        path = tmp_path / "run.safetensors"
        with pytest.raises(Stop):
            adapt_to(tiny, target, config=QUICK, path=path, on_step=stopping)
        child = adapt_to(tiny, target, identity=Who(), config=QUICK, path=path)
        assert child.digest == adapt_to(tiny, target, config=QUICK).digest
        looks = child.provenance["adaptation"]["looks"]  # those at steps 0, 2 and 4 are from before
        assert ["identity" in look for look in looks] == [False, False, False, True]

    def test_a_checkpoint_without_a_task(self, tiny, target, tmp_path):
        path = tmp_path / "run.safetensors"
        adapt_to(tiny, target, config=QUICK, path=path)
        tensors, record = load_tensors(path, "adaptation")
        save_tensors(path, tensors, "adaptation", {**record, "task": None})
        with pytest.raises(AdaptError, match=r"another adaptation, which differs in .*batch"):
            adapt_to(tiny, target, identity=Who(), config=QUICK, path=path)
