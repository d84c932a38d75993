"""Cutting out and pasting back: exact where pixels fall on pixels, close to a reference where they do not."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from stylograph.align.geometry import Quad
from stylograph.align.warp import crop, paste
from stylograph.errors import AlignError, ImageError
from stylograph.images import Photo, to_array, to_tensor


def noise(height, width, seed=0, channels=3):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8))


def wavy(height, width):
    """A smooth picture that is known at every point, as a function of x and y as well."""

    def at(x, y):
        waves = [np.sin(x / 9 + y / 23), np.cos(x / 17 - y / 11), np.sin((x + y) / 19)]
        return np.stack(waves, -1) * 100 + 128

    y, x = np.mgrid[:height, :width] + 0.5
    return Image.fromarray(at(x, y).round().astype(np.uint8)), at


def box(left, top, side):
    return Quad.around((left + side / 2, top + side / 2), side)


def levels(tensor):
    """[1, 3, H, W] in [-1, 1] -> [H, W, 3] in 0 to 255."""
    return ((tensor[0] + 1) * 127.5).permute(1, 2, 0).numpy()


class TestCrop:
    def test_pixels_on_pixels(self):
        picture = noise(50, 60)
        whole = to_tensor(picture)
        assert torch.equal(crop(picture, box(10, 5, 32), 32), whole[..., 5:37, 10:42])
        assert torch.equal(crop(noise(9, 9), box(0, 0, 9), 9), to_tensor(noise(9, 9)))
        for quarter in (1, 2, 3):
            turned = Quad.around((26, 21), 32, quarter * math.pi / 2)
            assert torch.equal(crop(picture, turned, 32), torch.rot90(whole[..., 5:37, 10:42], quarter, (2, 3)))

    @pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 8, 12])
    def test_whole_factors_are_means(self, factor):
        picture = noise(100, 110)
        got = crop(picture, box(3, 2, 8 * factor), 8)
        want = F.avg_pool2d(to_tensor(picture)[..., 2 : 2 + 8 * factor, 3 : 3 + 8 * factor], factor)
        assert float((got - want).abs().max()) < 1e-5

    @pytest.mark.parametrize(("side", "angle"), [(301, 0.0), (333.3, 0.4), (180, -1.1), (77.7, 0.2)])
    def test_every_pixel_counts(self, side, angle):
        """One white pixel on black, wherever it is, brightens the result by what it is worth."""
        for x, y in [(200, 200), (231, 187), (214, 222)]:
            pixels = np.zeros((400, 400, 3), np.uint8)
            pixels[y, x] = 255
            got = levels(crop(Image.fromarray(pixels), Quad.around((205.3, 198.1), side, angle), 16)).sum((0, 1))
            assert abs(got / (255 * (16 / side) ** 2) - 1).max() < 0.35

    @pytest.mark.parametrize(("side", "size"), [(90, 64), (90, 90), (40, 64), (200, 64), (150, 20)])
    def test_turned(self, side, size):
        picture, at = wavy(300, 320)
        angle, middle = 0.37, (155.2, 148.9)
        got = levels(crop(picture, Quad.around(middle, side, angle), size))
        v, u = ((np.mgrid[:size, :size] + 0.5) / size - 0.5) * side
        x = middle[0] + u * math.cos(angle) - v * math.sin(angle)
        y = middle[1] + u * math.sin(angle) + v * math.cos(angle)
        assert np.abs(got - at(x, y)).max() < (3 if side / size < 4 else 12)  # a mean is not the middle value
        assert np.abs(got - at(x, y)).mean() < (0.6 if side / size < 4 else 4)

    def test_beyond_the_border_is_mirrored_and_blurred(self):
        picture, _ = wavy(60, 80)
        got = levels(crop(picture, box(-30, -30, 120), 120))
        pixels = to_array(picture).astype(float)
        assert np.abs(got[30:90, 30:110] - pixels).max() < 1e-3
        mirrored = np.pad(pixels, ((30, 30), (30, 10), (0, 0)), mode="symmetric")
        assert np.abs(got[25:30, 30:110] - mirrored[25:30, 30:110]).max() < 12
        assert np.abs(got - mirrored).mean() < 4
        fine = noise(60, 80)
        far = levels(crop(fine, box(-60, -60, 120), 120))
        assert far[:40, :40].std() < 0.5 * far[62:, 62:].std()

    def test_a_square_many_times_the_picture(self):
        got = levels(crop(Image.new("RGB", (3, 2), (255, 0, 51)), Quad.around((1, 1), 50, 0.3), 16))
        assert np.abs(got - [255, 0, 51]).max() < 1e-3
        got = crop(Image.new("RGB", (1, 1), (255, 0, 51)), box(0, 0, 1), 4)
        assert np.abs(levels(got) - [255, 0, 51]).max() < 1e-3

    def test_refusals(self):
        picture = noise(20, 30)
        for quad in (box(31, 0, 10), box(0, -11, 10), box(-500, 0, 100)):
            with pytest.raises(AlignError, match=r"beside the picture of 30 x 20 pixels.*landmarks"):
                crop(picture, quad, 8)
        with pytest.raises(AlignError, match="side 100000 for a picture of 30 x 20"):
            crop(picture, box(0, 0, 100_000), 8)
        with pytest.raises(ImageError, match="0 pixels"):
            crop(picture, box(0, 0, 10), 0)
        with pytest.raises(ImageError, match="mode 'L'"):
            crop(picture.convert("L"), box(0, 0, 10), 8)


class TestPaste:
    def test_pixels_on_pixels(self):
        photo, new = Photo(noise(50, 60)), noise(32, 32, seed=1)
        got = to_array(paste(photo, to_tensor(new), box(10, 5, 32), feather=0).colours)
        want = to_array(photo.colours).copy()
        want[5:37, 10:42] = to_array(new)
        assert (got == want).all()

    @pytest.mark.parametrize("size", [7, 32, 100, 333])
    @pytest.mark.parametrize("before", [False, True])
    def test_outside_nothing_changes(self, size, before):
        photo, quad = Photo(noise(90, 80)), Quad.around((45, 50), 40, 0.5)
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        old = to_array(photo.colours).copy()
        made = to_array(paste(photo, image, quad, before=-image if before else None).colours)
        y, x = np.mgrid[:90, :80] + 0.5
        u = ((x - 45) * math.cos(0.5) + (y - 50) * math.sin(0.5)) / 40
        v = ((y - 50) * math.cos(0.5) - (x - 45) * math.sin(0.5)) / 40
        beyond = (np.abs(u) > 0.5) | (np.abs(v) > 0.5)
        assert (made[beyond] == old[beyond]).all()
        assert (made[(np.abs(u) < 0.4) & (np.abs(v) < 0.4)] != old[(np.abs(u) < 0.4) & (np.abs(v) < 0.4)]).mean() > 0.8
        assert (to_array(photo.colours) == old).all()  # the photo given stays as it was

    @pytest.mark.parametrize("size", [20, 64, 90, 400])
    def test_inside_is_what_was_pasted(self, size):
        """A turned square of a smooth picture, at any resolution, pasted onto black, is where it was."""
        picture, at = wavy(200, 220)
        quad = Quad.around((111, 97), 90, -0.6)
        ground = Photo(Image.new("RGB", picture.size))
        made = to_array(paste(ground, crop(picture, quad, size), quad, feather=0).colours).astype(float)
        y, x = np.mgrid[:200, :220] + 0.5
        u = ((x - 111) * math.cos(0.6) - (y - 97) * math.sin(0.6)) / 90
        v = ((y - 97) * math.cos(0.6) + (x - 111) * math.sin(0.6)) / 90
        deep = (np.abs(u) < 0.45) & (np.abs(v) < 0.45)
        gap = np.abs(made - at(x, y))[deep]
        assert gap.mean() < (2.2 if size == 20 else 0.8)
        assert gap.max() < (12 if size == 20 else 4)

    def test_fades_in(self):
        ground, white = Photo(Image.new("RGB", (100, 100))), torch.ones(1, 3, 16, 16)
        row = to_array(paste(ground, white, box(20, 20, 60), feather=0.25).colours)[50, :, 0].astype(int)
        assert (row[:20] == 0).all()
        assert (row[35:65] == 255).all()
        assert (np.diff(row[20:36]) >= 0).all()
        t = (np.arange(15) + 0.5) / 15  # 0.25 of 60 pixels
        assert np.abs(row[20:35] - 255 * t * t * (3 - 2 * t)).max() <= 1

    def test_no_fading_at_the_border_of_the_picture(self):
        ground, white = Photo(Image.new("RGB", (40, 60))), torch.ones(1, 3, 8, 8)
        whole = to_array(paste(ground, white, box(0, 10, 40)).colours)[:, :, 0]
        assert (whole[12:48] > 0).all()
        assert (whole[20:40] == 255).all()  # to the left and right border
        assert whole[10, 20] < 30
        square = Photo(Image.new("RGB", (40, 40)))
        assert to_array(paste(square, white, box(0, 0, 40)).colours).min() == 255
        assert to_array(paste(square, white, Quad.around((20, 20), 90, 0.3)).colours).min() == 255

    def test_every_side_has_its_own_fading(self):
        ground, white = Photo(Image.new("RGB", (60, 60))), torch.ones(1, 3, 8, 8)
        for turn in range(4):  # over another corner of the picture each time
            shift = [(-10, -10), (30, -10), (30, 30), (-10, 30)][turn]
            made = to_array(paste(ground, white, box(*shift, 40), feather=0.2).colours)[:, :, 0]
            upright = np.rot90(made, turn)  # so that the square is at the top left again
            assert (upright[:22, :22] == 255).all()
            assert (upright[29, :22] < 20).all()
            assert (upright[:22, 29] < 20).all()
            assert (upright[30:] == 0).all()

    @pytest.mark.parametrize("size", [1, 5, 40, 200, 1000])
    def test_up_to_the_border(self, size):
        ground, white = Photo(Image.new("RGB", (60, 60))), torch.ones(1, 3, size, size)
        made = to_array(paste(ground, white, Quad.around((30, 30), 40, 0.5), feather=0).colours)
        assert set(np.unique(made).tolist()) == {0, 255}
        assert abs(int((made[:, :, 0] == 255).sum()) - 1600) < 20

    def test_in_bands(self, monkeypatch):
        picture, quad = noise(90, 80), Quad.around((45, 50), 60, 0.5)
        cut = [crop(picture, quad, size) for size in (13, 60, 100)]
        back = to_array(paste(Photo(picture), cut[2], quad).colours)
        monkeypatch.setattr("stylograph.align.warp.AT_ONCE", 2000)
        for size, whole in zip((13, 60, 100), cut):
            assert float((crop(picture, quad, size) - whole).abs().max()) < 1e-4
        assert np.abs(to_array(paste(Photo(picture), cut[2], quad).colours).astype(int) - back).max() <= 1

    def test_an_edit_without_a_change_changes_nothing(self):
        photo, quad = Photo(noise(90, 80)), Quad.around((40, 44), 61.3, 0.2)
        image = crop(photo.picture, quad, 16)
        made = paste(photo, image, quad, before=image)
        assert (to_array(made.colours) == to_array(photo.colours)).all()
        assert (to_array(paste(photo, image, quad).colours) != to_array(photo.colours)).any()

    def test_only_the_change_is_added(self):
        photo, quad = Photo(Image.fromarray(to_array(noise(64, 64)) // 4 + 60)), box(0, 0, 64)
        before = torch.zeros(1, 3, 8, 8)
        after = before.clone()
        after[:, 0] += 20 / 127.5
        made = to_array(paste(photo, after, quad, before=before).colours).astype(int) - to_array(photo.colours)
        assert (made[:, :, 0] == 20).all()
        assert (made[:, :, 1:] == 0).all()

    def test_round_trip(self):
        picture, _ = wavy(240, 260)
        quad = Quad.around((130, 120), 150, 0.25)
        errors = {}
        for size in (64, 150, 256):
            made = to_array(paste(Photo(picture), crop(picture, quad, size), quad).colours).astype(int)
            errors[size] = np.abs(made - to_array(picture)).max()
        assert errors[64] <= 8
        assert errors[150] <= 3
        assert errors[256] <= 3

    def test_transparency_and_profile_stay(self):
        rgba = np.asarray(noise(40, 40, channels=4)).copy()
        rgba[:, :, 3] = np.linspace(0, 255, 40).astype(np.uint8)[:, None]
        photo = Photo.of(Image.fromarray(rgba, "RGBA"))
        photo = Photo(photo.colours, photo.alpha, b"profile")
        wanted = torch.zeros(1, 3, 40, 40)  # grey, as seen on white
        made = paste(photo, wanted, box(0, 0, 40))
        assert made.profile == b"profile"
        assert np.asarray(made.alpha).tolist() == np.asarray(photo.alpha).tolist()
        seen, alpha = to_array(made.picture).astype(int), rgba[:, :, 3]
        assert np.abs(seen[alpha >= 128] - 128).max() <= 2
        assert (seen[alpha == 0] == 255).all()  # what is not there cannot be grey
        assert (to_array(made.colours)[alpha == 0] == rgba[:, :, :3][alpha == 0]).all()
        part = to_array(paste(photo, wanted, box(10, 10, 20)).colours)
        outside = np.ones((40, 40), bool)
        outside[10:30, 10:30] = False
        assert (part[outside] == rgba[:, :, :3][outside]).all()

    def test_half_precision_and_values_beyond(self):
        image = torch.full((1, 3, 4, 4), 3.0, dtype=torch.float16)
        made = paste(Photo(Image.new("RGB", (8, 8))), image, box(0, 0, 8))
        assert to_array(made.colours).min() == 255

    def test_refusals(self):
        photo, quad, image = Photo(noise(20, 30)), box(2, 2, 10), torch.zeros(1, 3, 8, 8)
        for wrong in (torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 9), torch.zeros(1, 3, 0, 0)):
            with pytest.raises(ImageError, match=r"expected \[1, 3, S, S\]"):
                paste(photo, wrong, quad)
        with pytest.raises(ImageError, match="NaN or infinite"):
            paste(photo, image * math.nan, quad)
        with pytest.raises(ImageError, match="same after an edit"):
            paste(photo, image, quad, before=torch.zeros(1, 3, 4, 4))
        with pytest.raises(ImageError, match="NaN or infinite"):
            paste(photo, image, quad, before=image / 0)
        with pytest.raises(ImageError, match=r"feather 0\.7"):
            paste(photo, image, quad, feather=0.7)
        with pytest.raises(AlignError, match="beside the picture"):
            paste(photo, image, box(40, 0, 10))
