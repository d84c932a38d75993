"""Files a user may take for pictures, good and bad, and what has to become of each; for test_bad_pictures."""

import os
import shlex
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.avatars.attributes import sample_labels
from recipes.avatars.render import draw_persona

SIDE = 128
GREY = np.tile(np.arange(SIDE, dtype=np.uint8) * 4, (SIDE, 1))
UNREADABLE = Path("/proc/self/mem")
"""Even root cannot read it: its first page is never there."""


@dataclass(frozen=True)
class File:
    """A file among many others, and what has to become of it."""

    name: str
    given: str
    happens: str
    make: Callable[[Path], object]
    said: str = ""
    """Part of the message, if it is left out."""
    seen: Callable[[], np.ndarray] | None = None
    """What the generator is to draw, if not the face as it is."""
    off: float = 0
    """How far from that it may be on average, of 255."""
    named: bool = False
    """Given by its name; the others are found in the folder."""

    @property
    def row(self):
        return self.given, f"left out: `{self.said}`" if self.said else self.happens

    def wanted(self):
        return (self.seen or pixels)()


@lru_cache
def face(number=0):
    """A drawing of 128 x 128 pixels that is not its own mirror image."""
    labels = {name: int(values[number]) for name, values in sample_labels(2, seed=77).items()}
    drawing = draw_persona(labels, size=SIDE).copy()
    drawing[:40, :24] = (200, 30, 60)
    return Image.fromarray(drawing)


def pixels(mode="RGB"):
    return np.asarray(face().convert(mode).convert("RGB"))


def wide():
    """The same in the middle of a picture of 192 x 128 pixels."""
    picture = Image.new("RGB", (192, SIDE), "white")
    picture.paste(face(), (32, 0))
    return picture


def flat(size=(1, 1)):
    return Image.new("RGB", size, (255, 0, 51))


def of_one_colour():
    return np.asarray(flat((SIDE, SIDE)))


def grey():
    return np.stack([GREY] * 3, -1)


def on_white():
    part = GREY[:, :, None] / 255
    return part * pixels() + (1 - part) * 255


def palette():
    return face().convert("P", palette=Image.Palette.ADAPTIVE, colors=32)


def commonest():
    """The colour of that picture that fills most of it."""
    return int(np.bincount(np.asarray(palette()).ravel()).argmax())


def palette_on_white():
    """What it looks like with that colour transparent."""
    rgb = np.array(palette().convert("RGB"))
    rgb[np.asarray(palette()) == commonest()] = 255
    return rgb


# ------------------------------------------------------------------ how files are made


def saved(picture=face, **options):
    return lambda path: picture().save(path, **options)


def holding(content):
    return lambda path: path.write_bytes(content)


def linked(target):
    return lambda path: path.symlink_to(target)


def nothing(path):
    """It is there already, or not at all."""


