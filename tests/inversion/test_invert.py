"""The stages of an inversion in a row, its report, and the file it becomes."""

from dataclasses import replace

import pytest
import torch

from inversion.kit import Oracle, Pixels, inversion_of
from stylograph.errors import ImageError, InvertError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.inversion.config import InvertConfig, SearchConfig, TuneConfig
from stylograph.inversion.delta import Delta
from stylograph.inversion.inversion import Inversion
from stylograph.inversion.invert import invert
from stylograph.inversion.likeness import Likeness
from stylograph.inversion.tuning import tune
from stylograph.nets.mapper import Group, LatentMapper, MapperConfig
from stylograph.types import Latents

SEARCH = SearchConfig(steps=30, pool=4, starts=2, trial=2, noise=0, near=0, lr=0.02)
ALL = ("encoder", "search", "tune")
QUICK = InvertConfig(stages=ALL, enough=1, search=SEARCH, tune=TuneConfig(steps=20, budget=0.5, enough=0))


@pytest.fixture
def codes(mild):
    return mild.w_plus(mild.sample(3, seed=4)).tensor


@pytest.fixture
def pictures(mild, codes):
    with torch.no_grad():
        return mild.render(Latents("w+", codes, mild)).clamp(-1, 1)


class TestInvert:
    def test_every_stage_comes_nearer(self, mild, codes, pictures):
        found = invert(mild, pictures[:2], Pixels(), encoder=Oracle(codes + 0.3), config=QUICK)
        assert [stage.name for stage in found[0].stages] == ["encoder", "search", "tune"]
        for inversion in found:
            losses = [s.figures.mse + 0.4 * s.figures.perceptual for s in inversion.stages]
            assert losses[0] > losses[1] > losses[2]
            assert inversion.delta is not None

    def test_a_picture_that_is_close_enough_is_left_alone(self, mild, codes, pictures):
        wrong = codes.clone()
        wrong[1] = mild.net.mapping.w_avg
        found = invert(mild, pictures, Pixels(), encoder=Oracle(wrong), config=replace(QUICK, enough=0.9))
        assert [len(inversion.stages) for inversion in found] == [1, 3, 1]
        assert torch.equal(found[0].codes, codes[:1])

    @pytest.mark.parametrize("there", [True, False])
    def test_by_default_an_encoder_saves_the_search(self, mild, codes, pictures, there):
        encoder = Oracle(codes + 0.3) if there else None
        (found,) = invert(mild, pictures[:1], Pixels(), encoder=encoder, config=replace(QUICK, stages=()))
        assert [stage.name for stage in found.stages] == ["encoder" if there else "search", "tune"]

    def test_without_an_encoder_it_begins_with_the_search(self, mild, pictures):
        (found,) = invert(mild, pictures[:1], Pixels(), config=replace(QUICK, stages=("encoder", "search")))
        assert [stage.name for stage in found.stages] == ["search"]

    def test_the_report_is_of_what_is_drawn(self, mild, codes, pictures):
        (found,) = invert(mild, pictures[:1], Pixels(), encoder=Oracle(codes + 0.3), config=QUICK)
        latents = found.latents(mild)
        with torch.no_grad():
            drawn = latents.generator.render(latents).clamp(-1, 1)
        assert found.figures.mse == pytest.approx(float((drawn - pictures[:1]).square().mean()), rel=1e-4)

    def test_pictures_of_another_size_are_resampled(self, mild, codes, pictures):
        large = pictures[:1].repeat_interleave(3, 2).repeat_interleave(3, 3)
        (found,) = invert(mild, large, Pixels(), encoder=Oracle(codes), config=replace(QUICK, stages=("encoder",)))
        assert found.aligned.shape == (3, 32, 32)
        assert found.figures.closeness > 0.99

    def test_sources_and_steps_are_passed_on(self, mild, codes, pictures):
        seen = []
        config = replace(QUICK, stages=("encoder",))
        found = invert(
            mild,
            pictures,
            Pixels(),
            encoder=Oracle(codes),
            config=config,
            sources=[{"path": n} for n in "abc"],
            on_step=seen.append,
        )
        assert [inversion.source["path"] for inversion in found] == ["a", "b", "c"]
        assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("encoding", 3, 3)

    @pytest.mark.parametrize(
        ("change", "why"),
        [({"stages": ("encoder",)}, "no encoder"), ({"stages": ("tune",)}, "finds a code first")],
        ids=str,
    )
    def test_stages_that_lead_nowhere(self, mild, pictures, change, why):
        with pytest.raises(InvertError, match=why):
            invert(mild, pictures, Pixels(), config=replace(QUICK, **change))

    def test_an_unknown_stage(self, mild, pictures):
        with pytest.raises(InvertError, match="expected one of: search"):
            invert(mild, pictures, Pixels(), config=replace(QUICK, stages=("serch",)))

    def test_what_is_no_batch_of_pictures(self, mild, pictures):
        for wrong in (pictures[0], pictures[:, :1], pictures[:0]):
            with pytest.raises(ImageError, match="expected"):
                invert(mild, wrong, Pixels(), config=QUICK)

    def test_as_many_sources_as_pictures(self, mild, pictures):
        with pytest.raises(InvertError, match="2 sources for 3"):
            invert(mild, pictures, Pixels(), config=QUICK, sources=[{}, {}])


