"""How well pictures come back, and whether they can still be edited: every stage of an inversion, drawings and worse ones.

    python -m benchmarks.inversion [--pictures 64] [--edited 32]

Needs `python -m recipes.avatars.render`. On held-out drawings no model was trained on, and on the same ones *perturbed*: other
colours, turned within a larger picture, noisy, photographed off a screen. Through the pipeline of the command line, from
files. *Kept*: share of what the judge reads in the clean drawing that it reads in the inverted picture as well (what is
hidden is left out). *Success* and *leak* of edits are those of `stylograph bench`.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.measure import report
from recipes.avatars.render import HELD_OUT, load_set
from stylograph import EditJob, Generator, InvertJob
from stylograph.benchmark.rows import score
from stylograph.benchmark.tasks import FIRST_SEED, TUNED, Task
from stylograph.images import read_images
from stylograph.inversion.config import InvertConfig
from stylograph.making import make
from stylograph.metrics import Judge, visible
from stylograph.world import World

WAYS: dict[str, InvertConfig] = {
    "encoder": InvertConfig(stages=("encoder",)),
    "search": InvertConfig(stages=("search",)),
    "encoder, search": InvertConfig(stages=("encoder", "search"), enough=1),
    "encoder, tune": InvertConfig(stages=("encoder", "tune"), enough=1),
    "encoder, search, tune": InvertConfig(stages=("encoder", "search", "tune"), enough=1),
}
SENTENCES = (
    "a person wearing sunglasses",
    "a person with a big smile",
    "a person with blue hair",
    "a person with dark skin",
)
FIRST = -HELD_OUT + 1000
"""Of the held-out drawings, beyond those the inverter's recipe looked at."""


@dataclass(frozen=True)
class Options:
    pictures: int = 64
    """Drawings, and as many perturbed ones."""
    edited: int = 32
    """Of the drawings, how many are edited by each sentence; as many generated pictures."""
    ways: tuple[str, ...] = tuple(WAYS)
    name: str = "inversion"
    """File in benchmarks/results."""


def perturbed(picture: np.ndarray, kind: int, seed: int) -> np.ndarray:
    """A drawing uint8 [H, W, 3] as somebody might bring it: 0 other colours, 1 turned on a larger ground, 2 noisy, 3
    photographed off a screen."""
    rng = np.random.default_rng([seed, kind])
    pixels = picture.astype(np.float64) / 255
    if kind == 0:
        mix = np.eye(3) + rng.uniform(-0.12, 0.12, (3, 3))
        pixels = pixels @ (mix / mix.sum(0))
    elif kind == 1:
        side = picture.shape[0]
        ground = Image.new("RGB", (2 * side, int(1.6 * side)), tuple(int(c) for c in rng.integers(150, 256, 3)))
        drawing = (
            Image.fromarray(picture)
            .convert("RGBA")
            .rotate(float(rng.uniform(-25, 25)), Image.Resampling.BICUBIC, expand=True)
        )
        room = np.array(ground.size) - np.array(drawing.size)
        ground.paste(drawing, tuple(int(v) for v in rng.uniform(0, np.maximum(room, 1))), drawing)
        pixels = np.asarray(ground) / 255
    elif kind == 2:
        pixels = pixels + rng.normal(0, 0.08, pixels.shape)
    else:
        height, width = picture.shape[:2]
        rows = np.arange(height)[:, None, None]
        pixels = pixels ** rng.uniform(0.8, 1.3) * (1 - 0.12 * (rows % 3 == 0))  # scan lines
        light = np.linspace(0, 1, width)[None, :, None] * rng.uniform(-0.2, 0.2) + rng.uniform(-0.05, 0.1)
        pixels = 0.92 * pixels + 0.05 + light + rng.normal(0, 0.02, pixels.shape)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def write_pictures(folder: Path, count: int) -> dict[str, list[Path]]:
    """Files of the drawings and of the perturbed ones."""
    drawings = load_set("personas").images[FIRST : FIRST + count]
    files: dict[str, list[Path]] = {"drawings": [], "perturbed": []}
    for i, drawing in enumerate(np.asarray(drawings)):
        for name, pixels in (("drawings", drawing), ("perturbed", perturbed(drawing, i % 4, i))):
            files[name].append(folder / f"{name}-{i:03d}.png")
            Image.fromarray(pixels).save(files[name][-1])
    return files


def kept(judge: Judge, clean: Tensor, images: Tensor) -> float:
    """Share of the judge's decisions about the clean drawings that it repeats."""
    before, after = judge.probabilities(clean), judge.labels(images)
    seen = visible(before, judge.hidden)
    same = [(before[name].argmax(1) == after[name])[seen[name]] for name in before]
    return float(torch.cat(same).float().mean())


def inverted(judge: Judge, files: list[Path], clean: Tensor, config: InvertConfig) -> dict[str, Any]:
    """How well pictures come back."""
    world = World(InvertJob(image=tuple(files), invert=config), None)
    world.studio  # noqa: B018 (models are loaded before the clock starts)
    began = time.perf_counter()
    outcomes = world.outcomes
    seconds = time.perf_counter() - began
    rows = torch.tensor([i for i, outcome in enumerate(outcomes) if outcome.inversion is not None])
    images = world.render(world.groups).clamp(-1, 1)
    figures = [inversion.figures for inversion in world.inversions]
    sizes = [inversion.delta.size for inversion in world.inversions if inversion.delta is not None]
    return {
        "failed": len(outcomes) - len(rows),
        "mse": float(np.mean([f.mse for f in figures])),
        "closeness": float(np.mean([f.closeness for f in figures])),
        "identity": float(np.mean([f.identity for f in figures])),
        "kept": kept(judge, clean[rows], images),
        "seconds": seconds / len(files),
        "delta_kb": float(np.mean(sizes)) / 1000 if sizes else 0.0,
    }


def edits(judge: Judge, job: EditJob, task: Task) -> dict[str, float]:
    """Success, leak and identity of one sentence at automatic strength."""
    world = World(job, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make(world)
    before, after = world.render(world.groups), world.render([part.edited for part in made.parts])
    assert world.identity is not None
    with torch.no_grad():
        same = float((world.identity.embed(before) * world.identity.embed(after)).sum(1).mean())
    return {**score(judge, task, before, after), "identity": same}


def main(options: Options) -> None:
    judge, rows = Judge.from_pretrained("avatars"), []
    tasks = [task for task in TUNED if task.sentence in SENTENCES]
    with tempfile.TemporaryDirectory() as place:
        os.environ["STYLOGRAPH_CACHE"] = place  # nothing is known from before
        files = write_pictures(Path(place), options.pictures)
        clean = read_images(files["drawings"], Generator.from_pretrained("avatars").resolution)
        found = [
            edits(judge, EditJob(t.sentence, seed=tuple(range(FIRST_SEED, FIRST_SEED + options.edited))), t)
            for t in tasks
        ]
        rows.append({"way": "generated", **means(found)})
        for way in options.ways:
            for kind, some in files.items():
                row = {"way": way, "pictures": kind, **inverted(judge, some, clean, WAYS[way])}
                if kind == "drawings":
                    jobs = [EditJob(t.sentence, image=tuple(some[: options.edited]), invert=WAYS[way]) for t in tasks]
                    row |= means([edits(judge, job, task) for job, task in zip(jobs, tasks)])
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    report(options.name, rows, sentences=SENTENCES, pictures=options.pictures, edited=options.edited)


def means(found: list[dict[str, float]]) -> dict[str, float]:
    """Of several sentences."""
    return {f"edit_{key}": float(np.mean([row[key] for row in found])) for key in ("success", "leak", "identity")}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
