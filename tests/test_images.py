"""Reading picture files: every mode becomes the right RGB, and what is no picture is refused in words."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from stylograph.errors import ImageError
from stylograph.images import (
    MAX_PIXELS,
    Photo,
    open_photo,
    open_picture,
    read_image,
    read_images,
    to_array,
    to_tensor,
)

SIDE = 8


def values(rgb):
    """uint8 [H, W, 3] -> [1, 3, H, W] in [-1, 1], by hand."""
    return torch.tensor(np.asarray(rgb, np.float64) / 127.5 - 1).permute(2, 0, 1)[None].float()


def noise_picture(height=SIDE, width=SIDE, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def close(got, want):
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    assert float((got - want).abs().max()) < 1e-6


def png_header(width, height):
    """The beginning of a PNG that claims this size, and its end; no pixels between."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


class TestModes:
    @pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
    def test_rgb_to_the_last_value(self, tmp_path, ending):
        rgb = noise_picture()
        Image.fromarray(rgb).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
        close(read_image(tmp_path / f"a.{ending}", SIDE), values(rgb))

    def test_jpeg(self, tmp_path):
        Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "a.jpg", quality=100)
        got = read_image(str(tmp_path / "a.jpg"), SIDE)
        want = values(np.full((SIDE, SIDE, 3), (200, 100, 50)))
        assert float((got - want).abs().max()) < 3 / 127.5

    def test_grey_and_black_and_white(self, tmp_path):
        grey = noise_picture()[:, :, 0]
        Image.fromarray(grey).save(tmp_path / "l.png")
        close(read_image(tmp_path / "l.png", SIDE), values(np.stack([grey] * 3, -1)))
        bits = grey > 128
        Image.fromarray(bits).save(tmp_path / "1.png")
        close(read_image(tmp_path / "1.png", SIDE), values(np.stack([bits * 255] * 3, -1)))

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_sixteen_bit_grey_is_scaled(self, tmp_path, ending):
        grey = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
        Image.fromarray(grey).save(tmp_path / f"a.{ending}")
        rounded = np.round(grey / 65535.0 * 255)
        close(read_image(tmp_path / f"a.{ending}", SIDE), values(np.stack([rounded] * 3, -1)))

    @pytest.mark.parametrize(
        "brightest",
        [255, 256],
    )
    def test_dark_sixteen_bit_grey_stays_dark(self, tmp_path, brightest):
        Image.fromarray(np.full((SIDE, SIDE), brightest, np.uint16)).save(tmp_path / "a.png")
        close(read_image(tmp_path / "a.png", SIDE), values(np.full((SIDE, SIDE, 3), 1)))

    def test_transparency_is_laid_on_white(self, tmp_path):
        rgb, alpha = noise_picture(), noise_picture(seed=1)[:, :, :1]
        alpha[0, 0], alpha[0, 1] = 0, 255
        Image.fromarray(np.concatenate([rgb, alpha], -1)).save(tmp_path / "a.png")
        part = alpha / 255.0
        got = read_image(tmp_path / "a.png", SIDE)
        want = values(part * rgb + (1 - part) * 255)
        assert float((got - want).abs().max()) <= 1 / 127.5 + 1e-6  # Pillow rounds to whole numbers
        assert got[0, :, 0, 0].tolist() == [1, 1, 1]
        close(got[..., :1, 1:2], values(rgb[:1, 1:2]))

    def test_grey_with_alpha(self, tmp_path):
        both = np.zeros((SIDE, SIDE, 2), np.uint8)
        both[:, : SIDE // 2, 1] = 255
        Image.fromarray(both, "LA").save(tmp_path / "a.png")
        got = read_image(tmp_path / "a.png", SIDE)
        assert bool((got[..., : SIDE // 2] == -1).all())
        assert bool((got[..., SIDE // 2 :] == 1).all())

    def test_palette_and_its_transparent_colour(self, tmp_path):
        picture = Image.new("P", (SIDE, SIDE), 0)
        picture.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
        picture.paste(1, (0, 0, 4, 8))
        picture.save(tmp_path / "a.png")
        want = np.full((SIDE, SIDE, 3), (10, 20, 30))
        want[:, :4] = (200, 100, 0)
        close(read_image(tmp_path / "a.png", SIDE), values(want))
        picture.save(tmp_path / "b.png", transparency=0)
        want[:, 4:] = 255
        close(read_image(tmp_path / "b.png", SIDE), values(want))

    def test_cmyk(self, tmp_path):
        # No ink is white, full cyan has no red, black ink darkens everything.
        for ink, want in {
            (0, 0, 0, 0): (255, 255, 255),
            (255, 0, 0, 0): (0, 255, 255),
            (0, 255, 255, 0): (255, 0, 0),
            (0, 0, 0, 255): (0, 0, 0),
        }.items():
            Image.new("CMYK", (SIDE, SIDE), ink).save(tmp_path / "a.tif")
            close(read_image(tmp_path / "a.tif", SIDE), values(np.full((SIDE, SIDE, 3), want)))

    def test_of_an_animation_the_first_frame(self, tmp_path):
        frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue", "lime")]
        for ending in ("gif", "png", "webp"):
            lossless = {"lossless": True} if ending == "webp" else {}
            frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=50, **lossless)
            close(read_image(tmp_path / f"a.{ending}", SIDE), values(np.full((SIDE, SIDE, 3), (255, 0, 0))))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, tmp_path, orientation):
        rgb = noise_picture()
        # How the stored picture lies, given the upright one: EXIF's eight ways.
        stored = {
            1: rgb,
            2: rgb[:, ::-1],
            3: rgb[::-1, ::-1],
            4: rgb[::-1],
            5: rgb.transpose(1, 0, 2),
            6: np.rot90(rgb, 1),
            7: rgb[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(rgb, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
        close(read_image(tmp_path / "a.png", SIDE), values(rgb))


class TestSize:
    def test_the_middle_square(self, tmp_path):
        rgb = noise_picture(SIDE, SIDE + 6)
        Image.fromarray(rgb).save(tmp_path / "wide.png")
        close(read_image(tmp_path / "wide.png", SIDE), values(rgb[:, 3 : 3 + SIDE]))
        rgb = noise_picture(SIDE + 4, SIDE)
        Image.fromarray(rgb).save(tmp_path / "high.png")
        close(read_image(tmp_path / "high.png", SIDE), values(rgb[2 : 2 + SIDE]))

    def test_is_resampled_as_pillow_does_it(self, tmp_path):
        rgb = np.asarray(Image.fromarray(noise_picture(5, 5)).resize((40, 40), Image.Resampling.BICUBIC))
        Image.fromarray(rgb).save(tmp_path / "a.png")
        for size in (16, 64):
            want = values(np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC)))
            got = read_image(tmp_path / "a.png", size)
            assert got.shape == (1, 3, size, size)
            assert float((got - want).abs().max()) < 2 / 127.5  # Pillow rounds between its two passes
            assert float(got.abs().max()) <= 1

    def test_one_pixel(self, tmp_path):
        Image.new("RGB", (1, 1), (255, 0, 51)).save(tmp_path / "a.png")
        close(read_image(tmp_path / "a.png", SIDE), values(np.full((SIDE, SIDE, 3), (255, 0, 51))))


class TestRefusals:
    def test_no_picture(self, tmp_path):
        (tmp_path / "text.png").write_text("not a picture")
        (tmp_path / "empty.png").write_bytes(b"")
        for path, said in {
            tmp_path / "text.png": "no readable picture",
            tmp_path / "empty.png": "no readable picture",
            tmp_path / "gone.png": "where no file is",
            tmp_path: "a folder",
        }.items():
            with pytest.raises(ImageError, match=rf"(?s)^{path}.*{said}.*expected a readable picture"):
                read_image(path, SIDE)

    @pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
    @pytest.mark.parametrize("kept", [0.1, 0.6])
    def test_truncated(self, tmp_path, ending, kept):
        Image.fromarray(noise_picture(64, 64)).save(tmp_path / f"a.{ending}")
        whole = (tmp_path / f"a.{ending}").read_bytes()
        (tmp_path / f"a.{ending}").write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(ImageError, match=r"no readable picture"):
            read_image(tmp_path / f"a.{ending}", SIDE)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("side", [10_001, 60_000])
    def test_a_huge_claim_is_not_believed(self, tmp_path, side):
        assert side * side > MAX_PIXELS
        (tmp_path / "bomb.png").write_bytes(png_header(side, side))
        assert (tmp_path / "bomb.png").stat().st_size < 100
        with pytest.raises(ImageError, match=r"pixels"):
            read_image(tmp_path / "bomb.png", SIDE)

    @pytest.mark.parametrize(("ending", "byte", "value"), [("dds", 80, 0), ("avif", 96, 0)])
    def test_whatever_a_reader_objects_to(self, tmp_path, ending, byte, value):
        if f".{ending}" not in Image.registered_extensions():
            pytest.skip("this Pillow cannot write the format")
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"a.{ending}")
        content = bytearray((tmp_path / f"a.{ending}").read_bytes())
        content[byte] = value
        (tmp_path / f"a.{ending}").write_bytes(content)
        with pytest.raises(ImageError):
            read_image(tmp_path / f"a.{ending}", SIDE)

    def test_claims_more_than_it_has(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png_header(50, 50))
        with pytest.raises(ImageError, match="no readable picture"):
            read_image(tmp_path / "a.png", SIDE)

    def test_a_name_too_long(self, tmp_path):
        with pytest.raises(
            ImageError, match=r"cannot be looked at \(File name too long\); expected a readable picture"
        ):
            read_image(tmp_path / f"{'a' * 300}.png", SIDE)

    def test_only_regular_files_are_opened(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        for path in (tmp_path / "pipe.png", "/dev/zero"):
            with pytest.raises(ImageError, match="got what is no regular file"):  # and it does not wait for a writer
                open_picture(path)

    def test_nothing_is_handed_to_another_program(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="EPS")
        with pytest.raises(ImageError, match="got an EPS file"):
            open_picture(tmp_path / "a.png")

    def test_no_pixels(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png_header(0, 5))
        with pytest.raises(ImageError, match=r"a\.png: got no readable picture"):
            open_picture(tmp_path / "a.png")
        with pytest.raises(ImageError, match="got a picture of 0 x 3 pixels"):
            Photo.of(Image.new("RGB", (0, 3)))


class TestFullSize:
    def test_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
        assert open_picture("~/a.png").size == (3, 2)
        with pytest.raises(ImageError, match="where no file is"):
            open_picture("~nobody-of-that-name/a.png")

    def test_upright_and_whole(self, tmp_path):
        rgb = noise_picture(5, 9)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.ascontiguousarray(np.rot90(rgb))).save(tmp_path / "a.png", exif=exif)
        picture = open_picture(tmp_path / "a.png")
        assert (to_array(picture) == rgb).all()
        close(to_tensor(picture), values(rgb))
        photo = open_photo(tmp_path / "a.png")
        assert photo.alpha is None
        assert photo.merged().mode == "RGB"
        assert photo.merged().getexif().get(0x0112, 1) == 1  # or viewers would turn it again

    def test_transparency_is_kept_beside_what_is_seen(self, tmp_path):
        rgba = np.concatenate([noise_picture(), noise_picture(seed=1)[:, :, :1]], -1)
        rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
        Image.fromarray(rgba).save(tmp_path / "a.png")
        photo = open_photo(tmp_path / "a.png")
        assert (np.asarray(photo.alpha) == rgba[:, :, 3]).all()
        assert (np.asarray(photo.merged()) == rgba).all()
        assert photo.merged(transparent=False).mode == "RGB"
        assert photo.picture.getpixel((0, 0)) == (255, 255, 255)
        assert photo.colours.getpixel((0, 0)) == tuple(rgba[0, 0, :3])
        rgba[:, :, 3] = 255
        assert Photo.of(Image.fromarray(rgba)).alpha is None

    def test_profile_of_an_rgb_picture(self, tmp_path):
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        for ending in ("png", "jpg", "webp", "tif"):
            Image.new("RGB", (8, 8)).save(tmp_path / f"a.{ending}", icc_profile=profile)
            photo = open_photo(tmp_path / f"a.{ending}")
            assert photo.profile == profile
            stream = io.BytesIO()
            photo.merged().save(stream, "PNG")
            assert Photo.of(Image.open(stream)).profile == profile
        grey = profile[:16] + b"GRAY" + profile[20:]
        Image.new("L", (8, 8)).save(tmp_path / "a.png", icc_profile=grey)
        photo = open_photo(tmp_path / "a.png")
        assert photo.profile is None
        assert "icc_profile" not in photo.merged().info

    def test_values_that_are_no_numbers(self, tmp_path):
        values = np.array([[0.5, np.nan], [np.inf, -np.inf]], np.float32)
        Image.fromarray(values).save(tmp_path / "a.tif")
        assert to_array(open_picture(tmp_path / "a.tif"))[:, :, 0].tolist() == [[128, 0], [128, 0]]
        Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "a.tif")
        assert to_array(open_picture(tmp_path / "a.tif")).max() == 0

    def test_another_mode_has_no_tensor(self):
        with pytest.raises(ImageError, match=r"mode 'L'; expected 'RGB'; use Photo"):
            to_tensor(Image.new("L", (2, 2)))


class TestSeveral:
    def test_folders_by_name_and_files_in_the_order_given(self, tmp_path):
        folder = tmp_path / "pictures"
        (folder / "deeper").mkdir(parents=True)
        for name, level in {"b.png": 20, "a.PNG": 10, "c.bmp": 30, "deeper/d.png": 40}.items():
            Image.new("L", (4, 4), level).save(folder / name)
        Image.new("L", (4, 4), 50).save(tmp_path / "single.png")
        (folder / "notes.txt").write_text("no picture, and none of our business")
        got = read_images([tmp_path / "single.png", str(folder)], 4)
        assert got.shape == (4, 3, 4, 4)
        assert ((got[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [50, 10, 20, 30]

    def test_nothing(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(ImageError, match=r"folder without pictures; expected files ending in \.png"):
            read_images([tmp_path], 4)
        with pytest.raises(ImageError, match="got no pictures"):
            read_images([], 4)

    def test_one_bad_picture_in_a_folder_is_named(self, tmp_path):
        Image.new("L", (4, 4), 10).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_bytes(b"GIF89a")
        with pytest.raises(ImageError, match=r"b\.png: got no readable picture"):
            read_images([tmp_path], 4)
