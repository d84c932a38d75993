"""Edits as values: algebra, locks, files; whatever the kind."""

import pytest
import torch
from conftest import TINY

from stylograph import Generator, load_edit
from stylograph.edit.base import Mapped, Shift, Sum
from stylograph.errors import EditError, StylographError
from stylograph.nets.mapper import Group, LatentMapper, MapperConfig


def shift(generator, seed, *, rows=None, strength=1.0):
    rng = torch.Generator().manual_seed(seed)
    size = (generator.s_dim,) if rows is None else (rows, generator.s_dim)
    layers = tuple((layer.name, layer.channels) for layer in generator.layers)
    return Shift(
        delta=torch.randn(size, generator=rng),
        layers=layers,
        generator_digest=generator.digest,
        strength=strength,
        generator=generator,
        provenance={"target": f"edit {seed}"},
    )


@pytest.fixture
def mapped(tiny):
    torch.manual_seed(3)
    groups = (Group("coarse", 0, 4), Group("fine", 4, tiny.num_ws))
    net = LatentMapper(MapperConfig("w+", groups, tiny.num_ws, tiny.w_dim)).eval().requires_grad_(False)
    layers = tuple((layer.name, layer.channels) for layer in tiny.layers)
    return Mapped(net=net, layers=layers, generator_digest=tiny.digest, generator=tiny)


def moved(edit, latents, generator, strength=None):
    return edit(latents, strength).tensor - generator.styles(latents).tensor


class TestAlgebra:
    def test_sums_and_factors_act_on_shifts(self, tiny):
        a, b = shift(tiny, 1, strength=2.0), shift(tiny, 2, strength=3.0)
        w = tiny.sample(2)
        assert torch.allclose(moved(a + 0.5 * b, w, tiny), (2 * a.delta + 1.5 * b.delta).expand(2, -1), atol=1e-5)
        assert torch.allclose(moved(-a, w, tiny), (-2 * a.delta).expand(2, -1), atol=1e-5)
        assert torch.allclose(moved(a - a, w, tiny), torch.zeros(2, tiny.s_dim), atol=1e-6)
        assert torch.allclose(moved(2 * (a + b), w, tiny), 2 * moved(a + b, w, tiny), atol=1e-4)
        assert torch.allclose(moved(a + b, w, tiny, 0.5), 0.5 * moved(a + b, w, tiny), atol=1e-5)

    def test_sums_are_flat_and_in_any_order_the_same(self, tiny, mapped):
        a, b = shift(tiny, 1), shift(tiny, 2)
        w = tiny.sample(2)
        assert len(((a + b) + mapped).parts) == 3
        assert len((0.5 * (a + b) + b).parts) == 3
        assert torch.allclose(((a + b) + mapped)(w).tensor, (mapped + (b + a))(w).tensor, atol=1e-5)

    def test_only_edits_of_one_generator(self, tiny):
        with pytest.raises(EditError, match="two generators"):
            shift(tiny, 1) + shift(Generator.random(TINY, seed=9), 1)
        with pytest.raises(TypeError):
            shift(tiny, 1) + 3

    def test_one_strength_per_image(self, tiny):
        a, w = shift(tiny, 1), tiny.sample(3)
        got = moved(a, w, tiny, torch.tensor([0.0, 1.0, -2.0]))
        assert torch.allclose(got, torch.tensor([[0.0], [1.0], [-2.0]]) * a.delta, atol=1e-5)
        with pytest.raises(EditError, match="2 strengths for 3"):
            a(w, torch.ones(2))

    def test_sweep_is_calls(self, tiny, mapped):
        edit, w = mapped + shift(tiny, 1), tiny.sample(2)
        for strength, codes in zip((-1, 0.5), edit.sweep(w, (-1, 0.5)), strict=True):
            assert torch.allclose(codes.tensor, edit(w, strength).tensor, atol=1e-6)