@pytest.fixture(scope="module")
def tuned(mild):
    """An inversion with a tuning, as it comes out."""
    plain = inversion_of(mild)
    latents = Latents("w+", plain.codes, mild)
    target = (plain.image * 0.8 + 0.1).clamp(-1, 1)
    delta, _ = tune(mild, target, latents, Likeness(Pixels()), config=TuneConfig(steps=5, budget=0.5, locality=0))
    return replace(plain, delta=delta)


class TestInversion:
    def test_round_trip(self, mild, tuned, tmp_path):
        again = Inversion.load(tuned.save(tmp_path / "me.safetensors"))
        assert torch.equal(again.codes, tuned.codes)
        assert torch.equal(again.aligned, tuned.aligned)
        assert again.stages == tuned.stages
        with torch.no_grad():
            a, b = (one.generator.render(one) for one in (again.latents(mild), tuned.latents(mild)))
        assert torch.equal(a, b)

    def test_the_tuned_generator_is_a_child(self, mild, tuned):
        drawing = tuned.latents(mild).generator
        assert drawing.digest != mild.digest
        assert mild.digest in drawing.lineage

    def test_without_tuning_the_generator_itself_draws(self, mild):
        assert inversion_of(mild).latents(mild).generator is mild

    def test_another_generator_is_refused(self, mild, tuned):
        other = Generator.random(mild.config, seed=8)
        with pytest.raises(InvertError, match="invert the picture again"):
            tuned.latents(other)

    def test_a_child_draws_it_through_its_own_mapper(self, mild, tuned):
        shape = MapperConfig("w+", (Group("single", 0, mild.num_ws),), mild.num_ws, mild.w_dim, depth=1)
        child = Generator(mild.net, mapper=LatentMapper(shape), provenance={"ancestors": [mild.digest]})
        plain = replace(tuned, delta=None)
        wanted = plain.codes + child.mapper.residual(plain.codes)
        assert torch.equal(plain.latents(child).tensor, wanted)
        assert not torch.equal(wanted, plain.codes)

    def test_a_tuning_for_another_code_is_refused(self, mild, tuned):
        with pytest.raises(InvertError, match="another code"):
            replace(tuned, codes=tuned.codes + 1).latents(mild)

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            (lambda t, r: t.pop("codes"), "codes"),
            (lambda t, r: t.update(codes=t["codes"][0]), "shape"),
            (lambda t, r: t.update(codes=t["codes"] * float("nan")), "finite"),
            (lambda t, r: t.update(aligned=t["aligned"].float()), "float32"),
            (lambda t, r: r.update(stages=[]), "no report"),
            (lambda t, r: r.update(stages=[{"name": "encoder"}]), "figures"),
            (lambda t, r: r.update(source=3), "int"),
            (lambda t, r: r.pop("generator"), "generator"),
        ],
        ids=["codes", "axes", "nan", "picture", "stages", "figures", "source", "generator"],
    )
    def test_damaged_files(self, mild, tmp_path, spoil, why):
        path = inversion_of(mild).save(tmp_path / "me.safetensors")
        tensors, record = load_tensors(path, "inversion")
        spoil(tensors, record)
        save_tensors(path, tensors, "inversion", record)
        with pytest.raises(WeightsError, match=f"contradicts itself.*{why}"):
            Inversion.load(path)

    def test_what_is_no_inversion(self, mild, tmp_path):
        mild.sample(1).save(tmp_path / "latents.safetensors")
        with pytest.raises(WeightsError, match="expected a stylograph inversion"):
            Inversion.load(tmp_path / "latents.safetensors")


class TestReport:
    @pytest.mark.parametrize(
        ("closeness", "word"),
        [(0.9, "very close"), (0.8, "close"), (0.65, "recognisable"), (0.1, "poor"), (-3, "poor")],
    )
    def test_words(self, mild, closeness, word):
        assert inversion_of(mild, closeness=closeness).figures.verdict == word

    def test_a_close_one_needs_no_advice(self, mild):
        assert inversion_of(mild, closeness=0.8).advice() is None

    def test_the_next_stage_is_suggested(self, mild):
        assert "tune" in inversion_of(mild, closeness=0.3).advice()

    def test_then_the_alignment(self, mild, tuned):
        poor = inversion_of(mild, closeness=0.3)
        done = replace(poor, stages=(replace(poor.stages[0], name="tune"),))
        assert "--align" in done.advice()
        assert "whole head" in replace(done, source={"aligner": "avatars"}).advice()

    def test_says_what_the_tuning_takes(self, tuned):
        assert f"{tuned.delta.size / 1000:.0f} kB" in tuned.describe()
        assert isinstance(tuned.delta, Delta)
