"""Families of generators: their edits, mixtures of them, and mined ones."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import TINY

from nada.kit import QUICK, grown
from stylograph import Generator, Latents, load_edit
from stylograph.edit.base import Mapped, Shift, Sum
from stylograph.edit.config import MapperTraining
from stylograph.edit.mapper import mapper_shape
from stylograph.errors import AdaptError, EditError, LatentsError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.nada.adapt import adapt_to
from stylograph.nada.blend import blend, within
from stylograph.nada.config import MINING
from stylograph.nada.mining import mine
from stylograph.nets.mapper import LatentMapper


@pytest.fixture(scope="module")
def grandchild(child):
    return grown(child, 2)


@pytest.fixture(scope="module")
def sibling(tiny):
    return grown(tiny, 3)


@pytest.fixture(scope="module")
def stranger():
    return Generator.random(TINY, seed=9)


def a_mapper(generator, seed=0, **changes):
    """An untrained latent mapper that moves codes visibly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LatentMapper(replace(mapper_shape(generator, MapperTraining()), **changes))
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=80.0)
    return net.eval().requires_grad_(False)


def with_mapper(generator, seed=0):
    provenance = {**generator.provenance, "ancestors": [generator.digest, *generator.ancestors], "mining": {"steps": 1}}
    return Generator(generator.net, mapper=a_mapper(generator, seed), provenance=provenance)


@pytest.fixture(scope="module")
def edits(tiny):
    common = {"layers": tiny.layer_widths, "generator_digest": tiny.digest, "generator": tiny}
    delta = torch.randn(tiny.s_dim, generator=torch.Generator().manual_seed(0))
    shift = Shift(delta=delta, strength=0.5, **common)
    mapped = Mapped(net=a_mapper(tiny), strength=0.7, **common)
    return {"shift": shift, "mapped": mapped, "sum": shift + mapped}


class TestFamily:
    def test_an_adapted_child_and_its_files_draw_the_same(self, tiny, target, tmp_path):
        made = adapt_to(tiny, target, config=replace(QUICK, affine=True, torgb=True, const=True, mapping=True))
        codes = made.sample(3, seed=5)
        assert made.digest != tiny.digest
        assert not made.save(tmp_path / "a.safetensors")
        again = Generator.from_pretrained(tmp_path / "a.safetensors")
        assert again.digest == made.digest
        assert again.provenance == json.loads(json.dumps(made.provenance))
        assert again.ancestors == (tiny.digest,)
        assert torch.equal(again.render(again.sample(3, seed=5)), made.render(codes))
        assert any("provenance" in remark for remark in made.save(tmp_path / "a.pt"))
        again = Generator.from_pretrained(tmp_path / "a.pt")
        assert again.digest == made.digest
        assert again.ancestors == ()
        assert torch.equal(again.render(again.sample(3, seed=5)), made.render(codes))

    @pytest.mark.parametrize("kind", ["shift", "mapped", "sum"])
    def test_edits_of_the_parent_work_on_what_came_of_it(self, tiny, child, grandchild, edits, tmp_path, kind):
        path = edits[kind].save(tmp_path / "e.safetensors")
        for generator in (tiny, child, grandchild):
            codes = generator.sample(2, seed=4)
            want = generator.styles(codes).tensor.clone()
            if kind != "mapped":
                want += 0.5 * edits["shift"].delta
            if kind != "shift":  # the mapper reads W+ codes, and this generator makes styles of what it says
                ws = generator.w_plus(codes).tensor
                moved = Latents("w+", ws + edits["mapped"].net.residual(ws), generator)
                want += 0.7 * (generator.styles(moved).tensor - generator.styles(codes).tensor)
            loaded, bound = load_edit(path, generator), edits[kind].on(generator)
            assert loaded.generator_digest == bound.generator_digest == generator.digest
            for edit in (edits[kind], loaded, bound, load_edit(path)):
                assert float((edit(codes).tensor - want).abs().max()) < 1e-4
            assert generator.render(loaded(codes)).shape == (2, 3, 32, 32)

    def test_a_sum_moves_to_the_child_with_all_its_parts(self, tiny, child, edits):
        bare = Latents("w", child.sample(2, seed=4).tensor)  # codes that do not know where they are from
        moved = edits["sum"].on(child)(bare).tensor
        assert float((moved - edits["sum"](child.sample(2, seed=4)).tensor).abs().max()) < 1e-4

    def test_latents_of_the_parent_work_on_what_came_of_it(self, tiny, child, grandchild, tmp_path):
        codes = tiny.sample(2, seed=8)
        for space, kept in {"w": codes, "w+": tiny.w_plus(codes), "s": tiny.styles(codes)}.items():
            path = kept.save(tmp_path / f"{space}.safetensors")
            for generator in (child, grandchild):
                loaded = Latents.load(path, generator)
                assert loaded.generator is generator
                assert torch.equal(generator.render(loaded), generator.render(kept))
        made = child.sample(2).save(tmp_path / "child.safetensors")
        with pytest.raises(LatentsError, match="latents of generator"):
            Latents.load(made, tiny)

    def test_not_the_other_way_and_not_to_others(self, tiny, child, sibling, grandchild, stranger, edits, tmp_path):
        own = replace(edits["shift"], generator=child, generator_digest=child.digest)
        path = own.save(tmp_path / "e.safetensors")
        for generator in (tiny, sibling, stranger):
            for use in (
                lambda g: load_edit(path, g),
                lambda g: own.on(g),
                lambda g: own(g.sample(1)),
                lambda g: own.check(g),
            ):
                with pytest.raises(EditError, match=f"got generator {generator.digest[:12]}; this edit was made for"):
                    use(generator)
        assert load_edit(path, grandchild).generator_digest == grandchild.digest

    def test_edits_of_parent_and_child_are_added(self, tiny, child, edits, tmp_path):
        parents = edits["sum"].save(tmp_path / "parent.safetensors")
        delta = torch.randn(tiny.s_dim, generator=torch.Generator().manual_seed(1))
        own = Shift(delta=delta, layers=child.layer_widths, generator_digest=child.digest, generator=child)
        codes = child.sample(2, seed=4)
        with pytest.raises(EditError, match="two generators"):
            own + load_edit(parents)
        both = own + load_edit(parents, child)
        want = edits["sum"](codes).tensor + delta
        assert float((both(codes).tensor - want).abs().max()) < 1e-4
        again = load_edit(both.save(tmp_path / "both.safetensors"), child)
        assert isinstance(again, Sum)
        assert len(again.parts) == 3
        assert float((again(codes).tensor - want).abs().max()) < 1e-4
        with pytest.raises(EditError, match="this edit was made for"):
            load_edit(tmp_path / "both.safetensors", tiny)


