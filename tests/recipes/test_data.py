"""The avatars' data side: labels, pictures, captions and what they claim."""

import numpy as np
import pytest
import torch

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from recipes.avatars import captions
from recipes.avatars.attributes import ATTRIBUTES, EYES, HAIR_STYLE, persona_options, sample_labels, visible_mask
from recipes.avatars.augment import augment
from recipes.avatars.render import RenderConfig, draw_persona, half_size, load_set, load_style, render
from recipes.avatars.styles import STYLES
from recipes.avatars.train_features import FeatureNet, attribute_loss, load_features

BASE = dict.fromkeys(ATTRIBUTES, 0) | {"eyes": EYES.index("open"), "hair_style": HAIR_STYLE.index("long")}


def test_attributes_name_what_the_style_has():
    from dicebear import Style

    style = load_style("personas")
    assert isinstance(style, Style)
    for attribute in ATTRIBUTES.values():
        keys = {value.key for value in attribute.values if not value.colour} - {"none"}
        if keys:
            assert keys == set(style.components()[attribute.option].variants()), attribute.name


def test_labels_are_uniform_and_repeatable():
    labels = sample_labels(6000, seed=3)
    again = sample_labels(6000, seed=3)
    assert all((labels[name] == again[name]).all() for name in labels)
    assert abs((labels["facial_hair"] > 0).mean() - 0.3) < 0.03
    shares = np.bincount(labels["mouth"], minlength=7) / 6000
    assert abs(shares - 1 / 7).max() < 0.03


def test_drawing_follows_the_labels():
    plain = draw_persona(BASE).astype(int)
    assert plain.shape == (128, 128, 3)
    assert (draw_persona(BASE) == plain).all()
    dark = draw_persona(BASE | {"eyes": EYES.index("sunglasses")}).astype(int)
    changed = np.abs(dark - plain).sum(2) > 60
    rows = np.nonzero(changed)[0]
    assert changed.mean() > 0.01
    assert rows.min() > 40, "sunglasses sit on the eyes and nowhere else"
    assert rows.max() < 75, "sunglasses sit on the eyes and nowhere else"
    blue = draw_persona(BASE | {"background": 0})[2, 2]
    assert tuple(blue) == (0xB6, 0xE3, 0xF4)


def test_beard_takes_the_hair_colour():
    options = persona_options(BASE | {"facial_hair": 1, "hair_colour": 3})
    assert options["facialHairColor"] == options["hairColor"] == ["#d1492e"]
    assert options["facialHairProbability"] == 100
    assert persona_options(BASE)["facialHairProbability"] == 0


def test_half_size_averages():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 0] = 255
    assert half_size(images).shape == (1, 1, 1, 3)
    assert half_size(images)[0, 0, 0, 0] == 64


def test_rendering_resumes_and_refuses_another_recipe(tmp_path):
    config = RenderConfig(what="personas", out=tmp_path, count=6, shard=3, workers=1, size=128)
    render(config)
    first = np.array(load_set("personas", work=tmp_path).images)
    (tmp_path / "personas" / "shards" / "000003").unlink()
    images = np.load(tmp_path / "personas" / "images.npy", mmap_mode="r+")
    images[3:] = 0
    images.flush()
    render(config)
    assert (load_set("personas", work=tmp_path).images == first).all()
    with pytest.raises(SystemExit, match="another recipe"):
        render(RenderConfig(what="personas", out=tmp_path, count=7, shard=3, workers=1))
    with pytest.raises(SystemExit, match=r"recipes\.avatars\.render --what styles"):
        load_set("styles", work=tmp_path)


def test_captions_are_true_of_their_picture_and_false_of_others():
    labels = sample_labels(200, seed=5)
    seen = captions.seen_at(labels)
    rng = np.random.default_rng(0)
    made = [
        captions.persona_caption(
            {n: int(v[i]) for n, v in labels.items()}, {n: bool(v[i]) for n, v in seen.items()}, rng
        )
        for i in range(200)
    ]
    shown = {name: np.where(seen[name], value, -100) for name, value in labels.items()}
    truth = captions.truth(made, shown | {"style": np.zeros(200, int)})
    assert (np.diag(truth) == 1).all()
    assert 0.05 < (truth == 1).mean() < 0.5
    robot = np.full(200, captions.STYLE_NAMES.index("bottts"))
    unknown = {name: np.full(200, -100) for name in labels}
    assert (captions.truth(made, unknown | {"style": robot}) == 1).sum() <= sum(
        not set(c.claims) - {"style"} for c in made
    ) * 200
    known = set(captions.vocabulary())
    assert all(set(captions.words_of(c.text)) <= known for c in made)


def test_claims_of_overlapping_words():
    phrase = captions._claim("facial_hair", ["beardMustache"], ["goatee"])
    caption = captions.Caption("a person with a beard", {"facial_hair": phrase})
    values = np.array([ATTRIBUTES["facial_hair"].index(k) for k in ("beardMustache", "goatee", "none")] + [-100])
    labels = {"facial_hair": values, "style": np.zeros(4, int)}
    assert captions.truth([caption], labels)[0].tolist() == [1.0, 0.5, 0.0, 0.5]


def test_templates_hold_no_unknown_words():
    from stylograph.templates import IMAGENET_TEMPLATES

    known = set(captions.vocabulary())
    texts = [*IMAGENET_TEMPLATES, *(words for style in STYLES.values() for words in style.words)]
    for name in (*ATTRIBUTES, "style"):
        texts += captions.plain_prompts(name)
    assert {w for text in texts for w in captions.words_of(text.replace("{}", ""))} <= known


def test_hidden_hair_colour():
    labels = {"hair_style": np.array([HAIR_STYLE.index(k) for k in ("cap", "long")]), "hair_colour": np.array([1, 1])}
    assert visible_mask(labels, "hair_colour").tolist() == [False, True]


def test_augment_keeps_shape_range_and_seed():
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    one, two = (augment(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert one.shape == images.shape
    assert one.abs().max() <= 1
    assert torch.equal(one, two)
    assert not torch.equal(one, augment(images, torch.Generator().manual_seed(2)))


def test_features_round_trip(tmp_path):
    from safetensors.torch import save_file

    network = FeatureNet().eval()
    save_file(network.state_dict(), tmp_path / "features.safetensors")
    loaded = load_features(tmp_path / "features.safetensors")
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    maps = loaded(image)
    assert [list(m.shape[1:]) for m in maps] == [[32, 32, 32], [64, 16, 16], [128, 8, 8]]
    assert torch.equal(maps[2], network(image)[2])
    maps[2].sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0
    assert all(not p.requires_grad for p in loaded.parameters())


def test_hidden_labels_have_no_loss():
    logits = {"eyes": torch.tensor([[9.0, 0.0], [0.0, 9.0]])}
    assert attribute_loss(logits, {"eyes": torch.tensor([0, -100])}) < 1e-3
