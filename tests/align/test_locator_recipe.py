"""The locator's recipe: scenes whose squares are where they say, and targets that a perfect network would tell."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.avatars.scenes import Scenery, _placed
from recipes.avatars.train_features import to_tensor
from recipes.avatars.train_locator import corner_error, losses, matched, padded, targets
from stylograph.align.avatars import AvatarAligner, AvatarConfig
from stylograph.align.geometry import Found, Quad
from stylograph.align.warp import crop
from stylograph.nets.locator import Locator, LocatorConfig
from stylograph.render import to_uint8


@pytest.fixture(scope="module")
def source():
    """Drawings of one colour each, avatars reddish and others bluish."""
    rng = np.random.RandomState(0)
    people, others = rng.randint(0, 100, (2, 6, 1, 1, 3)).astype(np.uint8)
    people[..., 0], others[..., 2] = 220, 220
    return Scenery(people.repeat(128, 1).repeat(128, 2), others.repeat(128, 1).repeat(128, 2))


def draw(source, kinds, height=128, width=128, seed=0):
    return source.draw(kinds, height, width, torch.Generator().manual_seed(seed))


def test_a_drawing_lies_in_the_square_it_is_said_to():
    """The square of a scene, cut out as the package does it, is the drawing."""
    y, x = np.mgrid[:128, :128]
    waves = np.stack([np.sin(x / 9), np.cos(y / 13), np.sin((x + y) / 17)], -1) * 100 + 128
    drawing = waves.astype(np.uint8)
    for side, angle in [(100.0, 0.3), (61.5, -0.5), (128.0, 0.0)]:
        canvas = torch.zeros(1, 3, 140, 170)
        center = torch.tensor([[88.3, 71.9]])
        made = _placed(
            canvas,
            to_tensor(drawing[None]),
            center,
            torch.tensor([side]),
            torch.tensor([angle]),
            torch.tensor([True]),
            torch.tensor([0]),
        )
        picture = Image.fromarray(to_uint8(made)[0].numpy())
        got = crop(picture, Quad.around(center[0].tolist(), side, angle), 64)
        want = crop(Image.fromarray(drawing), Quad.middle(128, 128), 64)
        assert float((got - want)[..., 4:-4, 4:-4].abs().max()) < 0.1


def test_scenes(source):
    kinds = ["scene"] * 20 + ["aligned"] * 4 + ["close"] * 4 + ["empty"] * 4
    made = draw(source, kinds, 128, 200)
    assert made.images.shape == (32, 3, 128, 200)
    assert float(made.images.abs().max()) <= 1
    assert torch.equal(made.images, draw(source, kinds, 128, 200).images)
    assert not torch.equal(made.images, draw(source, kinds, 128, 200, seed=1).images)
    assert made.there[:20].any(1).all()
    assert made.there[:20].sum() > 22
    assert (made.there[20:28].sum(1) == 1).all()
    assert not made.there[28:].any()
    side = made.side[made.there]
    assert side.min() >= 0.2 * 128 - 1e-3
    assert made.angle.abs().max() <= math.radians(35) + 1e-6
    center = made.center[made.there]
    assert (center > 0).all()
    assert (center < torch.tensor([200, 128])).all()


def test_an_aligned_drawing_fills_the_scene(source):
    made = draw(source, ["aligned"] * 24)
    flat = made.images.amax((2, 3)) - made.images.amin((2, 3))
    assert (flat.amax(1) < 1e-5).sum() > 6  # what is not photographed is of one colour
    assert (made.side[:, 0] == 128).all()
    assert (made.center[:, 0] == 64).all()


def test_perfect_maps_are_read_as_what_was_drawn(source):
    made = draw(source, ["scene"] * 6 + ["empty"], 128, 150)
    scenes = padded(made.images, 16)
    assert scenes.shape == (7, 3, 128, 160)
    heat, numbers, weight, sides = targets(made, 16, 20)
    assert (heat.amax((1, 2)) == torch.tensor([1.0] * 6 + [0])).all()
    assert bool(((weight > 0) <= (heat > 0.3)).all())
    assert sides[weight > 0].min() >= 0.2 * 128 / 8 - 1e-3
    maps = torch.cat([torch.logit(heat.clamp(1e-4, 1 - 1e-4))[:, None], numbers], 1)
    focal, far = losses(maps, made)
    assert float(far) == 0
    assert float(focal) < 0.3
    worse = maps.clone()
    worse[:, 1] += 0.5
    assert float(losses(worse, made)[1]) > 0.01
    assert float(losses(-maps, made)[0]) > 3

    class Told(Locator):
        def forward(self, _):
            return maps[:1]

    aligner = AvatarAligner(Told(LocatorConfig(widths=(4, 4, 4, 4))), config=AvatarConfig(looks=1))
    found = aligner.find(Image.fromarray(to_uint8(made.images[:1])[0].numpy()))
    quads = [
        Quad.around(made.center[0, i].tolist(), float(made.side[0, i]), float(made.angle[0, i]))
        for i in range(3)
        if made.there[0, i]
    ]
    pairs = matched(found, quads)
    assert len(pairs) == len(quads) == len(found)
    assert all(corner_error(quad, face.quad) < 1e-4 for quad, face in pairs)


def test_nothing_to_find_has_a_loss_without_holes(source):
    made = draw(source, ["empty"] * 3)
    focal, far = losses(torch.zeros(3, 6, 16, 16), made)
    assert math.isfinite(float(focal))
    assert float(far) == 0


def test_what_counts_as_found():
    quad = Quad.around((50, 50), 40)
    near, far = Found(Quad.around((53, 50), 40), 0.9), Found(Quad.around((61, 50), 40), 0.9)
    large = Found(Quad.around((50, 50), 61), 0.9)
    assert matched([far, near], [quad]) == [(quad, near)]
    assert matched([far], [quad]) == []
    assert matched([large], [quad]) == []
    assert len(matched([near], [quad, Quad.around((52, 50), 40)])) == 1
    assert corner_error(quad, near.quad) == pytest.approx(3 / 40)
