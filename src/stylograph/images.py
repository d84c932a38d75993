"""Pictures as tensors: reading files safely, and resampling as matrix products, exact and differentiable."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

RESAMPLERS = ("box", "bicubic")
WANTED = "expected a readable picture such as .png or .jpg"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded: a file of a few kilobytes can claim to be of any size."""
MAX_BYTES = 2_000_000_000
"""Larger files are refused before they are read: no picture of so few pixels takes as much."""
SIGNS = (
    (re.compile(rb"(<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg\b", re.DOTALL), "an SVG drawing"),
    (re.compile(rb"\s*<(!doctype html|html|head|body)\b", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"%PDF-"), "a PDF file"),
    (re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL), "a HEIC picture"),
)
"""How files begin that are taken for pictures and are none Pillow can read."""


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


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture at full size, with what it takes to write it back as it was."""

    colours: Image
    """"RGB", upright, as stored: what lies under transparent places too."""
    alpha: Image | None = None
    """"L" of the same size; None if every pixel is opaque."""
    profile: bytes | None = None
    """ICC profile of the colours, as it stood in the file."""

    @classmethod
    def of(cls, image: Image) -> Photo:
        """Any Pillow image: EXIF orientation is applied, every mode becomes RGB of 8 bit.

        A profile of another colour space (CMYK, grey) is dropped. Raises `ImageError` for an image without pixels.
        """
        from PIL import ImageOps

        if 0 in image.size:
            raise ImageError(f"got a picture of {image.width} x {image.height} pixels; expected at least 1 x 1")
        profile = image.info.get("icc_profile")
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            image = _eight_bit(image)
        alpha = None
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = image.getchannel("A")
            alpha = None if alpha.getextrema() == (255, 255) else alpha
        fitting = isinstance(profile, bytes) and profile[16:20] == b"RGB "
        return cls(_without_info(image.convert("RGB")), alpha, profile if fitting else None)

    @cached_property
    def picture(self) -> Image:
        """ "RGB" as it is seen on white paper."""
        from PIL import Image

        if self.alpha is None:
            return self.colours
        ground = Image.new("RGBA", self.colours.size, "white")
        return Image.alpha_composite(ground, self._with_alpha()).convert("RGB")

    def merged(self, *, transparent: bool = True) -> Image:
        """What to save: "RGBA" if there is transparency, else "RGB", with the profile as its `info["icc_profile"]`.

        transparent: False for formats that cannot hold it, such as JPEG; the picture then lies on white.
        """
        image = self._with_alpha() if transparent and self.alpha else self.picture.copy()
        if self.profile is not None:
            image.info["icc_profile"] = self.profile
        return image

    def _with_alpha(self) -> Image:
        image = self.colours.convert("RGBA")
        if self.alpha is not None:
            image.putalpha(self.alpha)
        return image


def _without_info(image: Image) -> Image:
    """Without the file's metadata: Pillow's PNG writer would put some of it into whatever is saved."""
    image = image.copy()
    image.info = {}
    return image


def _eight_bit(image: Image) -> Image:
    """Grey of more than 8 bit, scaled: Pillow's own conversion would cut. Values that are no numbers become black."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image, np.float64)
    brightest = values.max(where=np.isfinite(values), initial=0)
    values = np.nan_to_num(values, nan=0, posinf=brightest, neginf=0)
    deep = image.mode.startswith("I;16") or brightest > 255
    values = values / (65535 if deep else 1 if image.mode == "F" and brightest <= 1 else 255)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def open_photo(path: str | Path) -> Photo:
    """A picture file at full size; of an animation the first frame.

    Raises `ImageError` for what is no picture, damaged, empty, or larger than 100 megapixels. Only regular files are
    opened, and none that Pillow would hand to another program (EPS).
    """
    from PIL import Image, UnidentifiedImageError

    place = picture_file(path)
    try:
        with Image.open(place) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: got {width} x {height} pixels; expected at most {MAX_PIXELS}; reduce it first"
                )
            if opened.format == "EPS":
                raise ImageError(f"{path}: got an EPS file; {WANTED}; convert it first")
            return Photo.of(opened)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: got no readable picture ({_instead(place)}); {WANTED}") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{path}: got a picture that claims far more than {MAX_PIXELS} pixels; expected at most that; reduce it first"
        ) from None
    except Exception as error:  # a reader that meets damage may raise anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{path}: got no readable picture ({first}); {WANTED}") from None


