"""Adapted generators, judged against real drawings."""

import copy
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from stylograph.benchmark.domains import BUILT_IN, DOMAINS, SHIPPED, Domain, DomainRun, Reference, as_adapter
from stylograph.benchmark.methods import Tools
from stylograph.benchmark.plugs import digest_of
from stylograph.benchmark.rows import Folder, made
from stylograph.domains import DomainJudge
from stylograph.errors import StylographError, WeightsError
from stylograph.files import save_tensors
from stylograph.nada.config import AdaptConfig

SAMPLES = 24


class Layout:
    """Sees pictures as 4x4 fields; takes those that are brighter above than below than its people's for "other"."""

    names = ("personas", "other")
    digest = "layout"

    def __init__(self, middle):
        self.middle = middle

    def features(self, images):
        return 5 * F.adaptive_avg_pool2d(images, 4).flatten(1)

    def probabilities(self, images):
        above = self.slope(images) < self.middle
        return torch.stack([~above, above], 1).float()

    @staticmethod
    def slope(images):
        top, bottom = images.chunk(2, dim=2)
        return bottom.mean((1, 2, 3)) - top.mean((1, 2, 3))


@pytest.fixture(scope="module")
def judge(tiny):
    images = tiny.render(tiny.sample(SAMPLES, seed=500)).clamp(-1, 1)
    slopes = Layout.slope(images)
    return Layout(float(slopes.quantile(0.25)))


@pytest.fixture(scope="module")
def reference(judge, tiny, tmp_path_factory):
    """The "real drawings" of the other domain are the generator's own, upside down."""
    images = tiny.render(tiny.sample(40, seed=90)).clamp(-1, 1).flip(2)
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    features = {"other": judge.features(images).half()}
    return save_tensors(path, features, "reference", {"judge": digest_of(judge)})


@pytest.fixture
def start(judge, reference, tiny, clip, tmp_path):
    folder = Folder(tmp_path / "out")
    folder.prepare()

    def run(*adapters, **more):
        given = {
            "domains": [Domain("a blue robot", "other")],
            "judge": judge,
            "reference": reference,
            "samples": SAMPLES,
        }
        return DomainRun(
            folder, tiny, clip, adapters=adapters, tools=Tools(folder.work), made=made, **{**given, **more}
        )

    return run


def flipped(sentence, generator, clip):
    """The same generator, drawing upside down."""
    child = copy.deepcopy(generator)
    real = child.render
    child.render = lambda latents, **more: real(latents, **more).flip(2)
    return child


def same(sentence, generator, clip):
    return generator


def nothing(sentence, generator, clip):
    return None


def go(run):
    for what in run.missing():
        run.row(*what)
    return {row["adapter"]: row for row in run.rows()}


class TestRows:
    def test_a_generator_that_arrived(self, start):
        rows = go(start(flipped))
        there, parent = rows["flipped"]["figures"], rows["parent"]["figures"]
        assert there["kid"] < 0.2 * parent["kid"]
        assert there["diversity"] == pytest.approx(1, abs=0.35)
        assert rows["parent"]["control"]
        assert parent["source"] == pytest.approx(0.75)
        assert parent["source"] + parent["target"] == pytest.approx(1)
        assert rows["flipped"]["samples"] == SAMPLES
        assert sum(rows["flipped"]["told"].values()) == SAMPLES

    def test_not_done_again(self, start):
        run = start(flipped)
        go(run)
        assert run.missing() == []
        assert len(start(flipped, truncation=0.3).missing()) == 2

    @pytest.mark.parametrize(("adapter", "said"), [(same, "another one"), (nothing, "expected a Generator")])
    def test_wrong_answers(self, start, adapter, said):
        run = start(adapter, flipped)
        rows = go(run)
        assert said in rows[adapter.__name__]["error"]
        assert "figures" in rows["flipped"]
        assert [adapter.name for _, adapter, _ in run.missing()] == [adapter.__name__]

    def test_a_changed_parent(self, start, tiny):
        def evil(sentence, generator, clip):
            for name, parameter in generator.net.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(1)
            return copy.deepcopy(generator)

        kept = {name: tensor.clone() for name, tensor in tiny.net.state_dict().items()}
        try:
            with pytest.raises(StylographError, match="copy"):
                go(start(evil))
        finally:
            tiny.net.load_state_dict(kept)

    def test_adapt_itself(self, start, monkeypatch):
        import stylograph.nada.adapt as module

        real = module.adapt
        small = AdaptConfig(steps=2, pool=4, held_out=2, check_every=1, batch=2, crops=0.0)
        monkeypatch.setattr(module, "adapt", lambda *a, **k: real(*a, **{**k, "config": small}))
        run = start("adapt")
        rows = go(run)
        assert rows["adapt"]["seconds"] > 0
        assert rows["adapt"]["figures"]["kid"] != rows["parent"]["figures"]["kid"]
        assert len(run.folder.tiles("domains", rows["adapt"]["key"])) == 8


class TestSettings:
    def test_the_defaults_are_adapts(self):
        assert BUILT_IN["adapt"].settings == asdict(AdaptConfig())

    @pytest.mark.parametrize("text", ["adapting", "gone.py:x", "math:pi"])
    def test_mistakes(self, text):
        with pytest.raises(StylographError):
            as_adapter(text)

    def test_a_domain_without_drawings(self, start):
        with pytest.raises(StylographError, match="got style"):
            start(domains=[Domain("x", "personas")])
        with pytest.raises(StylographError, match="robot"):
            start(domains=["robots"])


class TestReference:
    def test_of_another_judge(self, judge, reference):
        other = Layout(0.0)
        other.digest = "another"
        with pytest.raises(WeightsError, match=r"recipes\.avatars\.reference"):
            Reference.load(other, reference)
        assert list(Reference.load(judge, reference).features) == ["other"]

    def test_another_file(self, judge):
        with pytest.raises(WeightsError):
            Reference.load(judge, "gone.safetensors")

    def test_the_shipped_one(self):
        judge = DomainJudge.from_pretrained()
        found = Reference.load(judge)
        assert set(found.features) == {"personas", *(domain.style for domain in DOMAINS.values())}
        for domain in DOMAINS.values():
            assert domain.style in judge.names
        assert SHIPPED.stat().st_size < 1_000_000
