"""Recipe of the domain judge, and the loop it shares with the judge and the identity net."""

import pytest
import torch

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from recipes.avatars.recogniser_training import conditions, fit
from recipes.avatars.render import HELD_OUT_STYLES, RenderConfig, render, training_share
from recipes.avatars.styles import STYLES
from recipes.avatars.train_domains import (
    CELLS,
    NAMES,
    DomainsConfig,
    Pictures,
    domain_loss,
    reground,
    thumbnails,
    train,
)
from recipes.avatars.train_judge import JUDGED
from stylograph.domains import DomainJudge
from stylograph.files import load_tensors
from stylograph.nets.recogniser import Recogniser, RecogniserConfig


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    render(RenderConfig(what="all", out=folder, count=24, per_style=2, workers=1))
    return folder


@pytest.fixture(scope="module")
def pictures(work):
    return Pictures(work)


def test_a_batch_is_half_personas(pictures):
    images, labels = pictures.draw(8, torch.Generator().manual_seed(0))
    assert images.shape == (8, 3, 64, 64)
    assert labels.keys() == {"style", *JUDGED}
    assert (labels["style"][0::2] == 0).all()
    assert (labels["style"][1::2] > 0).all()
    for name in JUDGED:
        assert (labels[name][1::2] == -100).all(), "nobody knows the attributes of other styles"
    assert (labels["skin"][0::2] >= 0).all()


def test_labels_belong_to_their_pictures(pictures):
    from recipes.avatars.train_features import to_tensor

    images, labels = pictures.draw(40, torch.Generator().manual_seed(1))
    people, strange = to_tensor(pictures.personas), to_tensor(pictures.strange)
    for i in range(40):
        known = people if i % 2 == 0 else strange
        row = int((known - images[i]).abs().mean((1, 2, 3)).argmin())
        assert torch.equal(known[row], images[i])
        if i % 2:
            assert row < pictures.others
            assert labels["style"][i] == row % len(STYLES) + 1
        else:
            assert row < pictures.people
            assert all(labels[name][i] == pictures.labels[name][row] for name in JUDGED)


def test_held_out_pictures_hold_every_style(pictures):
    images, labels = pictures.held_out()
    assert len(images) == 12 + 30
    assert labels["style"].tolist() == [0] * 12 + list(range(1, 31))
    assert (training_share(40_000), training_share(18_000, HELD_OUT_STYLES)) == (38_000, 17_000)


def test_reground_changes_the_background_and_its_label_only():
    images = torch.full((200, 3, 8, 8), -0.5)
    images[:, :, 3:6, 3:6] = 0.25
    labels = {"background": torch.full((200,), 2), "skin": torch.full((200,), 1)}
    new, told = reground(images, labels, torch.Generator().manual_seed(0), share=0.5)
    assert torch.equal(new[:, :, 3:6, 3:6], images[:, :, 3:6, 3:6])
    changed = (new != images).any(3).any(2).any(1)
    assert 70 < int(changed.sum()) < 130
    assert torch.equal(told["background"] == -100, changed)
    assert (told["skin"] == 1).all()
    corner = new[changed][:, :, 0, 0]
    assert torch.equal(new[changed][:, :, 7, 7], corner)
    assert 0.2 < float((corner == 1).all(1).float().mean()) < 0.5
    assert torch.equal(reground(images, labels, torch.Generator(), share=0.0)[0], images)


def test_thumbnails_are_averages():
    images = torch.arange(16.0).repeat_interleave(4).expand(1, 3, 64, 64)
    small = thumbnails(images).view(3, CELLS, CELLS)
    assert torch.allclose(small[0, 0], torch.arange(8) * 2 + 0.5)


def test_loss_is_the_weighted_sum(pictures):
    clean, labels = pictures.draw(4, torch.Generator().manual_seed(0))
    outputs = {"style": torch.zeros(4, 31), "thumbnail": thumbnails(clean) + 0.5}
    outputs |= {name: torch.zeros(4, 7) for name in JUDGED}
    labels = labels | {name: torch.tensor([0, -100, 1, -100]) for name in JUDGED}
    config = DomainsConfig(attributes=0.2, thumbnail=4.0)
    expected = torch.log(torch.tensor(31.0)) + 0.2 * len(JUDGED) * torch.log(torch.tensor(7.0)) + 4 * 0.25
    assert domain_loss(outputs, labels, clean, config).item() == pytest.approx(expected.item(), rel=1e-5)


def test_conditions_are_repeatable_and_clean_is_clean():
    images = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, two = ({title: change(images) for title, change in conditions()} for _ in range(2))
    assert torch.equal(one["clean"], images)
    assert one["blurred"].std() < 0.6 * images.std()
    assert all(torch.equal(one[title], two[title]) for title in one)


def test_fit_lowers_the_loss_and_tells_every_step():
    torch.manual_seed(0)
    network = Recogniser(RecogniserConfig({"x": 2}, size=8, widths=(4, 4), depth=1, squeeze=2, hidden=8))
    images = torch.randn(16, 3, 8, 8)
    target = (images.mean((1, 2, 3)) > 0).long()
    steps, losses = [], []

    def loss():
        assert network.training
        error = torch.nn.functional.cross_entropy(network(images)["x"], target)
        losses.append(error.item())
        return error

    fit(network, loss, steps=40, lr=0.02, on_step=lambda step: (steps.append(step), network.eval()))
    assert steps == list(range(1, 41))
    assert losses[-1] < 0.3 * losses[0]


def test_a_few_steps_make_a_domain_judge(work, tmp_path):
    config = DomainsConfig(work, tmp_path / "domains.safetensors", steps=3, batch=8, widths=(4, 4, 8), hidden=16)
    scores = train(config)
    judge = DomainJudge.from_pretrained(config.out)
    assert judge.names == NAMES
    assert judge.accuracy["distorted"] == {k: round(v, 4) for k, v in scores["distorted"].items()}
    assert all(0 <= scores[title][who] <= 1 for title in scores for who in ("personas", "others", "attributes"))
    assert all(row["thumbnail"] < 1 for row in scores.values())
    tensors, record = load_tensors(config.out, "domains")
    assert record["provenance"]["pictures_seen"] == 24
    assert {str(t.dtype) for t in tensors.values()} == {"torch.float16"}
    assert judge.features(torch.zeros(2, 3, 64, 64)).shape == (2, 16)