class TestLocks:
    def test_without_and_only_complete_each_other(self, tiny):
        a, w = shift(tiny, 1), tiny.sample(1)
        fine = [layer.s_slice for layer in tiny.layers if layer.resolution == 32 or layer.to_rgb]
        locked = moved(a.without("32", "torgb"), w, tiny)
        assert not any(locked[:, here].any() for here in fine)
        assert torch.allclose(locked + moved(a.only("32", "torgb"), w, tiny), moved(a, w, tiny), atol=1e-5)

    def test_locks_hold_in_sums(self, tiny):
        a, b = shift(tiny, 1), shift(tiny, 2)
        w, here = tiny.sample(1), tiny.layers[-2].s_slice
        assert torch.allclose(moved(a.without("b32.conv1") + b, w, tiny)[0, here], b.delta[here], atol=1e-5)
        assert not moved((a + b).without("b32.conv1"), w, tiny)[0, here].any()
        assert not moved((a + b).without("b32.conv1") + (a - a), w, tiny)[0, here].any()

    def test_unknown_layer(self, tiny):
        with pytest.raises(EditError, match="names no layer"):
            shift(tiny, 1).without("b1024")


class TestKinds:
    def test_rows_belong_to_their_images(self, tiny):
        a, w = shift(tiny, 1, rows=3), tiny.sample(3)
        assert torch.allclose(moved(a, w, tiny), a.delta, atol=1e-5)
        with pytest.raises(EditError, match="image by image"):
            a(tiny.sample(2))
        one = shift(tiny, 2, rows=1)
        assert torch.allclose(moved(a + one, w, tiny), a.delta + one.delta, atol=1e-5)

    def test_a_mapper_reads_w_and_moves_s(self, tiny, mapped):
        w = tiny.sample(2)
        plus = tiny.w_plus(w)
        want = tiny.styles(plus.with_tensor(plus.tensor + 2 * mapped.net.residual(plus.tensor))).tensor
        assert torch.allclose(mapped(w, 2.0).tensor, want, atol=1e-4)
        with pytest.raises(EditError, match="add them"):
            mapped(shift(tiny, 1)(w))

    def test_descriptions_name_what_moves(self, tiny, mapped):
        assert "b4.conv1[" in shift(tiny, 1).only("b4.conv1").describe() or "b" in shift(tiny, 1).describe()
        assert "coarse, fine" in mapped.describe()
        assert "+0.5 · edit 1" in (0.5 * shift(tiny, 1) + mapped).describe()


class TestFiles:
    @pytest.mark.parametrize("kind", ["shift", "rows", "mapped", "sum", "nested"])
    def test_round_trip(self, tiny, mapped, tmp_path, kind):
        a, b = shift(tiny, 1, strength=2.0), shift(tiny, 2, rows=2)
        edit = {
            "shift": a.without("torgb"),
            "rows": b,
            "mapped": mapped.without("b32"),
            "sum": a + 0.5 * mapped - b,
            "nested": (a + mapped).without("16") + b,
        }[kind]
        path = edit.save(tmp_path / "edit.safetensors")
        again, w = load_edit(path, tiny), tiny.sample(2)
        assert type(again) is type(edit)
        assert torch.equal(again(w).tensor, edit(w).tensor)
        assert path.read_bytes() == again.save(tmp_path / "again.safetensors").read_bytes()

    def test_files_of_the_first_version_still_load(self, tiny, tmp_path):
        from stylograph.files import save_tensors

        a = shift(tiny, 1)
        meta = {"generator": tiny.digest, "layers": [list(la) for la in a.layers], "strength": 4.0, "provenance": {}}
        path = save_tensors(tmp_path / "old.safetensors", {"delta": a.delta}, "edit", meta)
        assert torch.equal(load_edit(path)(tiny.sample(1)).tensor, a(tiny.sample(1), 4.0).tensor)

    @pytest.mark.parametrize("record", [{"kind": "spell"}, {"kind": "sum"}, {"kind": "mapped", "mapper": {}}])
    def test_strange_files(self, tiny, tmp_path, record):
        from stylograph.files import save_tensors

        a = shift(tiny, 1)
        meta = {"generator": tiny.digest, "layers": [list(la) for la in a.layers], "strength": 1.0, "provenance": {}}
        path = save_tensors(tmp_path / "odd.safetensors", {"delta": a.delta}, "edit", {**meta, **record})
        with pytest.raises(StylographError, match="damaged"):
            load_edit(path)


def test_sum_is_the_kind_of_a_sum(tiny):
    assert isinstance(shift(tiny, 1) + shift(tiny, 2), Sum)
