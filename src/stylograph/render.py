"""Pictures and animations out of image tensors: quantised, arranged, captioned, written with their recipe inside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stylograph.errors import ImageError, OutputError
from stylograph.files import KEY, replacing

if TYPE_CHECKING:
    from PIL.Image import Image

    from stylograph.images import Photo

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
ANIMATIONS = (".gif", ".webp", ".mp4")
EXIF_DESCRIPTION = 0x010E
GAP = 4
SMALLEST_TILE = 128


def to_uint8(images: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]: clamp(127.5·x + 128, 0, 255), the reference's rounding."""
    return (images.detach().float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def sheet(rows: Sequence[Tensor], *, captions: Sequence[str] = (), headings: Sequence[str] = ()) -> Image:
    """Rows of images [N, 3, H, W] under one another, each under its caption if there are captions.

    headings: one short text per column, above everything.

    All rows have images of one size; tiles under 128 pixels are enlarged by a whole factor so that they can be seen.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiles = [to_uint8(row).numpy() for row in rows]
    if not tiles or len({tile.shape[1:] for tile in tiles}) != 1:
        raise ImageError(f"got rows of shapes {[tuple(t.shape) for t in tiles]}; expected images of one size")
    height, width = tiles[0].shape[1:3]
    factor = max(1, SMALLEST_TILE // min(height, width))
    height, width = height * factor, width * factor
    points = max(12, min(28, height // 10))
    font = ImageFont.load_default(size=points)
    line = round(points * 1.8)
    bar, head = line if captions else 0, line if headings else 0
    columns = max(len(tile) for tile in tiles)
    size = (columns * (width + GAP) + GAP, head + len(tiles) * (height + bar + GAP) + GAP)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for c, heading in enumerate(headings):
        center = GAP + c * (width + GAP) + width // 2
        draw.text((center, GAP + head // 2), heading, fill="#202124", font=font, anchor="mm")
    for r, tile in enumerate(tiles):
        top = head + GAP + r * (height + bar + GAP)
        if captions:
            text = fit(captions[r], size[0] - 2 * GAP, lambda t: draw.textlength(t, font=font))
            draw.text((GAP, top + bar // 2), text, fill="#202124", font=font, anchor="lm")
        for c, pixels in enumerate(tile):
            image = Image.fromarray(pixels)
            if factor > 1:
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            picture.paste(image, (GAP + c * (width + GAP), top + bar))
    return picture


def fit(text: str, width: float, measure: Any) -> str:
    """The text, shortened with an ellipsis until `measure(text)` is within `width`."""
    if measure(text) <= width:
        return text
    while text and measure(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def check_output(path: Path, formats: Sequence[str] = FORMATS) -> Path:
    """Complains before the work starts, not after it: the path can be written and has one of the endings `formats`."""
    if path.suffix.lower() not in formats:
        raise OutputError(f"{path}: got ending {path.suffix!r}; expected one of {', '.join(formats)}")
    try:
        if path.is_dir():
            raise OutputError(f"{path}: got a folder; expected a file name")
    except OSError as error:  # a name longer than names can be
        raise OutputError(f"{path}: could not be written ({error.strerror}); expected another name") from None
    folder = path.parent if str(path.parent) else Path(".")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: the folder {folder} cannot be written to")
    if path.suffix.lower() == ".mp4":
        _video_writer()
    return path


def save_picture(picture: Image, path: Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes PNG, JPEG or WebP by the file's ending, atomically, with `metadata` as JSON in it.

    PNG keeps it as text under "stylograph", JPEG and WebP as the EXIF image description.
    """
    check_output(path)
    suffix = path.suffix.lower()
    options: dict[str, Any] = {} if suffix == ".png" else {"quality": 95}
    if metadata is not None:
        options |= _carrying(_packed(metadata), suffix)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(suffix, suffix[1:].upper())
    with replacing(path) as temporary:
        picture.save(temporary, format=kind, **options)
    return path


def save_photo(photo: Photo, path: Path) -> Path:
    """Writes a photo at full size as PNG, JPEG or WebP, atomically, with its transparency and colour profile.

    A JPEG holds no transparency: there the photo lies on white.
    """
    check_output(path)
    picture = photo.merged(transparent=path.suffix.lower() not in (".jpg", ".jpeg"))
    options: dict[str, Any] = {} if path.suffix.lower() == ".png" else {"quality": 95}
    with replacing(path) as temporary:
        try:
            picture.save(temporary, icc_profile=picture.info.get("icc_profile"), **options)
        except ValueError as error:  # WebP ends at 16383 pixels
            raise OSError(f"{error}; PNG takes {picture.width} x {picture.height} pixels") from error
    return path


def save_animation(
    frames: Sequence[Image], path: Path, *, fps: int = 12, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes equally large frames as a looping GIF or WebP, or as MP4 (extra `video`), atomically, with `metadata`."""
    check_output(path, ANIMATIONS)
    if not frames:
        raise ImageError("got no frames; expected at least one")
    text = None if metadata is None else _packed(metadata)
    if path.suffix.lower() == ".mp4":
        import numpy as np

        # Even sides: the usual pixel format halves the colours' resolution.
        width, height = (side // 2 * 2 for side in frames[0].size)
        comment = ["-metadata", f"comment={text}"] if text else []
        with replacing(path) as temporary:
            writer = _video_writer().get_writer(
                temporary, fps=fps, quality=8, macro_block_size=2, output_params=comment, ffmpeg_log_level="quiet"
            )
            with writer:
                for frame in frames:
                    writer.append_data(np.asarray(frame.crop((0, 0, width, height))))
            _check_video(temporary, len(frames))
        return path
    suffix = path.suffix.lower()
    options: dict[str, Any] = {"quality": 90} if suffix == ".webp" else {}
    if text is not None:
        options |= _carrying(text, suffix)
    first, *rest = frames
    with replacing(path) as temporary:
        first.save(
            temporary,
            format=suffix[1:].upper(),
            save_all=True,
            append_images=rest,
            duration=1000 // fps,
            loop=0,
            **options,
        )
    return path


def _check_video(path: Path, frames: int) -> None:
    """Raises `OSError` unless all frames are there: the encoder does not tell when the disk was full."""
    try:
        with _video_writer().get_reader(path) as reader:
            whole = reader.count_frames() == frames
    except (OSError, RuntimeError, ValueError, IndexError):
        whole = False
    if not whole:
        raise OSError("the video came out incomplete; is the disk full?")


def read_metadata(path: Path) -> dict[str, Any]:
    """What `save_picture` or `save_animation` put into a PNG, JPEG, WebP or GIF. Raises `ImageError` if nothing is there."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            comment = picture.info.get("comment", b"")
            packed = picture.info.get(KEY) or picture.getexif().get(EXIF_DESCRIPTION) or comment
        found = json.loads(packed)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: got no readable picture ({error}); expected one written by stylograph") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ImageError(
            f"{path}: got a picture without a job in it; expected a PNG, JPEG, WebP or GIF of stylograph's"
        )
    return found


def _packed(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True)


def _carrying(text: str, suffix: str) -> dict[str, Any]:
    """The option of Pillow's writer that stores a text."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if suffix == ".png":
        info = PngInfo()
        info.add_text(KEY, text)
        return {"pnginfo": info}
    if suffix == ".gif":
        return {"comment": text.encode()}
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = text
    return {"exif": exif}


def _video_writer() -> Any:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  (what writes MP4)
    except ImportError:
        raise OutputError(
            "writing .mp4 needs the extra `video`: pip install 'stylograph[video]'; or write .gif"
        ) from None
    return imageio