def cut(path):
    face().resize((256, 256)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sparse(path):
    with open(path, "wb") as stream:
        stream.truncate(3 << 30)


def turned(orientation):
    """Writes the wide picture as a camera held otherwise would."""
    way = Image.Transpose
    ways = (way.FLIP_LEFT_RIGHT, way.ROTATE_180, way.FLIP_TOP_BOTTOM)
    ways += (way.TRANSPOSE, way.ROTATE_90, way.TRANSVERSE, way.ROTATE_270)

    def make(path):
        exif = Image.Exif()
        exif[0x0112] = orientation
        lying = wide() if orientation == 1 else wide().transpose(ways[orientation - 2])
        lying.save(path, quality=98, subsampling=0, exif=exif)

    return make


def animated(path):
    others = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    face().save(path, save_all=True, append_images=others, duration=50, **options)


def see_through(path):
    picture = face().convert("RGBA")
    picture.putalpha(Image.fromarray(GREY))
    picture.save(path)


def bomb(side):
    """A PNG of some seventy bytes that claims to be of this side."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# ------------------------------------------------------------------ the files


def taken(name, given, happens, make, *, seen=None, off=0, named=False):
    return File(name, given, happens, make, seen=seen, off=off, named=named)


def refused(name, given, said, make, *, named=False):
    return File(name, given, "", make, said=said, named=named)


SVG = holding(b"<?xml version='1.0'?>\n<!-- a drawing -->\n<svg xmlns='http://www.w3.org/2000/svg'/>")
EXACT = "inverted, every pixel as it is"
WHITE = "inverted as it looks on white"
ROTATED = "a JPEG of a camera held sideways or upside down (EXIF, all 8 ways)"
ANIMATION = "an animation (GIF, WebP, APNG)"
LINK = "a symbolic link that leads to itself, or nowhere"
NAMES = "a name with spaces, accents, other scripts, `%`, a line break, a leading dash"
TWINS = "two files that differ in their ending only"

FILES = [
    *(taken(f"plain.{e}", "PNG, BMP or TIFF", EXACT, saved()) for e in ("png", "bmp", "tif", "tiff")),
    taken("lossless.webp", "lossless WebP", EXACT, saved(lossless=True)),
    taken("lossy.webp", "WebP", "inverted, but for what WebP loses", saved(quality=95), off=6),
    *(
        taken(f"plain.{e}", "JPEG", "inverted, but for what JPEG loses", saved(quality=95), off=5)
        for e in ("jpg", "jpeg")
    ),
    taken("plain.gif", "GIF", "inverted, in its 256 colours", saved(), off=4),
    *(taken(f"turned{i}.jpg", ROTATED, "the same inversion as upright", turned(i), off=3) for i in range(1, 9)),
    taken("exif.jpg", "a JPEG whose EXIF is damaged", "inverted as it lies", saved(exif=b"Exif\0\0rubbish"), off=8),
    taken("clear.png", "transparency", WHITE, see_through, seen=on_white, off=1),
    taken(
        "palette.png",
        "a palette with a transparent colour",
        WHITE,
        lambda path: palette().save(path, transparency=commonest()),
        seen=palette_on_white,
    ),
    taken("ink.jpg", "a CMYK JPEG", "inverted in RGB", saved(lambda: face().convert("CMYK"), quality=95), off=6),
    taken(
        "deep.png",
        "16-bit grey",
        "inverted, scaled to 8 bit",
        saved(lambda: Image.fromarray(GREY.astype(np.uint16) * 257)),
        seen=grey,
    ),
    taken("bits.png", "1 bit per pixel", EXACT, saved(lambda: face().convert("1")), seen=lambda: pixels("1")),
    taken(
        "float.tif",
        "a TIFF of floats from 0 to 1",
        "inverted, 1 is white",
        saved(lambda: Image.fromarray(GREY.astype(np.float32) / 255)),
        seen=grey,
    ),
    *(taken(f"moving.{e}", ANIMATION, "its first frame is inverted", animated, off=4) for e in ("gif", "webp", "png")),
    taken("pages.tif", "a TIFF of several pages", "its first page is inverted", animated),
    taken("one.png", "a single pixel", "inverted; the verdict says how poor that is", saved(flat), seen=of_one_colour),
    taken(
        "sliver.png",
        "3 x 2000 pixels",
        "the square in the middle is inverted, all of 3 x 3 pixels",
        saved(lambda: flat((3, 2000))),
        seen=of_one_colour,
    ),
    refused(
        "bomb.png", "a small file that claims 60000 x 60000 pixels", "far more than 100000000", holding(bomb(60_000))
    ),
    refused("large.png", "more than 100 megapixels", "got 10001 x 10001 pixels", holding(bomb(10_001))),
    refused("sparse.png", "a file of more than 2 GB", "a file of 3 GB", sparse),
    *(refused(f"cut.{e}", "a truncated JPEG or PNG", "image file is truncated", cut) for e in ("jpg", "png")),
    refused("zero.png", "a file of zero bytes", "an empty file", holding(b"")),
    refused("text.png", "text named `.png`", "of no known kind", holding(b"dear diary\n")),
    refused("page.jpg", "an HTML page named `.jpg`", "an HTML page", holding(b"\n<!DOCTYPE html><html>404</html>")),
    refused("drawing.png", "an SVG, whatever its name", "an SVG drawing", SVG),
    refused("drawing.svg", "an SVG, whatever its name", "an SVG drawing", SVG, named=True),
    refused("vector.png", "an EPS, whatever its name", "got an EPS file", saved(format="EPS")),
    refused("vector.eps", "an EPS, whatever its name", "got an EPS file", saved(), named=True),
    refused("paper.jpg", "a PDF named `.jpg`", "a PDF file", holding(b"%PDF-1.7\n")),
    refused("phone.jpg", "a HEIC picture of a telephone", "a HEIC picture", holding(b"\0\0\0\x18ftypheic" + bytes(80))),
    refused("generator.safetensors", "a `.safetensors` that is a generator", "of kind 'generator'", nothing),
    refused("edit.safetensors", "one that is an edit", "of kind 'edit'", nothing),
    refused("damaged.safetensors", "one that is damaged", "got a damaged file", nothing),
    refused("other.safetensors", "an inversion by another generator", "this picture was inverted with", nothing),
    refused("gone.png", "a path where nothing is", "a path where no file is", nothing, named=True),
    refused("gone.safetensors", "a path where nothing is", "a path where no file is", nothing, named=True),
    refused("pipe.png", "a pipe (FIFO); it is not waited for", "what is no regular file", os.mkfifo, named=True),
    refused("pipe.safetensors", "a pipe named `.safetensors`", "a path where no file is", os.mkfifo, named=True),
    refused("loop.png", LINK, "a symbolic link that leads to no file", linked("loop.png"), named=True),
    refused("astray.png", LINK, "a symbolic link that leads to no file", linked("nowhere.png"), named=True),
    refused("mem.png", "a file nobody may read", "a file that cannot be read", linked(UNREADABLE)),
    refused("x" * 300 + ".png", "a name longer than names can be", "File name too long", nothing, named=True),
    *(
        taken(f"{name}.png", NAMES, EXACT, saved())
        for name in ("with space", "ünï çødé", "画像", "100%20", "line\nbreak", "-o")
    ),
    taken("y" * 245 + ".png", "a name as long as names can be", "inverted; its inversion has a shorter name", saved()),
    taken("UPPER.PNG", "an ending in capitals", EXACT, saved()),
    taken("link.png", "a symbolic link to a picture", EXACT, linked("plain.png")),
    taken(".hidden.png", "a hidden file, given by name", EXACT, saved(), named=True),
    taken("twin.png", TWINS, "an inversion each", saved()),
    taken("twin.bmp", TWINS, "an inversion each", saved(lambda: face(1)), seen=lambda: np.asarray(face(1))),
]
IGNORED = {
    "notes.txt": "files of other endings in a folder",
    "deeper/inside.png": "folders in a folder",
    ".secret.png": "a hidden file in a folder",
}


# ------------------------------------------------------------------ what is asked of the command


@dataclass(frozen=True)
class Command:
    """What is asked, in a folder with a few files, and what comes of it."""

    given: str
    words: tuple[str, ...]
    code: int
    said: str
    makes: tuple[str, ...] = ()
    """Every file and folder that is new then."""

    @property
    def row(self):
        if self.code == 0:
            what = "done"
        elif "out/manifest.json" in self.makes:
            what = "left out"
        elif self.said.startswith("left out"):
            what = "done with the others, exit code 1"
        else:
            what = "drawn, but not pasted" if self.makes else "refused"
        return self.given, f"{what}: `{self.said}`" + (", exit code 2" if self.code == 2 else "")


def commands(table):
    """Of lines "given | words | exit code | what is said | new files"."""
    for line in table.strip().splitlines():
        given, words, code, said, makes = (cell.strip() for cell in line.split("|"))
        yield Command(given, tuple(shlex.split(words)), int(code), said, tuple(makes.split()))


COMMANDS = list(
    commands("""
no picture at all | invert -o out | 1 | got no pictures |
a folder without pictures | invert empty -o out | 1 | got a folder without pictures |
a picture that is not there, one file to write | invert gone.png -o a.safetensors | 1 | a path where no file is |
two pictures, one file to write | invert me.png you.png -o a.safetensors | 1 | got one file for 2 pictures; expected a folder |
a name with a leading dash, without `./` | invert -o out -me.png | 2 | Unrecognized options |
a path with `~`, in quotes | invert ~/me.png -o out | 0 | 1 inverted | out out/manifest.json out/me.safetensors
an output that is a file of another kind | invert me.png -o one.json | 1 | one.json is a file |
an output that is the picture itself | invert me.png -o me.png | 1 | expected .safetensors, or a folder |
an output named like the picture beside it | invert me.png -o me.safetensors | 0 | wrote me.safetensors | me.safetensors me-inverted.png
an output in a folder that is not there | invert me.png -o no/me.safetensors | 1 | create it first |
an output where nothing can be written | invert me.png -o /proc/none/out | 1 | a folder that cannot be made or written to |
an output inside the folder of the pictures | invert one -o one/out | 0 | 1 inverted | one/out one/out/manifest.json one/out/a.safetensors
a picture without a face | invert blank.png -o out --align avatars | 1 | without a face that could be found | out out/manifest.json
`--face 3` where there is one | invert me.png -o out --face 3 | 1 | got face number 3 of a picture with one face | out out/manifest.json
`--landmarks` that are no numbers | invert me.png -o out --landmarks left,right | 1 | neither points nor a file that is there | out out/manifest.json
`--landmarks` that are too few | invert me.png -o out --landmarks "1,2 3,4" | 1 | not 5 or 68 pairs of numbers | out out/manifest.json
`--landmarks` no face has | invert me.png -o out --landmarks "40,20 20,20 30,30 20,40 40,40" | 1 | check the order | out out/manifest.json
`--landmarks` beside the picture | invert me.png -o out --landmarks "820,820 840,820 830,830 820,840 840,840" | 1 | beside the picture | out out/manifest.json
a file of landmarks that is damaged | invert me.png -o out --landmarks bad.png | 1 | got a file that is no readable JSON | out out/manifest.json
a file of landmarks that lacks a picture | invert me.png you.png -o out --landmarks one.json | 1 | got no landmarks of this picture | out out/manifest.json out/me.safetensors
an encoder nobody knows | invert me.png -o out --invert.encoder magic | 1 | expected one of: avatars |
an encoder that is none | invert me.png -o out --invert.encoder generator.safetensors | 1 | expected a face encoder of e4e or pSp |
an encoder of another generator | edit "a person wearing a hat" --image me.png --model generator.safetensors --clip CLIP --invert.encoder avatars -o out.png | 1 | pass an encoder that was trained for this generator |
`--invert.stages tune` alone | invert me.png -o out --invert.stages tune | 1 | expected one that finds a code first |
a stage nobody knows | invert me.png -o out --invert.stages dream | 2 | invalid choice 'dream' |
`--image` with one bad picture among others | edit "a person wearing a hat" --image bad.png me.png -o out.png | 1 | left out bad.png | out.png
`--image` with bad pictures only | edit "a person wearing a hat" --image bad.png gone.png -o out.png | 1 | and 1 more pictures that failed |
`--image` with a generator | edit "a person wearing a hat" --image generator.safetensors -o out.png | 1 | expected a stylograph inversion file |
`--image` with an inversion by another generator | edit "a person wearing a hat" --image other.safetensors -o out.png | 1 | invert the picture again with this one |
`--pasted` without `--image` | edit "a person wearing a hat" --seed 1 -o out.png --pasted p.png | 1 | seeds have no picture around |
`--pasted` onto the picture itself | edit "a person wearing a hat" --image me.png -o out.png --pasted me.png | 1 | got a file that is read as the one to write |
`--pasted` onto the picture of an inversion | edit "a person wearing a hat" --image code.safetensors -o out.png --pasted me.png | 1 | got the picture itself as the file to write | out.png
`--pasted` into the folder of the picture | edit "a person wearing a hat" --image me.png -o out.png --pasted . | 1 | got the folder the pictures come from |
`--pasted` into another folder | edit "a person wearing a hat" --image me.png -o out.png --pasted empty | 0 | wrote empty/me.png | out.png empty/me.png
`--pasted` into a folder that is not there | edit "a person wearing a hat" --image me.png -o out.png --pasted no/p.png | 1 | create it first |
`--pasted` with one file for several pictures | edit "a person wearing a hat" --image me.png you.png -o out.png --pasted p.png | 1 | got one file for 2 pictures; expected a folder |
the picture itself as the output of an edit | edit "a person wearing a hat" --image me.png -o me.png | 1 | expected another |
an input that stylograph wrote, and an output named like it | invert drawn.png -o drawn.safetensors | 0 | wrote drawn-inverted.png | drawn.safetensors drawn-inverted.png
an output of `invert` named like a picture | invert me.png -o a.png | 1 | expected |
`--pasted` onto the output | edit "a person wearing a hat" --image me.png -o out.png --pasted out.png | 1 | expected another |
the same picture twice, one file to write | invert me.png ./me.png -o a.safetensors | 0 | wrote a.safetensors | a.safetensors a-inverted.png
a picture too long for the format to paste it in | edit "a person wearing a hat" --image long.png -o out.png --pasted p.webp | 1 | p.webp | out.png
an output with a name longer than names can be | invert me.png -o LONG.safetensors | 1 | File name too long |
`imagine` with `--image` | imagine "a person wearing a hat" --image me.png -o out.png | 1 | use stylograph edit to change pictures |
""")
)