class TestBlend:
    def test_the_ends_are_the_two(self, tiny, child):
        codes = tiny.sample(2, seed=3)
        first, second = blend(tiny, child, 0.0), blend(tiny, child, 1)
        assert first.digest == tiny.digest
        assert second.digest == child.digest
        assert torch.equal(first.render(codes), tiny.render(codes))
        assert torch.equal(second.render(codes), child.render(codes))

    @pytest.mark.parametrize("amount", [0.5, 0.25, -0.5, 1.5])
    def test_between_and_beyond(self, tiny, child, amount):
        ours, theirs = tiny.net.state_dict(), child.net.state_dict()
        kept = {name: t.clone() for name, t in ours.items()}
        mixed = blend(tiny, child, amount).net.state_dict()
        for name, tensor in mixed.items():
            want = (1 - amount) * ours[name] + amount * theirs[name]
            assert float((tensor - want).abs().max()) < 1e-4, name
            assert torch.equal(ours[name], kept[name])
        assert not {t.data_ptr() for t in mixed.values()} & {t.data_ptr() for t in (*ours.values(), *theirs.values())}

    def test_by_resolution(self, tiny):
        other = Generator(grown(tiny, 1).net, provenance={"ancestors": [tiny.digest]})
        for parameter in other.net.mapping.parameters():
            parameter += 1.0
        ours, theirs = tiny.net.state_dict(), other.net.state_dict()
        mixed = blend(tiny, other, {8: 1.0, 32: 0.5}).net.state_dict()
        parts = {"b4": 0.0, "b8": 1.0, "b16": 0.0, "b32": 0.5}
        for name, tensor in mixed.items():
            part = parts[name.split(".")[1]] if name.startswith("synthesis") else 1.5 / 4  # mapping: the mean
            assert float((tensor - ((1 - part) * ours[name] + part * theirs[name])).abs().max()) < 1e-4, name

    def test_within(self, tiny):
        assert within(tiny, 0.7) == {4: 0.7, 8: 0.7, 16: 0.7, 32: 0.7}
        assert within(tiny, 1, start=16) == {16: 1, 32: 1}
        assert within(tiny, 1, stop=16) == {4: 1, 8: 1}
        assert within(tiny, 1, start=8, stop=32) == {8: 1, 16: 1}
        for wrong in ({"start": 64}, {"stop": 5}):
            with pytest.raises(AdaptError, match=r"got resolution \d+; this generator has \[4, 8, 16, 32\]"):
                within(tiny, 1, **wrong)
        with pytest.raises(AdaptError, match="which are none; expected start below stop"):
            within(tiny, 1, start=16, stop=16)

    def test_one_family(self, tiny, child, sibling, grandchild, stranger):
        codes = tiny.sample(1)
        for first, second in ((child, tiny), (tiny, grandchild), (child, sibling), (grandchild, sibling)):
            mixed = blend(first, second, 0.5)
            want = {first.digest, second.digest, *first.ancestors, *second.ancestors}
            assert set(mixed.ancestors) == want
            assert len(mixed.ancestors) == len(want)
            assert torch.isfinite(mixed.render(codes)).all()
            assert mixed.provenance["method"] == "blend"
            assert mixed.provenance["blend"]["of"] == [first.digest, second.digest]
            json.dumps(mixed.provenance, allow_nan=False)
        with pytest.raises(AdaptError, match="without a common ancestor"):
            blend(tiny, stranger, 0.5)
        other = Generator.random(replace(TINY, noise=False))
        with pytest.raises(AdaptError, match="two generators of one shape"):
            blend(tiny, other, 0.5)

    def test_edits_of_either_work_on_the_mixture(self, tiny, child, sibling):
        mixed = blend(child, sibling, 0.5)
        for generator in (tiny, child, sibling):
            delta = torch.ones(tiny.s_dim)
            edit = Shift(delta=delta, layers=generator.layer_widths, generator_digest=generator.digest)
            assert edit.on(mixed).generator is mixed

    @pytest.mark.parametrize("amount", [float("nan"), float("inf"), {8: float("-inf")}], ids=str)
    def test_amounts_that_are_no_numbers(self, tiny, child, amount):
        with pytest.raises(AdaptError, match="expected finite numbers"):
            blend(tiny, child, amount)

    def test_unknown_resolutions(self, tiny, child):
        with pytest.raises(AdaptError, match=r"resolutions \[7, 64\]; this generator has"):
            blend(tiny, child, {64: 1.0, 7: 0.5, 8: 1.0})

    def test_keeps_where_it_came_from(self, child, tmp_path):
        mixed = blend(Generator(child.net, provenance={**child.provenance, "root": "somewhere"}), child, 0.5)
        assert mixed.root == "somewhere"
        mixed.save(tmp_path / "m.safetensors")
        assert Generator.from_pretrained(tmp_path / "m.safetensors").ancestors == mixed.ancestors


