"""Pictures as tensors: reading files safely, and resampling as matrix products, exact and differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.errors import ImageError

RESAMPLERS = ("box", "bicubic")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded: a file of a few kilobytes can claim to be of any size."""


@lru_cache(maxsize=32)
def box_matrix(size_in: int, size_out: int) -> Tensor:
    """A [size_out, size_in] whose row i averages the input interval [i, i+1)·size_in/size_out.

    Edge pixels count by the fraction they are covered, so A·X·Aᵀ is the exact area average; it equals StyleCLIP's
    nearest up-sampling by 7 followed by average pooling by size/32.
    """
    ratio = size_in / size_out
    low = torch.arange(size_out, dtype=torch.float64)[:, None] * ratio
    pixel = torch.arange(size_in, dtype=torch.float64)[None, :]
    overlap = torch.minimum(low + ratio, pixel + 1) - torch.maximum(low, pixel)
    return (overlap.clamp_min(0) / ratio).float()


def resize(images: Tensor, size: int, *, method: str = "box") -> Tensor:
    """[N, C, H, W] -> [N, C, size, size]; a non-square picture loses its longer side's ends (centre crop).

    method: "box" (exact area average) or "bicubic" (antialiased, as PIL and torchvision do it).
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images
    if method == "bicubic":
        return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    matrix = box_matrix(side, size).to(images)
    return matrix @ images @ matrix.T


def read_image(path: str | Path, size: int) -> Tensor:
    """A picture file -> [1, 3, size, size] in [-1, 1], the middle square of it.

    EXIF orientation is applied, transparency laid on white, of an animation the first frame taken; any mode Pillow
    knows (grey, palette, CMYK, 16 bit) becomes RGB. Raises `ImageError` for what is no picture, damaged, or larger than
    100 megapixels.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    wanted = "expected a readable picture such as .png or .jpg"
    if not Path(path).is_file():
        raise ImageError(f"{path}: got a path where no file is; {wanted}")
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: got {width} x {height} pixels; expected at most {MAX_PIXELS}; reduce it first"
                )
            picture = ImageOps.exif_transpose(opened)
            if picture.mode[0] in "IF":  # more than 8 bit: Pillow's own conversion would cut, not scale
                values = np.asarray(picture, np.float64)
                deep = picture.mode.startswith("I;16") or values.max() > 255
                values /= 65535 if deep else 1 if picture.mode == "F" and values.max() <= 1 else 255
                picture = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
            picture = picture.convert("RGBA")
            ground = Image.new("RGBA", picture.size, "white")
            pixels = np.asarray(Image.alpha_composite(ground, picture).convert("RGB"))
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        SyntaxError,
        ValueError,
        OSError,
        RuntimeError,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{path}: got no readable picture ({first}); {wanted}") from None
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return resize(image, size, method="bicubic").clamp(-1, 1)


def read_images(paths: Sequence[str | Path], size: int) -> Tensor:
    """Picture files, or folders of them, -> [M, 3, size, size] in [-1, 1].

    A folder means the pictures directly in it, by name. Raises `ImageError` for a folder without any, and for the
    first file that cannot be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                p for p in path.iterdir() if p.suffix.lower() in ENDINGS and p.is_file() and p.name[0] != "."
            )
            if not inside:
                raise ImageError(
                    f"{path}: got a folder without pictures; expected files ending in {', '.join(ENDINGS)}"
                )
            files += inside
        else:
            files.append(path)
    if not files:
        raise ImageError("got no pictures; expected one file or folder at least")
    return torch.cat([read_image(path, size) for path in files])
