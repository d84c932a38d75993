"""A tuning as data: small, exact within a rounding, for the right generators only."""

import math

import pytest
import torch

from stylograph import Latents
from stylograph.edit.base import Shift
from stylograph.errors import InvertError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.inversion.delta import Delta, LowRank, digest_of, sharing
from stylograph.nets.mapper import Group, LatentMapper, MapperConfig
from stylograph.resuming import pack, unpack

WEIGHT, BIAS, STRENGTH = "synthesis.b8.conv0.weight", "synthesis.b16.conv1.bias", "synthesis.b8.conv1.noise_strength"


def factors(rows, columns, rank, *, seed=0, size=1.0):
    rng = torch.Generator().manual_seed(seed)
    return size * torch.randn(rows, rank, generator=rng), torch.randn(rank, columns, generator=rng)


@pytest.fixture
def delta(tiny):
    """A change of a weight, a bias and a noise strength (which has no axes)."""
    shape = tiny.net.get_parameter(WEIGHT).shape
    matrix = LowRank.of(*factors(shape[0], math.prod(shape[1:]), 3, size=0.1))
    small = {BIAS: torch.linspace(-1, 1, 12).half(), STRENGTH: torch.tensor(0.25).half()}
    return Delta(tiny.digest, digest_of(tiny.mean()), {WEIGHT: matrix}, small)


def child_of(parent, *, seed=3):
    """What adaptation leaves: other weights, and the parent among its ancestors."""
    child = Generator.random(parent.config, seed=seed)
    child.provenance = {"method": "StyleGAN-NADA", "ancestors": list(parent.lineage)}
    return child


@pytest.mark.parametrize(("rows", "columns", "rank"), [(16, 144, 4), (8, 72, 8), (5, 3, 4), (1, 9, 1)])
def test_eight_bits_are_enough(rows, columns, rank):
    left, right = factors(rows, columns, rank)
    left[:, 0] *= 100  # one term far larger than the others, whose rounding must not drown them
    kept = LowRank.of(left, right)
    exact = left @ right
    assert float((kept.matrix() - exact).norm() / exact.norm()) < 0.01
    assert kept.left.dtype == kept.right.dtype == torch.int8
    assert int(kept.left.abs().max()) == int(kept.right.abs().max()) == 127


def test_terms_are_rounded_one_by_one():
    left, right = factors(16, 144, 4)
    left[:, 0] *= 1000
    kept = LowRank.of(left, right)
    small = LowRank(kept.left[:, 1:], kept.right[1:], kept.scale[1:])
    u, s, v = torch.linalg.svd(left @ right, full_matrices=False)
    rest = (u[:, 1:4] * s[1:4]) @ v[1:4]
    assert float((small.matrix() - rest).norm() / rest.norm()) < 0.02


def test_no_change_is_kept_as_none():
    left, right = factors(16, 144, 4)
    kept = LowRank.of(0 * left, right)
    assert bool((kept.matrix() == 0).all())
    assert bool(torch.isfinite(kept.scale).all())


def test_applying_adds_so_much_of_the_change(tiny, delta):
    before = tiny.digest
    tuned = delta.apply(tiny, 0.5)
    for name, change in ((WEIGHT, delta.matrices[WEIGHT].matrix()), (BIAS, delta.small[BIAS].float())):
        old, new = tiny.net.get_parameter(name), tuned.net.get_parameter(name)
        assert torch.allclose(new - old, 0.5 * change.view(old.shape), atol=1e-6)
    assert float(tuned.net.get_parameter(STRENGTH) - tiny.net.get_parameter(STRENGTH)) == pytest.approx(0.125)
    assert tuned.digest != tiny.digest
    assert delta.apply(tiny, 0.0).digest == before
    del tiny.__dict__["digest"]
    assert tiny.digest == before, "the generator itself stays as it is"


def test_what_does_not_change_is_shared_and_may_move_alone(tiny, delta):
    tuned = delta.apply(tiny)
    mine, theirs = dict(tuned.net.named_parameters()), dict(tiny.net.named_parameters())
    own = {name for name in mine if mine[name].data_ptr() != theirs[name].data_ptr()}
    assert own == {WEIGHT, BIAS, STRENGTH}
    noise = "synthesis.b32.conv1.noise_const"
    assert tuned.net.get_buffer(noise).data_ptr() == tiny.net.get_buffer(noise).data_ptr()
    tuned.net.double()
    assert {p.dtype for p in tiny.net.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in tuned.net.parameters())


def test_the_tuned_generator_knows_where_it_comes_from(tiny, delta):
    tuned = delta.apply(tiny)
    assert tuned.lineage == (tuned.digest, tiny.digest)
    assert tuned.provenance["tuned"] == {"generator": tiny.digest, "latents": digest_of(tiny.mean()), "amount": 1.0}
    assert tuned.provenance["untrained"], "what is known of the generator is passed on"
    edit = Shift(delta=torch.ones(tiny.s_dim), layers=tiny.layer_widths, generator_digest=tiny.digest)
    moved = edit(tuned.mean(), 0.1)
    assert torch.allclose(moved.tensor, tiny.styles(tiny.mean()).tensor + 0.1)
    assert tuned.render(moved).shape == (1, 3, 32, 32)