def picture_file(path: str | Path) -> Path:
    """The path with ~ resolved, of a regular file that is not too large to be a picture.

    Raises `ImageError` for anything else. Nothing is opened: a pipe would wait for a writer for ever.
    """
    place = Path(path)
    try:
        with contextlib.suppress(RuntimeError):  # a user nobody knows
            place = place.expanduser()
        if place.is_file():
            size = place.stat().st_size
            if size <= MAX_BYTES:
                return place
            found = f"a file of {size / 1e9:.0f} GB"
        elif place.is_dir():
            found = "a folder"
        elif place.exists():
            found = "what is no regular file"
        else:
            found = "a symbolic link that leads to no file" if place.is_symlink() else "a path where no file is"
    except OSError as error:
        found = f"a path that cannot be looked at ({error.strerror})"
    raise ImageError(f"{path}: got {found}; {WANTED}")


def _instead(place: Path) -> str:
    """What a file is that is no picture, as far as its beginning tells."""
    with contextlib.suppress(OSError), open(place, "rb") as stream:
        start = stream.read(1000)
        if not start:
            return "an empty file"
        return next((name for sign, name in SIGNS if sign.match(start)), "of no known kind")
    return "of no known kind"


def open_picture(path: str | Path) -> Image:
    """The picture of a file as "RGB" at full size, transparency laid on white. See `open_photo`, which keeps more."""
    return open_photo(path).picture


def to_array(picture: Image) -> NDArray[np.uint8]:
    """The pixels of an "RGB" picture as uint8 [H, W, 3]. Raises `ImageError` for another mode, see `Photo.of`."""
    import numpy as np

    if picture.mode != "RGB":
        raise ImageError(f"got a picture of mode {picture.mode!r}; expected 'RGB'; use Photo.of(picture).picture")
    return np.asarray(picture)


def to_tensor(picture: Image) -> Tensor:
    """An "RGB" picture -> [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(to_array(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def read_image(path: str | Path, size: int) -> Tensor:
    """A picture file -> [1, 3, size, size] in [-1, 1], the middle square of it. Raises `ImageError` as `open_photo`."""
    return resize(to_tensor(open_picture(path)), size, method="bicubic").clamp(-1, 1)


def read_images(paths: Sequence[str | Path], size: int) -> Tensor:
    """Picture files, or folders of them, -> [M, 3, size, size] in [-1, 1].

    Raises `ImageError` as `files_of`, and for the first file that cannot be read.
    """
    return torch.cat([read_image(path, size) for path in files_of(paths)])


def files_of(paths: Sequence[str | Path], endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Files, and for a folder the files with these endings directly in it, by name.

    Raises `ImageError` for a folder without any, and if there is nothing at all.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        with contextlib.suppress(RuntimeError):  # a user nobody knows
            path = path.expanduser()
        folder = False
        with contextlib.suppress(OSError):  # what the path cannot be is said when it is opened
            folder = path.is_dir()
        files += _inside(path, endings) if folder else [path]
    if not files:
        raise ImageError("got no pictures; expected one file or folder at least")
    return files


def _inside(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files of a folder with these endings, but hidden ones."""
    try:
        inside = sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and p.is_file() and p.name[0] != ".")
    except OSError as error:
        raise ImageError(f"{folder}: got a folder that cannot be read ({error.strerror}); choose another") from None
    if not inside:
        raise ImageError(f"{folder}: got a folder without pictures; expected files ending in {', '.join(endings)}")
    return inside
