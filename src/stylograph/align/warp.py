"""Cutting a square out of a picture, and pasting an edited one back: antialiased both ways, exact where it can be.

The coordinates are those of `align.geometry`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stylograph.align.geometry import Quad
from stylograph.errors import AlignError, ImageError
from stylograph.images import MAX_PIXELS, Photo, to_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

AT_ONCE = 1 << 24
"""Samples taken before they are averaged; bounds the memory."""
FADE = 0.1
"""Outside the picture its mirror image blurs over this share of the square's side ..."""
SOFTNESS = 0.02
"""... to a Gaussian of this share of it."""


def crop(picture: Image, quad: Quad, size: int) -> Tensor:
    """The square of an "RGB" picture as [1, 3, size, size] in [-1, 1].

    A larger square is averaged (one of 2·size gives the means of 2x2 pixels), a smaller one enlarged bicubically; one
    of exactly size x size pixels is copied. Beyond its border the picture is mirrored and softly blurred, as FFHQ's
    were. Raises `AlignError` for a square beside the picture or far larger than it.
    """
    if size < 1:
        raise ImageError(f"got {size} pixels as the side of a picture; expected at least 1")
    pixels = to_array(picture)
    height, width = pixels.shape[:2]
    left, top, right, bottom = _bounds(quad, width, height)
    ratio = quad.side / size
    # The filter's reach, in whole blocks of what `_resample` averages first, so that they line up with the square.
    margin = _block(ratio) * 4
    left, top, right, bottom = left - margin, top - margin, right + margin, bottom + margin
    region = _surroundings(pixels, (left, top, right, bottom), quad.side)
    start = quad.corners[0] - torch.tensor([left, top])
    across = quad.across / size
    made = _resample(region, start.tolist(), across.tolist(), size, size)
    return (torch.from_numpy(made).permute(2, 0, 1)[None] / 127.5 - 1).clamp(-1, 1)


