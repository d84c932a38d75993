"""The embedded world as shipped: complete, small, licensed, and good enough for the main command."""

import json

import pytest

from recipes.avatars.manifest import FOLDER, manifest
from stylograph import Clip, Generator, Identity, find_direction, find_strength
from stylograph.edit.directions import COUNTS, find_directions
from stylograph.edit.universal import SHIPPED, UniversalMap
from stylograph.metrics import Judge, leakage, success

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def generator():
    return Generator.from_pretrained("avatars")


@pytest.fixture(scope="module")
def clip():
    return Clip.from_pretrained("avatars")


def test_manifest_fits_the_files():
    assert json.loads((FOLDER / "MANIFEST.json").read_text()) == manifest()


def test_everything_is_small():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 40 * MEGABYTE


def test_every_style_is_attributed():
    from recipes.avatars.styles import STYLES

    text = (FOLDER / "ATTRIBUTION.md").read_text()
    assert len(STYLES) >= 15
    for style in ("personas", *STYLES):
        assert f"| {style} |" in text


def test_pictures_are_pictures(generator):
    images = generator.render(generator.sample(16, seed=0))
    assert images.shape == (16, 3, generator.resolution, generator.resolution)
    assert 0.8 < float(images.abs().amax(dim=(1, 2, 3)).min()) < 2
    assert float(images.std(0).mean()) > 0.1  # not one picture again and again


def test_the_universal_map_is_made_for_these_models(generator, clip):
    found = UniversalMap.load(SHIPPED, generator, clip)
    assert found.matrix.shape == (generator.w_dim, clip.embed_text("a person").shape[1])


JUDGED = [
    ("a person wearing sunglasses", "eyes", "sunglasses"),
    ("a person with a big smile", "mouth", "bigSmile"),
    ("a person with a pacifier", "mouth", "pacifier"),
]


@pytest.mark.parametrize(("target", "attribute", "value"), JUDGED)
def test_a_sentence_alone_makes_a_good_edit(generator, clip, target, attribute, value):
    """Automatic strength, judged by a network that no edit sees: true of most, and little else changed."""
    judge, identity = Judge.from_pretrained("avatars"), Identity.from_pretrained("avatars")
    edits = find_directions(generator, clip, target, counts=COUNTS)
    latents = generator.sample(16, seed=300)
    found = find_strength(edits, generator, clip, latents, target, neutral="a person", identity=identity)
    told = [judge.probabilities(generator.render(codes)) for codes in (latents, found.apply(edits, latents))]
    assert float(success(told[1], attribute, judge.value(attribute, value)).float().mean()) >= 0.75
    assert leakage(*told, hidden=judge.hidden, exempt=(attribute,)).share <= 0.2
    assert "automatic strength" in found.describe()


PAIRS = [
    ("a person wearing sunglasses", "a person"),
    ("a person with blue hair", "a person"),
    ("a person with a pacifier", "a person"),
]


@pytest.mark.parametrize(("target", "neutral"), PAIRS)
def test_an_edit_makes_the_sentence_true(generator, clip, target, neutral):
    """After the edit the CLIP that guided it finds the sentence truer of most pictures, unseen ones.

    Of most, not of nearly all: one strength for everybody overshoots on some, which is why there is an automatic one.
    """
    edit = find_direction(generator, clip, target, neutral=neutral)
    latents = generator.sample(16, seed=100)
    wanted = clip.text_direction(target, neutral)
    before, after = (clip.embed_images(generator.render(c)) @ wanted for c in (latents, edit(latents)))
    assert float((after - before).median()) > 0.1
    assert int((after > before).sum()) >= 10
    other = clip.text_direction("a person on a pink background", neutral)
    strayed = (
        clip.embed_images(generator.render(edit(latents))) - clip.embed_images(generator.render(latents))
    ) @ other
    assert float(strayed.median().abs()) < float((after - before).median())
