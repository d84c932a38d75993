"""The avatars' own aligner: what its maps mean, and the shipped network on drawings, scenes and things that are none."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from stylograph import Generator
from stylograph.align.avatars import SHIPPED, AvatarAligner, AvatarConfig
from stylograph.align.geometry import Quad
from stylograph.align.warp import crop, paste
from stylograph.errors import WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.images import Photo, to_array
from stylograph.nets.locator import Locator, LocatorConfig
from stylograph.render import to_uint8


def whole(side):
    return [[0, 0], [0, side], [side, side], [side, 0]]


def corner_error(quad, found):
    return float((quad.corners - found.quad.corners).norm(dim=1).mean()) / quad.side


class Told(Locator):
    """A locator that has been told where avatars are: (x, y, side, angle, logit) in pixels of its scene."""

    def __init__(self, *avatars):
        super().__init__(LocatorConfig(size=128, widths=(4, 4, 4, 4)))
        self.avatars, self.seen = avatars, []

    def forward(self, scenes):
        self.seen.append(scenes)
        maps = torch.zeros(len(scenes), 6, scenes.shape[2] // 8, scenes.shape[3] // 8)
        maps[:, 0] = -40
        for x, y, side, angle, logit in self.avatars:
            row, column = int(y // 8), int(x // 8)
            numbers = [
                logit,
                x / 8 - column - 0.5,
                y / 8 - row - 0.5,
                math.log(side / 64),
                math.sin(angle),
                math.cos(angle),
            ]
            maps[:, :, row, column] = torch.tensor(numbers)
        return maps


class TestMaps:
    def test_places_in_the_picture_s_own_pixels(self):
        network = Told((40, 70, 32, 0.3, 2.0), (150, 21, 24, 0, 3.0), (100, 100, 30, 0, -1.0))
        aligner = AvatarAligner(network, config=AvatarConfig(looks=1))
        found = aligner.find(Image.new("RGB", (600, 384)))
        assert [tuple(s.shape) for s in network.seen] == [(1, 3, 128, 208)]  # 200 x 128, made whole cells of 16
        assert [round(face.score, 3) for face in found] == [0.881, 0.953]  # by area times score
        for face, quad in zip(found, [Quad.around((120, 210), 96, 0.3), Quad.around((450, 63), 72)]):
            assert corner_error(quad, face) < 1e-5

    @pytest.mark.parametrize("looks", [1, 2])
    def test_a_large_picture_is_reduced_first(self, looks):
        # 2001 x 1921 becomes 667 x 641 (its last column and row are of fewer pixels), then 133 x 128.
        aligner = AvatarAligner(Told((64, 64, 102.4, 0, 2.0)), config=AvatarConfig(looks=looks))
        found = aligner.find(Image.new("RGB", (2001, 1921)))
        assert corner_error(Quad.around((64 * 2001 / 133, 64 * 1923 / 128), 102.4 * 1923 / 128), found[0]) < 1e-5

    def test_the_second_look_is_at_the_find_alone_and_comes_back(self):
        # Seen by itself the avatar is a little right of the middle, smaller than thought and turned.
        network = Told((70, 64, 96, 0.1, 2.0))
        found = AvatarAligner(network).find(Image.new("RGB", (128, 128)))
        assert [tuple(s.shape[2:]) for s in network.seen] == [(128, 128)] * 2
        first = Quad.around((70, 64), 96, 0.1)
        view = first.enlarged(1.25)
        middle = view.corners[0] + (70 * view.across + 64 * torch.stack([-view.across[1], view.across[0]])) / 128
        assert corner_error(Quad.around(middle.tolist(), 96 * 120 / 128, 0.2), found[0]) < 1e-5

    def test_neighbours_have_a_say_by_how_sure_they_are(self):
        # Two cells beside each other, logits 2 and 0: weights 0.881 and 0.5.
        network = Told((63, 60, 64, 0, 2.0), (65, 60, 80, 0, 0.0))
        found = AvatarAligner(network, config=AvatarConfig(looks=1)).find(Image.new("RGB", (128, 128)))
        told, weights = np.array([[63, math.log(64)], [65, math.log(80)]]), np.array([1 / (1 + math.exp(-2)), 0.5])
        x, size = (told * weights[:, None]).sum(0) / weights.sum()
        assert corner_error(Quad.around((x, 60), math.exp(size)), found[0]) < 1e-6

    def test_one_avatar_is_found_once(self):
        network = Told((60, 60, 64, 0, 2.0), (76, 60, 64, 0, 2.5))
        found = AvatarAligner(network, config=AvatarConfig(looks=1)).find(Image.new("RGB", (128, 128)))
        assert [round(face.score, 3) for face in found] == [0.924]

    def test_a_square_drawing_is_itself(self):
        aligner = AvatarAligner(Told((65, 63, 125, 0.02, 2.0)), config=AvatarConfig(looks=1))
        assert aligner.find(Image.new("RGB", (500, 500)))[0].quad.tolist() == whole(500)
        assert aligner.find(Image.new("RGB", (500, 501)))[0].quad.tolist() != whole(500)
        aligner = AvatarAligner(Told((65, 63, 110, 0.02, 2.0)), config=AvatarConfig(looks=1))
        assert aligner.find(Image.new("RGB", (500, 500)))[0].quad.tolist() != whole(500)

    @pytest.mark.parametrize("size", [(1, 1), (1, 700), (3000, 2), (5, 3), (17, 17)])
    @pytest.mark.parametrize("looks", [1, 2])
    def test_odd_pictures(self, size, looks):
        network = Told((4, 4, 128, 0, 2.0))
        for face in AvatarAligner(network, config=AvatarConfig(looks=looks)).find(Image.new("RGB", size)):
            assert bool(face.quad.corners.isfinite().all())
        assert max(max(scene.shape[2:]) for scene in network.seen) <= 1024


@pytest.fixture(scope="module")
def aligner():
    return AvatarAligner.from_pretrained()


@pytest.fixture(scope="module")
def drawings():
    """What the shipped generator draws, 64x64."""
    generator = Generator.from_pretrained("avatars")
    images = generator.render(generator.sample(12, seed=700))
    return [Image.fromarray(pixels) for pixels in to_uint8(images).numpy()]


def scene(size, *placed):
    """A room with drawings pasted in: (drawing, quad)."""
    ground = Image.linear_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(ground).rectangle((size[0] // 2, 0, size[0], size[1] // 3), fill="#7a5b3a")
    photo = Photo(ground)
    for drawing, quad in placed:
        photo = paste(photo, crop(drawing, Quad.middle(*drawing.size), 256), quad, feather=0)
    return photo.picture


class TestShipped:
    @pytest.mark.parametrize("side", [64, 100, 256, 1024])
    def test_a_drawing_is_its_own_square(self, aligner, drawings, side):
        exact = [
            [face.quad.tolist() for face in aligner.find(drawing.resize((side, side), Image.Resampling.BICUBIC))]
            == [whole(side)]
            for drawing in drawings
        ]
        assert sum(exact) >= len(exact) - 1

    def test_noise_and_blur_do_not_matter(self, aligner, drawings):
        rng, exact = np.random.RandomState(0), 0
        for drawing in drawings:
            pixels = (
                to_array(drawing.resize((200, 200)).filter(ImageFilter.GaussianBlur(2))) + rng.randn(200, 200, 3) * 12
            )
            found = aligner.find(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
            exact += [face.quad.tolist() for face in found] == [whole(200)]
        assert exact >= len(drawings) - 1

    @pytest.mark.parametrize(
        ("size", "side", "angle"), [((480, 320), 150, 0.35), ((300, 500), 260, -0.2), ((400, 400), 90, 0)]
    )
    def test_in_a_scene(self, aligner, drawings, size, side, angle):
        quad = Quad.around((size[0] * 0.45, size[1] * 0.55), side, angle)
        errors = []
        for drawing in drawings:
            found = aligner.find(scene(size, (drawing, quad)))
            errors += [corner_error(quad, found[0])] if len(found) == 1 else []
        assert len(errors) >= len(drawings) - 1
        assert sorted(errors)[len(errors) // 2] < 0.04

    def test_several_the_largest_first(self, aligner, drawings):
        quads = [Quad.around((90, 200), 100, 0.2), Quad.around((300, 170), 200, -0.1)]
        found = aligner.find(scene((450, 300), (drawings[0], quads[0]), (drawings[1], quads[1])))
        assert len(found) == 2
        assert corner_error(quads[1], found[0]) < 0.06
        assert corner_error(quads[0], found[1]) < 0.06

    def test_nothing_there(self, aligner):
        noise = np.random.RandomState(0).randint(0, 256, (200, 300, 3)).astype(np.uint8)
        for picture in (
            Image.new("RGB", (300, 200), "navy"),
            Image.fromarray(noise),
            scene((300, 200)),
            scene((90, 400)),
        ):
            assert aligner.find(picture) == []

    def test_a_drawing_of_the_program(self, aligner):
        pytest.importorskip("dicebear")
        pytest.importorskip("resvg_py")
        from recipes.avatars.attributes import sample_labels
        from recipes.avatars.render import draw_persona

        labels = sample_labels(6, seed=9)
        for i in range(6):
            picture = Image.fromarray(draw_persona({name: int(v[i]) for name, v in labels.items()}, size=160))
            assert [face.quad.tolist() for face in aligner.find(picture)] == [whole(160)]

    def test_is_small_and_tells_where_it_is_from(self):
        assert SHIPPED.stat().st_size < 2**20
        tensors, record = load_tensors(SHIPPED, "locator")
        assert all(tensor.dtype == torch.float16 for tensor in tensors.values())
        assert "CC BY 4.0" in record["provenance"]["data"]
        assert record["measured"]["looks 2"]["recall"] > 0.9


class TestFiles:
    def test_refusals(self, tmp_path):
        config = LocatorConfig(size=64, widths=(4, 4, 4))
        network = Locator(config)
        good = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        record = {"config": config.to_dict()}
        path = save_tensors(tmp_path / "a.safetensors", good, "locator", record)
        assert AvatarAligner.from_pretrained(path).network.config == config
        wrong = [
            (good, {}),
            (good, {"config": {"size": 64}}),
            (good, {"config": {"size": 60, "widths": [4, 4, 4]}}),
            (good, {"config": {"size": 64, "widths": [4, 4]}}),
            (good, {"config": {"size": 64, "widths": [4, 4, 10**9]}}),
            (good, {"config": {"size": 64, "widths": [4, 4, 8]}}),
            (dict(list(good.items())[1:]), record),
        ]
        for tensors, told in wrong:
            save_tensors(path, tensors, "locator", told)
            with pytest.raises(WeightsError, match=r"contradicts itself .*train_locator; write it again"):
                AvatarAligner.from_pretrained(path)
        save_tensors(path, good, "judge", record)
        with pytest.raises(WeightsError, match="of kind 'judge'; expected a stylograph locator file"):
            AvatarAligner.from_pretrained(path)
