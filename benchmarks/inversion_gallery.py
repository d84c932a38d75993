"""The picture of docs/inversion.md: `python -m benchmarks.inversion_gallery` writes docs/images/inversion.webp.

Six pictures somebody might bring, none of which any model was trained on, from the file to the edit put back in its place.
Needs `python -m recipes.avatars.render`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.inversion import FIRST, perturbed
from recipes.avatars.render import draw_persona, load_set
from stylograph import EditJob, InvertConfig, InvertJob, run
from stylograph.images import to_tensor
from stylograph.render import save_picture, sheet
from stylograph.world import World

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SENTENCES = ("a person wearing sunglasses", "a person with blue hair")
STAGES = ("encoder", "search", "tune")
TILE = 160
ROWS = {0: 5, 1: 9, 2: 14, 3: 21, 4: 27, 5: 33}
"""Column -> which of the held-out drawings."""


@dataclass(frozen=True)
class Options:
    output: Path = IMAGES / "inversion.webp"


def write_inputs(folder: Path) -> list[Path]:
    """A plain drawing, four perturbed ones, and a large one within a scene."""
    drawn = load_set("personas")
    files = []
    for column, row in ROWS.items():
        labels = {name: int(values[FIRST + row]) for name, values in drawn.labels.items()}
        pixels = draw_persona(labels, size=512)
        if column == 5:
            pixels = scene(pixels)
        elif column:
            pixels = perturbed(pixels, column - 1, row)
        files.append(folder / f"{column}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def scene(drawing: np.ndarray) -> np.ndarray:
    """A drawing as a poster on a wall, seen a little askew."""
    rng = np.random.default_rng(3)
    wall = np.full((700, 1000, 3), (196, 188, 176), np.float64) + rng.normal(0, 4, (700, 1000, 1))
    wall[520:] = np.array([120, 92, 70]) + rng.normal(0, 4, (180, 1000, 1))
    picture = Image.fromarray(wall.clip(0, 255).astype(np.uint8))
    for left, top, width, height, colour in (
        (60, 380, 190, 160, "#3b5b4e"),
        (90, 300, 40, 90, "#6a8f5b"),
        (800, 60, 130, 300, "#d9d2c5"),
    ):
        picture.paste(colour, (left, top, left + width, top + height))
    poster = Image.fromarray(drawing).convert("RGBA").resize((380, 380), Image.Resampling.BICUBIC)
    poster = poster.rotate(-8, Image.Resampling.BICUBIC, expand=True)
    picture.paste(poster, (330, 70), poster)
    return np.asarray(picture)


def tile(picture: Image.Image) -> Tensor:
    """Any picture in a square tile, [1, 3, TILE, TILE]."""
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (TILE, TILE), "white")
    square.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return to_tensor(square)


def enlarged(images: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(images, (TILE, TILE), mode="bicubic", align_corners=False).clamp(-1, 1)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as place:
        files = write_inputs(Path(place))
        rows = {"what you bring": torch.cat([tile(Image.open(file)) for file in files])}
        for stages in (STAGES[:1], STAGES[:2], STAGES):
            world = World(InvertJob(image=tuple(files), invert=InvertConfig(stages=stages, enough=1)), None)
            if len(stages) == 1:
                rows["found and aligned"] = enlarged(torch.cat([i.image for i in world.inversions]))
            told = [i.figures.closeness for i in world.inversions]
            name = {1: "inverted by the encoder", 2: "and searched for", 3: "and the generator tuned"}[len(stages)]
            rows[f"{name} (closeness {min(told):.2f} to {max(told):.2f})"] = enlarged(world.render(world.groups))
        job = EditJob(image=tuple(files))
        for sentence in SENTENCES:
            result = run(replace(job, target=sentence))
            rows[sentence] = enlarged(result.rows[-1])
        rows["put back"] = torch.cat([tile(edited.pasted().picture) for edited in result.back])
    picture = sheet(list(rows.values()), captions=list(rows))
    save_picture(picture, options.output)
    print(options.output)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