class TestMining:
    def test_samples_go_through_the_mapper(self, tiny, child):
        mined = with_mapper(child)
        for truncation in (1.0, 0.6):
            plain = child.w_plus(child.sample(3, seed=2, truncation=truncation)).tensor
            got = mined.sample(3, seed=2, truncation=truncation)
            assert got.space == "w+"
            assert float((got.tensor - plain - mined.mapper.residual(plain)).abs().max()) < 1e-5
            assert float((got.tensor - plain).abs().max()) > 0.01
            without = mined.sample(3, seed=2, truncation=truncation, mined=False)
            assert without.space == "w"
            assert torch.equal(without.tensor, child.sample(3, seed=2, truncation=truncation).tensor)
        z = torch.randn(2, mined.z_dim)
        plain = child.map(z, truncation=0.5, truncation_cutoff=3).tensor
        got = mined.map(z, truncation=0.5, truncation_cutoff=3).tensor
        assert float((got - plain - mined.mapper.residual(plain)).abs().max()) < 1e-5
        assert torch.equal(mined.w_samples(5), child.w_samples(5))

    def test_given_latents_are_drawn_as_they_are(self, tiny, child, tmp_path):
        mined = with_mapper(child)
        codes = Latents.load(tiny.sample(2, seed=3).save(tmp_path / "w.safetensors"), mined)
        assert torch.equal(mined.render(codes), child.render(codes))

    def test_files(self, child, tmp_path):
        mined = with_mapper(child)
        assert mined.digest != child.digest
        assert mined.ancestors == (child.digest, *child.ancestors)
        assert with_mapper(child, seed=1).digest != mined.digest
        assert mined.save(tmp_path / "m.safetensors") == []
        again = Generator.from_pretrained(tmp_path / "m.safetensors")
        assert again.digest == mined.digest
        assert again.ancestors == mined.ancestors
        assert torch.equal(again.sample(2).tensor, mined.sample(2).tensor)
        assert torch.equal(again.render(again.sample(2)), mined.render(mined.sample(2)))
        remarks = mined.save(tmp_path / "m.pt")
        assert any("latent mapper" in remark for remark in remarks)
        again = Generator.from_pretrained(tmp_path / "m.pt")
        assert again.mapper is None
        assert again.digest == child.digest

    @pytest.mark.parametrize(
        "damage", ["missing", "shape", "nan", "no tensors", "no config", "space", "width", "extra"]
    )
    def test_damaged_mappers(self, child, tmp_path, damage):
        path = tmp_path / "m.safetensors"
        with_mapper(child).save(path)
        tensors, record = load_tensors(path, "generator")
        ours = [name for name in tensors if name.startswith("mapper.")]
        name = next(n for n in ours if n.endswith("weight"))
        if damage == "missing":
            del tensors[name]
        elif damage == "shape":
            tensors[name] = tensors[name][:3]
        elif damage == "nan":
            tensors[name] = tensors[name] * torch.nan
        elif damage == "no tensors":
            tensors = {k: v for k, v in tensors.items() if k not in ours}
        elif damage == "no config":
            del record["mapper"]
        elif damage == "extra":
            tensors["mapper.more"] = torch.zeros(2)
        else:
            record["mapper"][damage] = {"space": "s", "width": 7}[damage]
        save_tensors(path, tensors, "generator", record)
        with pytest.raises(WeightsError, match="latent mapper"):
            Generator.from_pretrained(path)

    @pytest.mark.parametrize("mapper", [[], 3, {"space": "w+"}, {"space": "w+", "groups": 5, "length": 8}], ids=str)
    def test_configs_that_are_none(self, child, tmp_path, mapper):
        path = tmp_path / "m.safetensors"
        with_mapper(child).save(path)
        tensors, record = load_tensors(path, "generator")
        save_tensors(path, tensors, "generator", {**record, "mapper": mapper})
        with pytest.raises(WeightsError, match="latent mapper"):
            Generator.from_pretrained(path)

    @pytest.mark.parametrize("mapper", ["nonsense", [], {}], ids=str)
    def test_a_config_without_a_mapper(self, child, tmp_path, mapper):
        path = tmp_path / "m.safetensors"
        child.save(path)
        tensors, record = load_tensors(path, "generator")
        save_tensors(path, tensors, "generator", {**record, "mapper": mapper})
        with pytest.raises(WeightsError, match="latent mapper"):
            Generator.from_pretrained(path)

    def test_mine(self, child, target, tmp_path):
        config = replace(MINING, steps=4, batch=4, images=12, held_out=4, check_every=2)
        path, steps = tmp_path / "run.safetensors", []
        mined = mine(child, target, config=config, path=path, on_step=steps.append)
        assert len(steps) == 4
        assert mined.digest != child.digest
        assert mined.ancestors == (child.digest, *child.ancestors)
        assert torch.equal(mined.sample(2, mined=False).tensor, child.sample(2).tensor)
        assert mined.provenance["mining"]["steps"] == 4
        assert json.loads(json.dumps(mined.provenance)) == mined.provenance
        again = mine(child, target, config=config, path=path, on_step=steps.append)
        assert len(steps) == 4
        assert again.digest == mined.digest
        with pytest.raises(AdaptError, match="has a latent mapper already"):
            mine(mined, target, config=config)
        with pytest.raises(AdaptError, match="in 's'; mining needs one in 'w\\+'"):
            mine(child, target, config=replace(config, space="s"))

    def test_mining_leads_to_the_target(self, child, target):
        config = replace(MINING, steps=30, batch=4, images=16, held_out=4, lambda_l2=0.0)
        mined = mine(child, target, config=config)
        plain, led = (
            target.distance(
                target.clip.embed_images(mined.render(mined.sample(8, seed=50, truncation=1, mined=on)))
            ).mean()
            for on in (False, True)
        )
        assert float(led) < float(plain) - 0.005

    def test_edits_of_the_parent_work_on_a_mined_child(self, tiny, child):
        mined = with_mapper(child)
        edit = Shift(delta=torch.ones(tiny.s_dim), layers=tiny.layer_widths, generator_digest=tiny.digest)
        codes = mined.sample(2)
        assert torch.equal(edit.on(mined)(codes).tensor, mined.styles(codes).tensor + 1)

    def test_a_mined_generator_is_not_adapted(self, child, target):
        with pytest.raises(AdaptError, match="latent mapper; adapt the one"):
            adapt_to(with_mapper(child), target, config=replace(QUICK, steps=2))
