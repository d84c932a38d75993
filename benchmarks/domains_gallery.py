"""The pictures of docs/adaptation.md: `python -m benchmarks.domains_gallery` trains the children and writes docs/images.

Children that are in the folder already (`--folder`) are not trained again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from recipes.avatars.render import draw
from stylograph import AdaptConfig, AdaptJob, BlendJob, EditJob, Generator, run
from stylograph.images import read_images
from stylograph.nada.config import Preset
from stylograph.render import save_picture, sheet

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SEEDS = (1, 2, 3, 4, 5, 6, 7, 8)
CHILDREN: dict[str, tuple[str, Preset]] = {
    "robot": ("a robot", "shape"),
    "pixel": ("pixel art", "style"),
    "line": ("a black and white line drawing", "style"),
    "doodle": ("a doodle", "style"),
    "voxel": ("a voxel person", "style"),
    "clay": ("a clay monster", "shape"),
    "plant": ("a potted plant", "shape"),
    "silhouette": ("a silhouette", "style"),
}
GUIDES = "thumbs"
"""The style whose pictures guide one child, without a word."""


@dataclass(frozen=True)
class Options:
    folder: Path = Path("children")
    """Where the children are kept."""


def child(folder: Path, name: str, job: AdaptJob) -> Generator:
    """The child of this name, trained if it is not there yet."""
    file = folder / f"{name}.safetensors"
    if not file.exists():
        made = run(job).generator
        assert made is not None
        made.save(file)
        print(name, made.provenance["adaptation"]["best"], flush=True)
    return Generator.from_pretrained(file)


def guides(folder: Path) -> Path:
    """A folder of five pictures in another style."""
    place = folder / GUIDES
    place.mkdir(exist_ok=True)
    for i in range(5):
        Image.fromarray(draw(GUIDES, {"seed": f"guide-{i}"}, size=128)[0]).save(place / f"{i}.png")
    return place


@torch.no_grad()
def pictures(generator: Generator, n: int = len(SEEDS)) -> Tensor:
    return generator.render(generator.sample(n, seed=SEEDS[:n]))


def main(options: Options) -> None:
    folder = options.folder
    folder.mkdir(exist_ok=True)
    parent = Generator.from_pretrained("avatars")
    rows, captions = [pictures(parent)], ["the parent: a person"]
    for name, (sentence, preset) in CHILDREN.items():
        job = AdaptJob(target=sentence, seed=SEEDS, adapt=AdaptConfig(preset=preset))
        rows.append(pictures(child(folder, name, job)))
        captions.append(sentence)
    save_picture(sheet(rows, captions=captions), IMAGES / "domains.webp")

    place = guides(folder)
    guided = child(folder, "guided", AdaptJob(seed=SEEDS, target_images=(place,)))
    shown = read_images([place], parent.resolution)
    save_picture(
        sheet(
            [shown, pictures(parent), pictures(guided)], captions=["five target pictures", "the parent", "the child"]
        ),
        IMAGES / "guided.webp",
    )

    mix = BlendJob(other=str(folder / "robot.safetensors"), seed=(1, 2, 3))
    upper = replace(mix, amounts=(1.0,), start=16)
    lower = replace(mix, amounts=(1.0,), stop=16)
    columns = [run(mix).rows, run(lower).rows, run(upper).rows]
    headings = [f"{amount:g}" for amount in mix.amounts] + ["below 16", "from 16 on"]
    rows = [torch.cat([part[i] for part in columns]) for i in range(len(mix.seed))]
    save_picture(sheet(rows, headings=headings), IMAGES / "blend.webp")

    edit = folder / "sunglasses.safetensors"
    first = run(EditJob("a person wearing sunglasses", seed=SEEDS))
    assert first.edit is not None
    first.edit.save(edit)
    rows, captions = [first.rows[0], first.rows[1]], ["the parent", "a person wearing sunglasses"]
    for name in ("doodle", "voxel"):
        result = run(EditJob("", model=str(folder / f"{name}.safetensors"), seed=SEEDS, edit=(edit,)))
        rows += result.rows
        captions += [CHILDREN[name][0], "the parent's edit on it"]
    save_picture(sheet(rows, captions=captions), IMAGES / "edited-children.webp")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
