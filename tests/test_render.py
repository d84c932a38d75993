"""Pictures: quantisation, layout, and files that are written whole or not at all."""

import json

import pytest
import torch
from PIL import Image

from stylograph.errors import ImageError, OutputError
from stylograph.render import (
    GAP,
    _check_video,
    check_output,
    fit,
    read_metadata,
    save_animation,
    save_picture,
    sheet,
    to_uint8,
)


def test_quantisation_is_the_references():
    x = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert to_uint8(x)[0, 0, :, 0].tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_rows_stand_under_one_another():
    red, blue = (torch.full((2, 3, 128, 128), -1.0) for _ in range(2))
    red[:, 0], blue[:, 2] = 1, 1
    picture = sheet([red, blue])
    assert picture.size == (2 * 128 + 3 * GAP, 2 * 128 + 3 * GAP)
    assert picture.getpixel((GAP + 5, GAP + 5)) == (255, 0, 0)
    assert picture.getpixel((GAP + 140, 2 * GAP + 128 + 5)) == (0, 0, 255)


def test_small_tiles_are_enlarged_and_captions_get_room():
    small = sheet([torch.zeros(1, 3, 32, 32)])
    assert small.size == (128 + 2 * GAP, 128 + 2 * GAP)
    assert sheet([torch.zeros(1, 3, 32, 32)], captions=["hello"]).size[1] > small.size[1]


def test_long_captions_are_shortened():
    assert fit("short", 100, len) == "short"
    assert fit("a long caption", 7, len) == "a long…"


def test_rows_of_different_sizes_are_refused():
    with pytest.raises(ImageError, match="one size"):
        sheet([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16)])


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_written_files_open_again(tmp_path, ending):
    path = save_picture(Image.new("RGB", (9, 7), "red"), tmp_path / f"x{ending}", metadata={"seed": 3})
    with Image.open(path) as again:
        assert again.size == (9, 7)
        if ending == ".png":
            assert json.loads(again.text["stylograph"]) == {"seed": 3}
    assert read_metadata(path) == {"seed": 3}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".gif", ".webp", ".mp4"])
def test_animations_hold_their_frames_and_their_job(tmp_path, ending):
    if ending == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    frames = [Image.new("RGB", (33, 17), (80 * i, 40, 0)) for i in range(3)]
    job = {"target": "a person with \u00e9clat", "seed": [1, 2]}
    path = save_animation(frames, tmp_path / f"x{ending}", metadata=job)
    if ending == ".mp4":
        assert json.dumps(job, sort_keys=True).encode() in path.read_bytes()
        assert count_frames(path) == 3
    else:
        with Image.open(path) as again:
            assert (again.n_frames, again.size, again.info["loop"]) == (3, (33, 17), 0)
        assert read_metadata(path) == job
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def count_frames(path):
    import imageio.v2 as imageio

    with imageio.get_reader(path) as reader:
        return reader.count_frames()


def test_half_a_video_is_not_passed_off_as_one(tmp_path):
    """What a full disk leaves of an MP4: the encoder reports nothing."""
    pytest.importorskip("imageio_ffmpeg")
    frames = [Image.new("RGB", (64, 32), (80 * i, 40, 0)) for i in range(3)]
    path = save_animation(frames, tmp_path / "x.mp4")
    _check_video(path, 3)
    with pytest.raises(OSError, match="incomplete"):
        _check_video(path, 4)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match="incomplete"):
        _check_video(path, 3)


def test_pictures_without_a_job(tmp_path):
    Image.new("RGB", (9, 7)).save(tmp_path / "plain.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    for name in ("plain.png", "junk.png", "missing.png"):
        with pytest.raises(ImageError, match="expected"):
            read_metadata(tmp_path / name)


def test_headings_get_room():
    row = torch.zeros(2, 3, 32, 32)
    assert sheet([row], headings=["-1", "1"]).size[1] > sheet([row]).size[1]


def test_bad_places_are_refused_before_any_work(tmp_path):
    for path in (tmp_path / "x.gif.txt", tmp_path / "no" / "x.png", tmp_path / "noending"):
        with pytest.raises(OutputError):
            check_output(path)
    (tmp_path / "d.png").mkdir()
    with pytest.raises(OutputError, match="folder"):
        check_output(tmp_path / "d.png")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    class Full:
        def save(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        save_picture(Full(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