def paste(photo: Photo, image: Tensor, quad: Quad, *, before: Tensor | None = None, feather: float = 0.1) -> Photo:
    """The photo with `image` in the place of the square; pixels outside it stay what they are, to the bit.

    image: [1, 3, S, S] in [-1, 1].
    before: what `image` was before it was edited, same shape. Then only the difference of the two is resampled and
        added: where the edit changed nothing the photo keeps all its detail.
    feather: share of the square's side over which the new part fades in from its border; sides that do not cross the
        photo do not fade.
    Transparency stays; under it colours become those that look like the result on white. Raises `AlignError` for a
    square beside the photo, `ImageError` for images of other shapes or with values that are not finite.
    """
    import numpy as np
    from PIL import Image

    if not 0 <= feather <= 0.5:
        raise ImageError(f"got feather {feather}; expected 0 to 0.5 of the square's side")
    change = _checked(image, "image")
    if before is not None:
        if before.shape != image.shape:
            raise ImageError(
                f"got shapes {list(image.shape)} and {list(before.shape)}; expected the same after an edit"
            )
        change = change - _checked(before, "image before the edit")
    pixels = to_array(photo.picture)
    height, width = pixels.shape[:2]
    left, top, right, bottom = _bounds(quad, width, height)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    size = image.shape[-1]
    # A step to the right in the photo is a step along the row (cos, -sin) in the square, size/side as long.
    step = (quad.across / quad.side * torch.tensor([1.0, -1.0])) * (size / quad.side)
    start = _inverse(quad, left, top, size)
    margin = 4 * _block(size / quad.side)
    padded = np.pad(change, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    new = _resample(padded, [s + margin for s in start], step.tolist(), right - left, bottom - top)
    base = pixels[top:bottom, left:right].astype(np.float32)
    mask = _mask(quad, (left, top, right, bottom), (width, height), feather)[:, :, None]
    mixed = base + mask * (new if before is not None else new - base)
    made = mixed.clip(0, 255).round().astype(np.uint8)
    colours = np.array(to_array(photo.colours))
    if photo.alpha is not None:
        cover = np.asarray(photo.alpha)[top:bottom, left:right, None].astype(np.float32) / 255
        bare = ((made - 255 * (1 - cover)) / cover.clip(1 / 255)).clip(0, 255).round().astype(np.uint8)
        touched = (made != pixels[top:bottom, left:right]).any(2, keepdims=True) & (cover > 0)
        made = np.where(touched, bare, colours[top:bottom, left:right])
    colours[top:bottom, left:right] = made
    return Photo(Image.fromarray(colours), photo.alpha, photo.profile)


def _checked(image: Tensor, what: str) -> NDArray[np.float32]:
    """[1, 3, S, S] in [-1, 1] -> [S, S, 3] in 0 to 255."""
    if image.ndim != 4 or image.shape[:2] != (1, 3) or image.shape[2] != image.shape[3] or 0 in image.shape:
        raise ImageError(f"got an {what} of shape {list(image.shape)}; expected [1, 3, S, S] in [-1, 1]")
    values = image.detach().cpu().float()
    if not bool(torch.isfinite(values).all()):
        raise ImageError(f"got an {what} with NaN or infinite values; expected numbers in [-1, 1]")
    return ((values[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).contiguous().numpy()


def _bounds(quad: Quad, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the square in whole pixels, once it is clear that it is a square of this picture."""
    (left, top), (right, bottom) = quad.corners.amin(0).tolist(), quad.corners.amax(0).tolist()
    if left > width - 1e-3 or top > height - 1e-3 or right < 1e-3 or bottom < 1e-3:
        raise AlignError(
            f"got a square from {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}, beside the picture of "
            f"{width} x {height} pixels; expected one in it; check the landmarks"
        )
    if (right - left) * (bottom - top) > 4 * MAX_PIXELS:
        raise AlignError(
            f"got a square of side {quad.side:.0f} for a picture of {width} x {height} pixels; expected one of its "
            "size; check the landmarks"
        )
    rounded = 1e-6  # so that 3.0000000001 is 3
    return (
        math.floor(left + rounded),
        math.floor(top + rounded),
        math.ceil(right - rounded),
        math.ceil(bottom - rounded),
    )


def _surroundings(pixels: NDArray[np.uint8], box: tuple[int, int, int, int], side: float) -> NDArray[np.uint8]:
    """The part of a picture in a box [H, W, 3]; beyond the border mirrored and, the farther the more, blurred."""
    import numpy as np
    from PIL import Image, ImageFilter

    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    columns, rows = np.arange(left, right), np.arange(top, bottom)

    def mirrored(index: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        folded = index % (2 * count)
        return np.minimum(folded, 2 * count - 1 - folded)

    def outside(index: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        return np.maximum(np.maximum(-index, index - (count - 1)), 0).astype(np.float32)

    region = pixels[mirrored(rows, height)[:, None], mirrored(columns, width)[None, :]]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return region
    blurred = np.asarray(Image.fromarray(region).filter(ImageFilter.GaussianBlur(SOFTNESS * side)), np.float32)
    away = np.maximum(outside(rows, height)[:, None], outside(columns, width)[None, :])
    weight = (away / (FADE * side)).clip(0, 1)[:, :, None]
    return (region + weight * (blurred - region)).round().astype(np.uint8)


def _block(ratio: float) -> int:
    """How many source pixels a side are averaged before sampling; at least four of these blocks a target pixel remain."""
    return max(1, int(ratio / 4 + 1e-6))


def _resample(
    source: NDArray[np.generic], start: list[float], across: list[float], width: int, height: int
) -> NDArray[np.float32]:
    """Samples [H, W, 3] along a turned grid -> float32 [height, width, 3].

    start: where in the source the upper left corner of the target lies. across: the step in the source that is one
    target pixel to the right; the one down is the same, turned clockwise by 90 degrees.
    """
    import numpy as np
    from PIL import Image

    ratio = math.hypot(*across)
    block = _block(ratio)
    # Several samples per target pixel, no farther apart than source pixels: every one of those counts.
    samples = max(1, math.ceil(ratio / block - 1e-6))
    how = Image.Resampling.BILINEAR if samples > 1 else Image.Resampling.BICUBIC
    dx, dy = (step / block / samples for step in across)
    x, y = (place / block for place in start)
    band = max(1, AT_ONCE // (width * samples**2))
    made = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        plane = source[:, :, channel].astype(np.float32)
        rows, columns = plane.shape[0] // block, plane.shape[1] // block
        if block > 1:
            whole = plane[: rows * block, : columns * block]
            plane = whole.reshape(rows, block, columns, block).mean((1, 3))
        image = Image.fromarray(plane)
        for top in range(0, height, band):
            count, skipped = min(band, height - top), top * samples
            matrix = (dx, -dy, x - dy * skipped, dy, dx, y + dx * skipped)
            fine = image.transform((width * samples, count * samples), Image.Transform.AFFINE, matrix, how)
            grid = np.asarray(fine).reshape(count, samples, width, samples)
            made[top : top + count, :, channel] = grid.mean((1, 3)) if samples > 1 else grid[:, 0, :, 0]
    return made


def _inverse(quad: Quad, x: float, y: float, size: float) -> list[float]:
    """Where a point of the picture lies in the square, whose side then counts `size`."""
    away = torch.tensor([x, y], dtype=torch.float64) - quad.corners[0]
    along = torch.stack([quad.across, torch.stack([-quad.across[1], quad.across[0]])])
    return (along @ away / quad.side**2 * size).tolist()


def _mask(quad: Quad, box: tuple[int, int, int, int], picture: tuple[int, int], feather: float) -> NDArray[np.float32]:
    """How much of the square's content each pixel of the box takes, [H, W] in 0 to 1."""
    import numpy as np

    left, top, right, bottom = box
    (ax, ay), (ox, oy) = (quad.across / quad.side**2).tolist(), quad.corners[0].tolist()
    x = np.arange(left, right)[None, :] + 0.5 - ox
    y = np.arange(top, bottom)[:, None] + 0.5 - oy
    u = (x * ax + y * ay).astype(np.float32)
    v = (y * ax - x * ay).astype(np.float32)
    mask = np.ones(u.shape, np.float32)
    ends = [*quad.corners.tolist(), quad.corners[0].tolist()]
    # Left, lower, right and upper side, as the corners follow.
    for number, depth in enumerate((u, 1 - v, 1 - u, v)):
        if feather and _crosses(ends[number], ends[number + 1], picture):
            part = (depth * (1 / feather)).clip(0, 1)
            mask *= part * part * (3 - 2 * part)
        else:
            mask *= depth > 0
    return mask


def _crosses(one: list[float], other: list[float], picture: tuple[int, int]) -> bool:
    """Whether a line between two points passes through the picture, half a pixel or more from its border."""
    first, last = 0.0, 1.0
    for a, b, size in zip(one, other, picture):
        if abs(b - a) < 1e-9:
            if not 0.5 < a < size - 0.5:
                return False
            continue
        near, far = sorted(((0.5 - a) / (b - a), (size - 0.5 - a) / (b - a)))
        first, last = max(first, near), min(last, far)
    return first < last
