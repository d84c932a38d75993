"""The judge and what is counted with it."""

import math

import numpy as np
import pytest
import torch

from stylograph.errors import StylographError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.metrics import Judge, leakage, success, visible


@pytest.fixture(scope="module")
def judge():
    return Judge.from_pretrained("avatars")


def table(*rows):
    return torch.tensor(rows, dtype=torch.float32)


HIDDEN = {"colour": ("hat", frozenset({1}))}


def opinions(hat, colour, eyes):
    return {"hat": hat, "colour": colour, "eyes": eyes}


SURE, OTHER, UNSURE = (0.9, 0.1), (0.1, 0.9), (0.55, 0.45)


def test_success_is_the_most_probable_value():
    after = {"eyes": table((0.2, 0.5, 0.3), (0.6, 0.3, 0.1), (0.1, 0.2, 0.7))}
    assert success(after, "eyes", 1).tolist() == [True, False, False]
    assert success(after, "eyes", {1, 2}).tolist() == [True, False, True]
    with pytest.raises(StylographError, match="attribute 'eye'; expected one of: eyes"):
        success(after, "eye", 1)


def test_leakage_counts_changed_decisions_of_other_attributes():
    before = opinions(table(SURE, SURE), table(SURE, SURE), table(SURE, SURE))
    after = opinions(table(SURE, SURE), table(OTHER, SURE), table(OTHER, OTHER))
    all_of_them = leakage(before, after, hidden=HIDDEN)
    assert all_of_them.share == pytest.approx(3 / 6)
    asked = leakage(before, after, hidden=HIDDEN, exempt=["eyes"])
    assert asked.share == pytest.approx(1 / 4)
    assert asked.by_attribute == {"hat": 0.0, "colour": 0.5}
    assert asked.by_image.tolist() == [0.5, 0.0]
    assert asked.coverage == 1.0


def test_unsure_decisions_are_not_compared():
    before = opinions(table(SURE, SURE), table(SURE, UNSURE), table(SURE, SURE))
    after = opinions(table(SURE, SURE), table((0.45, 0.55), OTHER), table(SURE, SURE))
    found = leakage(before, after, hidden=HIDDEN)
    assert found.share == 0
    assert found.coverage == pytest.approx(4 / 6)
    assert not found.compared["colour"].any()
    assert leakage(before, after, hidden=HIDDEN, confidence=0.5).share == pytest.approx(2 / 6)


def test_hidden_attributes_are_not_compared():
    plain = opinions(table(SURE), table(SURE), table(SURE))
    hatted = opinions(table(OTHER), table(OTHER), table(SURE))
    for before, after in ((plain, hatted), (hatted, plain)):
        found = leakage(before, after, hidden=HIDDEN)
        assert {name: bool(t) for name, t in found.compared.items()} == {"hat": True, "colour": False, "eyes": True}
        assert found.share == pytest.approx(1 / 2)
    assert leakage(plain, hatted, hidden={}).share == pytest.approx(2 / 3)


def test_nothing_compared_is_not_nothing_changed():
    vague = opinions(table(UNSURE), table(UNSURE), table(UNSURE))
    found = leakage(vague, vague, hidden=HIDDEN)
    assert math.isnan(found.share)
    assert found.coverage == 0
    assert found.by_image.isnan().all()


def test_opinions_that_do_not_go_together_are_refused():
    one, two = opinions(*[table(SURE)] * 3), opinions(*[table(SURE, SURE)] * 3)
    with pytest.raises(StylographError, match="the same pictures"):
        leakage(one, two, hidden=HIDDEN)
    with pytest.raises(StylographError, match="attribute 'color'; expected one of: colour"):
        leakage(one, one, hidden=HIDDEN, exempt=["color"])


def test_judge_knows_its_values(judge):
    assert judge.value("eyes", "sunglasses") == judge.attributes["eyes"].index("sunglasses")
    with pytest.raises(StylographError, match="got eyes value 'sunglass'; expected one of: sunglasses"):
        judge.value("eyes", "sunglass")
    with pytest.raises(StylographError, match="got attribute 'mouths'; expected one of: mouth"):
        judge.value("mouths", "smile")
    assert "nose" not in judge.attributes


def test_judge_reads_drawings(judge):
    pytest.importorskip("dicebear")
    from recipes.avatars.attributes import ATTRIBUTES, sample_labels, visible_mask
    from recipes.avatars.render import draw_persona
    from recipes.avatars.train_features import to_tensor

    # The values are stored by name: a reordered table in the recipe must not go unnoticed.
    assert judge.attributes == {
        name: tuple(v.key for v in a.values) for name, a in ATTRIBUTES.items() if name != "nose"
    }
    labels = sample_labels(60, seed=4321)
    drawn = np.stack([draw_persona({n: int(v[i]) for n, v in labels.items()}) for i in range(60)])
    told = judge.probabilities(to_tensor(drawn))
    seen = visible(told, judge.hidden)
    for name in judge.attributes:
        shown = visible_mask(labels, name)
        right = told[name].argmax(1).numpy() == labels[name]
        assert right[shown].mean() > (0.9 if name == "facial_hair" else 0.95), name
        assert (seen[name].numpy() == shown).mean() > 0.95, name
    for i, words in enumerate(judge.names(to_tensor(drawn[:5]))):
        assert set(words) == {n for n in judge.attributes if bool(seen[n][i])}


def test_judge_takes_generated_pictures_of_any_size(judge):
    generator = Generator.from_pretrained("avatars")
    images = generator.render(generator.sample(3, seed=1))
    told = judge.probabilities(images)
    assert all(torch.allclose(t.sum(1), torch.ones(3), atol=1e-5) for t in told.values())
    larger = judge.labels(images.repeat_interleave(4, -1).repeat_interleave(4, -2))
    assert all(torch.equal(larger[name], t.argmax(1)) for name, t in told.items())
    with pytest.raises(StylographError, match=r"expected \[N, 3, H, W\]"):
        judge.labels(images[0])


def test_a_file_that_is_no_judge_is_refused(tmp_path):
    from stylograph.assets import ASSETS

    with pytest.raises(WeightsError, match="expected a stylograph judge file"):
        Judge.from_pretrained(ASSETS / "avatars" / "generator.safetensors")
    tensors, record = load_tensors(ASSETS / "avatars" / "judge.safetensors", "judge")
    path = tmp_path / "judge.safetensors"
    tensors.pop("stem.weight")
    save_tensors(path, tensors, "judge", record)
    with pytest.raises(WeightsError, match=r"contradicts itself .*stem\.weight"):
        Judge.from_pretrained(path)
    for broken in (
        {"attributes": {"eyes": ["open"]}},
        {"hidden": {"mouth": {}}},
        {"config": {"outputs": {"eyes": -1}}},
    ):
        save_tensors(path, tensors, "judge", record | broken)
        with pytest.raises(WeightsError, match="contradicts itself"):
            Judge.from_pretrained(path)
