"""The small CLIP's recipe: losses, export, and one step of learning, at tiny sizes."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("dicebear")

from recipes.avatars import captions
from recipes.avatars.attributes import ATTRIBUTES, sample_labels
from recipes.avatars.check_clip import EDITS, directions, encode_images, encode_texts, load_clip, zero_shot
from recipes.avatars.clip_losses import direction_loss, matching_loss
from recipes.avatars.train_clip import (
    ClipShape,
    Learner,
    build_model,
    build_tokenizer,
    export,
)

TINY = ClipShape(widths=(8, 8, 8, 16), depths=(1, 1, 1, 1), text_width=16, text_layers=1, projection=8)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return build_model(len(tokenizer), TINY)


def test_matching_loss_counts_every_true_column():
    logits = torch.tensor([[2.0, 2.0, -50.0], [0.0, 0.0, 0.0]])
    truth = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, 0.0]])
    assert matching_loss(logits, truth).item() == pytest.approx(np.log(2), abs=1e-5)


def test_matching_loss_leaves_open_columns_out():
    truth = torch.tensor([[1.0, 0.5]])
    one, two = (matching_loss(torch.tensor([[0.0, x]]), truth) for x in (-5.0, 5.0))
    assert one == two


def test_direction_loss_wants_parallel_moves():
    known = torch.tensor([0, 0, 1, 1, -100])
    vectors = torch.eye(3)[[0, 0, 1, 1, 2]]
    texts, neutral = torch.eye(3)[:2], torch.tensor([0.5, 0.5, 0.0])
    right = direction_loss(vectors, [known], [texts], [neutral])
    wrong = direction_loss(vectors, [known], [texts.flip(0)], [neutral])
    assert right < 1e-3
    assert wrong > 10


def test_tokenizer_knows_captions_and_marks_the_rest(tokenizer):
    known = tokenizer("A photo of a person, wearing SUNGLASSES.")["input_ids"]
    assert tokenizer.unk_token_id not in known
    assert tokenizer.unk_token_id in tokenizer("a person riding a xylophone")["input_ids"]
    assert known[0] == tokenizer.cls_token_id
    assert known[-1] == tokenizer.sep_token_id


def test_export_loads_plainly_and_agrees(model, tokenizer, tmp_path):
    export(model, tokenizer, tmp_path)
    loaded, words = load_clip(tmp_path)
    model.eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert (encode_images(loaded, images) - encode_images(model, images)).abs().max() < 5e-3
    texts = ["a person", "a bald person wearing sunglasses"]
    assert (encode_texts(loaded, words, texts) - encode_texts(model, tokenizer, texts)).abs().max() < 5e-3
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["image_mean"] == [0.5, 0.5, 0.5]
    assert stored["size"] == {"height": 128, "width": 128}
    assert "machine" not in (tmp_path / "config.json").read_text()


def test_gradients_reach_the_picture(model):
    model.eval()
    image = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    encode_images(model, image)[:, 0].sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().max() > 0


def test_training_lowers_the_losses(model, tokenizer):
    labels = sample_labels(12, seed=0)
    known = {name: torch.from_numpy(value) for name, value in labels.items()} | {"style": torch.zeros(12, dtype=int)}
    learner = Learner(model).train()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    images = torch.rand(12, 3, 128, 128) * 2 - 1
    seen = dict.fromkeys(ATTRIBUTES, True)
    totals = []
    for _ in range(6):
        rng = np.random.default_rng(0)
        texts = [captions.persona_caption({n: int(v[i]) for n, v in labels.items()}, seen, rng) for i in range(12)]
        losses = learner.losses(images, known, texts, tokenizer, rng)
        assert set(losses) == {"text", "image", "classes", "directions", "heads"}
        total = sum(losses.values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < totals[0] - 0.5


def test_attack_raises_the_loss_within_its_size(model):
    learner = Learner(model).train()
    labels = {name: torch.from_numpy(value) for name, value in sample_labels(4, seed=1).items()}
    labels["style"] = torch.full((4,), -100)
    images = torch.zeros(4, 3, 128, 128)
    moved = learner.attack(images, labels, 0.05, 4)
    assert (moved - images).abs().max() <= 0.05 + 1e-6
    assert (moved - images).abs().min() >= 0.0
    assert learner.training
    assert torch.equal(moved[:, :, 0:4, 0:4], moved[:, :, :1, :1].expand(-1, -1, 4, 4))


def test_zero_shot_leaves_hidden_labels_out(model, tokenizer):
    model.eval()
    vectors = encode_texts(model, tokenizer, captions.plain_prompts("eyes")).detach()
    score, guess = zero_shot(model, tokenizer, "eyes", vectors, torch.arange(6))
    assert score == 1.0
    assert guess.tolist() == list(range(6))
    labels = torch.tensor([-100, 0, 0, 0, 0, 0])
    assert zero_shot(model, tokenizer, "eyes", vectors, labels)[0] == 0.0


def test_directions_compare_each_edit_with_the_others(model, tokenizer):
    found = directions(model.eval(), tokenizer, count=1)
    assert set(found) == set(EDITS)
    for text, (own, other, value) in found.items():
        assert other in EDITS
        assert other != text
        assert -1.001 <= own <= 1.001
        assert -1.001 <= value <= 1.001


def test_edits_name_real_values_and_known_words(tokenizer):
    for text, change in EDITS.items():
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
        ((name, key),) = change.items()
        ATTRIBUTES[name].index(key)
