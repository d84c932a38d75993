"""Pictures out of image tensors: quantised, arranged, captioned, written with their recipe inside."""

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

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
GAP = 4
SMALLEST_TILE = 128


def to_uint8(images: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]: clamp(127.5·x + 128, 0, 255), the reference's rounding."""
    return (images.detach().float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def sheet(rows: Sequence[Tensor], *, captions: Sequence[str] = ()) -> Image:
    """Rows of images [N, 3, H, W] under one another, each under its caption if there are captions.

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
    bar = round(points * 1.8) if captions else 0
    columns = max(len(tile) for tile in tiles)
    size = (columns * (width + GAP) + GAP, len(tiles) * (height + bar + GAP) + GAP)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for r, tile in enumerate(tiles):
        top = GAP + r * (height + bar + GAP)
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


def check_output(path: Path) -> Path:
    """Complains before the work starts, not after it: the path can be written and its ending is a picture's."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: got ending {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise OutputError(f"{path}: got a folder; expected a file name")
    folder = path.parent if str(path.parent) else Path(".")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: the folder {folder} cannot be written to")
    return path


def save_picture(picture: Image, path: Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes PNG, JPEG or WebP by the file's ending, atomically; PNG carries `metadata` as JSON under "stylograph"."""
    from PIL.PngImagePlugin import PngInfo

    check_output(path)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() != ".png" else {}
    if metadata is not None and path.suffix.lower() == ".png":
        info = PngInfo()
        info.add_itxt(KEY, json.dumps(metadata, sort_keys=True, ensure_ascii=False))
        options["pnginfo"] = info
    kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), path.suffix[1:].upper())
    with replacing(path) as temporary:
        picture.save(temporary, format=kind, **options)
    return path