def test_a_generator_adapted_from_it_takes_the_change(tiny, delta):
    child = child_of(tiny)
    tuned = delta.apply(child)
    change = delta.matrices[WEIGHT].matrix().view(tiny.net.get_parameter(WEIGHT).shape)
    assert torch.allclose(tuned.net.get_parameter(WEIGHT), child.net.get_parameter(WEIGHT) + change, atol=1e-6)
    assert tuned.lineage == (tuned.digest, child.digest, tiny.digest)


def test_precision_notes_and_mapper_stay(tiny, delta):
    mapper = LatentMapper(MapperConfig("w+", (Group("single", 0, tiny.num_ws),), tiny.num_ws, tiny.w_dim))
    mined = Generator(sharing(tiny.net), mapper=mapper, provenance={"ancestors": [tiny.digest]}, notes=["a note"])
    tuned = delta.apply(mined.to(dtype=torch.bfloat16))
    assert tuned.dtype == torch.bfloat16
    assert tuned.notes == ("a note",)
    assert torch.equal(tuned.sample(2).tensor, mined.sample(2).tensor)
    assert tuned.sample(2).space == "w+"


def test_other_generators_are_refused(tiny, delta):
    with pytest.raises(InvertError, match="one adapted from it"):
        delta.apply(Generator.random(tiny.config, seed=9))
    tuned = delta.apply(tiny)
    with pytest.raises(InvertError, match="tuned to a picture already"):
        delta.apply(tuned)
    child = child_of(tuned)
    child.provenance["tuned"] = tuned.provenance["tuned"]  # adaptation passes it on
    with pytest.raises(InvertError, match="tuned to a picture already"):
        delta.apply(child)
    again = Delta(tuned.digest, delta.latents_digest, delta.matrices, delta.small)
    assert again.apply(tuned).ancestors == (tuned.digest, tiny.digest), "made for the tuned one: nothing against it"
    unchanged = delta.apply(tiny, 0.0)
    assert delta.apply(unchanged).digest == tuned.digest, "none of it is in there yet"
    for amount in (math.nan, math.inf):
        with pytest.raises(InvertError, match="amount"):
            delta.apply(tiny, amount)


@pytest.mark.parametrize(
    ("matrices", "small"),
    [
        ({"synthesis.b64.conv0.weight": (8, 72)}, {}),
        ({WEIGHT: (16, 100)}, {}),
        ({WEIGHT: (144, 16)}, {}),
        ({STRENGTH: (1, 1)}, {}),
        ({"": (1, 1)}, {}),
        ({}, {BIAS: (13,)}),
        ({}, {STRENGTH: (1,)}),
        ({}, {"synthesis.b4": (1,)}),
    ],
)
def test_a_change_of_other_shapes_is_refused(tiny, matrices, small):
    made = {name: LowRank.of(*factors(*shape, 1)) for name, shape in matrices.items()}
    plain = {name: torch.zeros(shape).half() for name, shape in small.items()}
    with pytest.raises(InvertError, match="this generator has"):
        Delta(tiny.digest, "", made, plain).apply(tiny)


def test_it_survives_a_file_beside_other_tensors(tiny, delta, tmp_path):
    tensors, record = delta.pack()
    path = save_tensors(
        tmp_path / "one.safetensors", pack("delta", tensors) | {"code": torch.ones(3)}, "inversion", record
    )
    read, meta = load_tensors(path, "inversion")
    again = Delta.unpack(unpack(read, "delta"), meta)
    assert again.apply(tiny).digest == delta.apply(tiny).digest
    assert (again.generator_digest, again.latents_digest) == (delta.generator_digest, delta.latents_digest)
    stored = 16 * 3 + 3 * 144 + 3 * 4 + 12 * 2 + 2
    assert again.size == delta.size == stored
    assert path.stat().st_size > stored
    with pytest.raises(WeightsError, match="kind 'inversion'"):
        load_tensors(path, "edit")


def damage(**changes):
    def change(tensors):
        for part, value in changes.items():
            name = BIAS if part == "bias" else f"{WEIGHT}.{part}"
            tensors[name] = value(tensors[name])

    return change


@pytest.mark.parametrize(
    "change",
    [
        damage(left=lambda t: t.float()),
        damage(right=lambda t: t.to(torch.uint8)),
        damage(scale=lambda t: t.half()),
        damage(scale=lambda t: t * math.nan),
        damage(scale=lambda t: t[:2]),
        damage(left=lambda t: t[:, :2]),
        damage(right=lambda t: t.flatten()),
        damage(bias=lambda t: t.float()),
        damage(bias=lambda t: t * math.inf),
        lambda tensors: tensors.pop(f"{WEIGHT}.right"),
        lambda tensors: tensors.pop(f"{WEIGHT}.left"),
    ],
)
def test_damage_is_found(delta, change):
    tensors, record = delta.pack()
    change(tensors)
    with pytest.raises(InvertError, match="damaged tuning"):
        Delta.unpack(tensors, record)


@pytest.mark.parametrize("record", [{}, {"generator": "a"}, {"generator": 3, "latents": "b"}])
def test_a_record_without_digests_is_damaged(delta, record):
    with pytest.raises(InvertError, match="damaged tuning"):
        Delta.unpack(delta.pack()[0], record)


def test_a_code_s_digest_is_of_space_and_numbers(tiny):
    w = tiny.sample(1)
    assert digest_of(w) == digest_of(Latents("w", w.tensor.double().float().clone()))
    others = [tiny.w_plus(w), tiny.sample(1, seed=1), Latents("s", w.tensor)]
    assert len({digest_of(latents) for latents in (w, *others)}) == 4
