"""Recipes of the judge and the identity net: their parts, and a few steps on a few drawings."""

import numpy as np
import pytest
import torch

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from recipes.avatars.attributes import ATTRIBUTES, FACIAL_HAIR, HAIR_STYLE, sample_labels
from recipes.avatars.recogniser_training import accuracy, blur, confusions, distort
from recipes.avatars.render import RenderConfig, render
from recipes.avatars.train_identity import (
    FREE,
    PERSON,
    UNSEEN,
    Groups,
    IdentityConfig,
    agreement,
    changed,
    identity_loss,
    nearest,
    persons,
)
from recipes.avatars.train_identity import train as train_identity
from recipes.avatars.train_judge import JUDGED, JudgeConfig
from recipes.avatars.train_judge import train as train_judge
from stylograph.files import load_tensors
from stylograph.metrics import Judge
from stylograph.nets.recogniser import Recogniser, RecogniserConfig


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    render(RenderConfig(what="personas", out=folder, count=24, workers=1))
    return folder


def test_blur_keeps_means_and_flattens():
    spike = torch.zeros(1, 3, 9, 9)
    spike[..., 4, 4] = 9
    soft = blur(spike)
    assert torch.allclose(soft[..., 3:6, 3:6], torch.ones(1, 3, 3, 3))
    assert soft.sum() == pytest.approx(27)
    assert torch.allclose(blur(torch.full((1, 3, 5, 5), 0.3)), torch.full((1, 3, 5, 5), 0.3))


def test_distortion_keeps_order_and_is_repeatable():
    shades = torch.linspace(-0.8, 0.8, 6)[:, None, None, None].expand(6, 3, 64, 64).contiguous()
    one, two = (distort(shades, torch.Generator().manual_seed(3), strength=0.3) for _ in range(2))
    assert torch.equal(one, two)
    assert (one.mean((1, 2, 3)).diff() > 0).all()
    assert torch.allclose(one[3:], shades[3:]), "softening leaves a flat picture alone"


def test_accuracy_leaves_out_what_cannot_be_seen():
    guesses, labels = {"eyes": torch.tensor([0, 1, 2, 2])}, {"eyes": torch.tensor([0, 2, 2, -100])}
    assert accuracy(guesses, labels)["eyes"] == pytest.approx(2 / 3)
    keys = [value.key for value in ATTRIBUTES["eyes"].values]
    assert confusions(guesses["eyes"], labels["eyes"], keys) == [f"{keys[2]} -> {keys[1]}: 1"]


def test_a_few_steps_make_a_judge(work, tmp_path):
    config = JudgeConfig(work, tmp_path / "judge.safetensors", steps=3, batch=4, widths=(4, 4, 8), save_every=2)
    scores = train_judge(config)
    assert set(scores) == {"clean", "blurred", "distorted"}
    assert all(0 <= share <= 1 for row in scores.values() for share in row.values())
    judge = Judge.from_pretrained(config.out)
    assert set(judge.attributes) == set(JUDGED)
    assert judge.accuracy["clean"].keys() == set(JUDGED)
    assert judge.hidden["mouth"] == ("facial_hair", {FACIAL_HAIR.index("beardMustache")})
    assert load_tensors(config.out, "judge")[1]["provenance"]["pictures_seen"] == 12


def test_bald_people_have_no_hair_colour():
    labels = {name: np.zeros(3, int) for name in ATTRIBUTES}
    labels["hair_style"][:] = [HAIR_STYLE.index("cap"), HAIR_STYLE.index("cap"), HAIR_STYLE.index("long")]
    labels["facial_hair"][1] = 1
    column = list(PERSON).index("hair_colour")
    assert persons(labels)[:, column].tolist() == [UNSEEN, 0, 0]


def test_agreement_is_the_weighted_share_of_equal_attributes():
    who = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 3, 4]])
    found = agreement(who)
    assert found[0].tolist() == pytest.approx([1, 1, 1 - PERSON["skin"], 0])
    assert torch.linalg.eigvalsh(found).min() > -1e-6, "unit vectors with these cosines exist"


def test_identity_loss_is_zero_at_the_kernel_only():
    rng = torch.Generator().manual_seed(0)
    who = torch.randint(2, (12, 4), generator=rng)
    spots = [torch.nn.functional.one_hot(who[:, i], 2) * weight**0.5 for i, weight in enumerate(PERSON.values())]
    exact = torch.cat(spots, 1).float()
    assert identity_loss(exact, who) < 1e-10
    assert identity_loss(torch.nn.functional.normalize(torch.randn(12, 64, generator=rng), dim=1), who) > 0.1


def test_groups_hold_twins_and_neighbours():
    who = persons(sample_labels(4000, seed=1))
    rows = Groups(who, np.random.default_rng(0)).draw(40).reshape(4, 40)
    first, near, twin, other = who[rows]
    assert (first == twin).all()
    assert ((first != near).sum(1) == 1).mean() > 0.8
    assert ((first != other).sum(1) == 1).mean() > 0.8
    assert (rows[0] != rows[2]).mean() > 0.5


def test_nearest_counts_only_people_seen_twice():
    who = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2]])
    right = torch.eye(3)[[0, 0, 1, 1, 2]]
    assert nearest(right, who) == 1
    assert nearest(right[[0, 1, 0, 1, 2]], who) < 1


def test_changed_changes_exactly_these():
    base = dict.fromkeys(ATTRIBUTES, 0)
    new = changed(base, ("eyes", "skin"), np.random.default_rng(0))
    assert {name for name in base if new[name] != base[name]} == {"eyes", "skin"}


def test_a_few_steps_make_an_identity_net(work, tmp_path):
    config = IdentityConfig(
        work, tmp_path / "identity.safetensors", steps=2, groups=2, widths=(4, 4, 8), dimensions=8, people=3
    )
    table = train_identity(config)
    assert set(table) > {*FREE, *PERSON, "everything"}
    tensors, record = load_tensors(config.out, "identity")
    network = Recogniser(RecogniserConfig.from_dict(record["config"]))
    network.load_weights(tensors)
    assert network.eval()(torch.zeros(1, 3, 50, 60))["identity"].shape == (1, 8)


@pytest.mark.parametrize(
    "broken", [{"outputs": {"a": 0}}, {"outputs": {"a": 2}, "size": 1e9}, {"outputs": {"a": 2}, "x": 1}, {}]
)
def test_impossible_configs_are_refused(broken):
    with pytest.raises(ValueError, match=r"config fields|small positive"):
        RecogniserConfig.from_dict(broken)
