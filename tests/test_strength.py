"""Automatic strength: the rule on curves made by hand, and the search on a real edit."""

from dataclasses import replace

import pytest
import torch
from conftest import save_tiny_clip
from test_edit import shift

from stylograph import Clip, DirectionConfig, find_direction
from stylograph.edit.strength import Curve, StrengthConfig, choose_strength, find_strength, measure
from stylograph.errors import EditError, PromptError

pytestmark = pytest.mark.filterwarnings("ignore::stylograph.errors.PromptWarning")
TARGET, NEUTRAL = "a person wearing a hat", "a person"
RULE = StrengthConfig(thrift=0.5, budget=0.4, least=0.05)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip")))


def curve(gain, identity=None):
    """A curve over strengths 0, 1, 2, 3, 4 for one image."""
    gain = torch.tensor(gain)[:, None]
    same = torch.ones_like(gain) if identity is None else torch.tensor(identity)[:, None]
    return Curve(torch.arange(5.0), gain, torch.zeros_like(gain), same)


@pytest.mark.parametrize(
    ("gain", "identity", "value", "reason"),
    [
        ((0, 0.1, 0.5, 0.52, 0.53), None, 2, "reached"),
        ((0, 0.1, 0.2, 0.3, 0.4), None, 4, "end"),
        ((0, 0.3, 0.5, 0.2, 0.1), None, 2, "reached"),
        ((0, 0.1, 0.3, 0.5, 0.6), (1, 0.9, 0.7, 0.5, 0.3), 2, "budget"),
        ((0, 0.4, 0.41, 0.42, 0.42), (1, 0.9, 0.7, 0.5, 0.3), 1, "reached"),
        ((0, 0.1, 0.4, 0.44, 0.48), None, 2, "reached"),
        ((0, 0.0, 0.0, 0.0, 0.4), None, 4, "end"),
        ((0, 0.1, 0.3, 0.5, 0.6), (1, 0.9, 0.5, 0.9, 0.9), 1, "budget"),
        ((0, 0.01, 0.02, 0.03, 0.02), None, 0, "none"),
        ((0, -0.1, -0.2, -0.3, -0.4), None, 0, "none"),
        ((0, 0.4, 0.5, 0.6, 0.7), (1, 0.3, 0.2, 0.1, 0.1), 0, "budget"),
    ],
)
def test_the_rule(gain, identity, value, reason):
    found = choose_strength(curve(gain, identity), RULE)
    assert (float(found.values[0]), found.reasons) == (value, (reason,))
    assert "automatic strength" in found.describe()


def test_the_curve_is_what_rendering_gives(tiny, clip):
    edit, w = shift(tiny, 1, strength=0.5), tiny.sample(3)
    wanted = clip.text_direction(TARGET, NEUTRAL)
    found = measure(edit, tiny, clip, w, wanted, config=StrengthConfig(steps=2, largest=3.0, batch=2))
    assert found.strengths.tolist() == [0, 0.75, 1.5]
    with torch.no_grad():
        first, last = (clip.embed_images(tiny.render(edit(w, a))) for a in (0.0, 1.5))
    assert torch.allclose(found.gain[2], (last - first) @ wanted, atol=1e-5)
    square = found.gain[2].square() + found.drift[2].square()
    assert torch.allclose(square, (last - first).square().sum(-1), atol=1e-5)
    assert not found.gain[0].any()


def test_beats_no_edit_and_reports_what_it_saw(tiny, clip):
    config = DirectionConfig(method="gradient", images=8, count=12)
    edit, w = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config), tiny.sample(4, seed=60)
    settings = StrengthConfig(least=0.0)
    found = find_strength(edit, tiny, clip, w, TARGET, neutral=NEUTRAL, config=settings)
    wanted = clip.text_direction(TARGET, NEUTRAL)
    with torch.no_grad():
        gain = (clip.embed_images(tiny.render(edit(w, found.values))) - clip.embed_images(tiny.render(w))) @ wanted
    assert float(gain.min()) >= 0
    assert float(gain.mean()) >= 0.5 * float(found.curves[0].gain.amax(0).mean())
    greedy = find_strength(edit, tiny, clip, w, TARGET, neutral=NEUTRAL, config=replace(settings, thrift=0.0))
    assert bool((greedy.values >= found.values).all())
    again = find_strength(edit, tiny, clip, w, TARGET, neutral=NEUTRAL, config=settings)
    assert torch.equal(found.values, again.values)


def test_of_several_edits_the_one_that_drifts_least():
    """Image 0: both gain alike, the second drifts less. Image 1: only the first gains."""
    strengths = torch.tensor([0.0, 1.0])
    same = torch.ones(2, 2)
    first = Curve(strengths, torch.tensor([[0, 0], [0.50, 0.5]]), torch.tensor([[0, 0], [0.4, 0.4]]), same)
    second = Curve(2 * strengths, torch.tensor([[0, 0], [0.49, 0.1]]), torch.tensor([[0, 0], [0.2, 0.1]]), same)
    found = choose_strength([first, second], RULE)
    assert (found.choice.tolist(), found.values.tolist()) == ([1, 0], [2, 1])


def test_every_image_gets_its_own_edit(tiny, clip):
    config = DirectionConfig(method="gradient", images=8, count=12)
    good = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config)
    bad = replace(good, delta=-good.delta)
    w, settings = tiny.sample(4), StrengthConfig(least=0.0)
    found = find_strength([bad, good], tiny, clip, w, TARGET, neutral=NEUTRAL, config=settings)
    assert found.choice.tolist() == [1, 1, 1, 1]
    assert torch.equal(found.apply([bad, good], w).tensor, good(w, found.values).tensor)
    assert found.typical == (1, float(found.values.median()))


def test_an_edit_without_effect(tiny, clip):
    nothing = replace(shift(tiny, 1), delta=torch.zeros(tiny.s_dim))
    found = find_strength(nothing, tiny, clip, tiny.sample(2), TARGET, neutral=NEUTRAL)
    assert found.values.tolist() == [0, 0]
    assert "left alone" in found.describe()


def test_wrong_input(tiny, clip):
    edit, w = shift(tiny, 1), tiny.sample(1)
    with pytest.raises(PromptError, match="same sentence"):
        find_strength(edit, tiny, clip, w, NEUTRAL, neutral=NEUTRAL)
    with pytest.raises(PromptError, match="empty"):
        find_strength(edit, tiny, clip, w, "", neutral=NEUTRAL)
    with pytest.raises(EditError, match="no edits"):
        find_strength([], tiny, clip, w, TARGET, neutral=NEUTRAL)
