"""Draw the training pictures: personas with known attributes, and other avatar styles (128x128, resumable).

``python -m recipes.avatars.render`` writes ``.work/personas/{images.npy,labels.npz,DONE}`` and
``.work/styles/{images.npy,labels.npz,DONE}``. The same seed gives the same bytes; finished shards are kept.
"""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recipes.avatars.attributes import BACKGROUND, persona_options, sample_labels
from recipes.avatars.styles import STYLES

WORK = Path(__file__).resolve().parent / ".work"
HELD_OUT, HELD_OUT_STYLES = 2000, 1000
"""The last personas, and the last pictures of the other styles, are never trained on."""


@dataclass(frozen=True)
class RenderConfig:
    """What to draw, and where to."""

    what: Literal["personas", "styles", "all"] = "all"
    """Which of the two sets to draw."""
    out: Path = WORK
    """Folder that receives ``personas/`` and ``styles/``."""
    count: int = 40_000
    """Number of personas."""
    per_style: int = 600
    """Number of pictures of every other style."""
    size: int = 128
    """Side in pixels; resvg antialiases by coverage, drawing twice as large changes pixels by 0.16/255 on average."""
    seed: int = 0
    """Seed of the attributes; the same seed draws the same bytes."""
    shard: int = 1000
    """Pictures between two marks of progress."""
    workers: int = 2
    """Worker processes."""


_LOADED: dict[str, Any] = {}


def load_style(name: str) -> Any:
    """The DiceBear style called `name`, parsed once per process."""
    if name not in _LOADED:
        from dicebear import Style

        text = files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")
        _LOADED[name] = Style(json.loads(text))
    return _LOADED[name]


def draw(style: str, options: dict[str, object], *, size: int) -> tuple[np.ndarray, dict[str, object]]:
    """Draw one avatar; returns uint8 [size, size, 3] and the options that DiceBear resolved."""
    import resvg_py
    from dicebear import Avatar
    from PIL import Image

    avatar = Avatar(load_style(style), options).to_json()
    png = resvg_py.svg_to_bytes(svg_string=avatar["svg"], width=size, height=size, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(ground, picture).convert("RGB")), avatar["options"]


def draw_persona(labels: dict[str, int], *, size: int = 128) -> np.ndarray:
    """The persona with these labels as uint8 [size, size, 3]."""
    return draw("personas", persona_options(labels), size=size)[0]


def _draw_other(style: str, number: int, *, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, number])
    background = BACKGROUND.values[rng.integers(len(BACKGROUND.values))].colour
    options: dict[str, object] = {"seed": f"{seed}-{number}", "backgroundColor": [background]}
    options.update(STYLES[style].options)
    return draw(style, options, size=size)[0]


def _shard(job: tuple[RenderConfig, str, int, int]) -> str:
    config, what, start, stop = job
    folder = config.out / what
    images = np.load(folder / "images.npy", mmap_mode="r+")
    with np.load(folder / "labels.npz") as stored:
        labels = {name: stored[name][start:stop] for name in stored.files}
    names = list(STYLES)
    for offset in range(stop - start):
        row = {name: int(values[offset]) for name, values in labels.items()}
        if what == "personas":
            images[start + offset] = draw_persona(row, size=config.size)
        else:
            images[start + offset] = _draw_other(
                names[row["style"]], start + offset, size=config.size, seed=config.seed
            )
    images.flush()
    (folder / "shards" / f"{start:06d}").touch()
    return f"{what} {stop}"


def _prepare(config: RenderConfig, what: str) -> Iterator[tuple[RenderConfig, str, int, int]]:
    folder = config.out / what
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    if what == "personas":
        labels = sample_labels(config.count, seed=config.seed)
    else:
        # Interleaved, so that any prefix and any suffix holds every style.
        labels = {"style": np.arange(config.per_style * len(STYLES)) % len(STYLES)}
    total = len(next(iter(labels.values())))
    recipe = json.dumps(
        {"total": total, "size": config.size, "seed": config.seed, "shard": config.shard, "styles": list(STYLES)}
        if what == "styles"
        else {"total": total, "size": config.size, "seed": config.seed, "shard": config.shard}
    )
    stamp = folder / "recipe.json"
    if stamp.exists() and stamp.read_text() != recipe:
        raise SystemExit(
            f"{folder} holds pictures of another recipe ({stamp.read_text()}), asked for {recipe}; "
            "choose another --out or delete that folder"
        )
    if not stamp.exists():
        np.lib.format.open_memmap(
            folder / "images.npy", mode="w+", dtype=np.uint8, shape=(total, config.size, config.size, 3)
        ).flush()
        np.savez(folder / "labels.npz", **labels)
        stamp.write_text(recipe)
    for start in range(0, total, config.shard):
        if not (folder / "shards" / f"{start:06d}").exists():
            yield config, what, start, min(start + config.shard, total)


def render(config: RenderConfig) -> None:
    """Draw what is missing, then write the file ``DONE`` next to the pictures."""
    for what in ("personas", "styles") if config.what == "all" else (config.what,):
        jobs = list(_prepare(config, what))
        with multiprocessing.get_context("spawn").Pool(config.workers) as pool:
            for message in pool.imap_unordered(_shard, jobs):
                print(message, flush=True)
        (config.out / what / "DONE").touch()


@dataclass(frozen=True)
class Personas:
    """The rendered personas: pictures (memory-mapped) and one label array per attribute."""

    images: np.ndarray
    """uint8 [N, 128, 128, 3]."""
    labels: dict[str, np.ndarray]
    """int64 [N] by attribute name (by ``style`` for the other styles)."""


def load_set(what: Literal["personas", "styles"], *, work: Path = WORK) -> Personas:
    """Open a rendered set; raises SystemExit with the command to run when it is not there."""
    folder = work / what
    if not (folder / "DONE").exists():
        raise SystemExit(f"{folder} is not complete; run: python -m recipes.avatars.render --what {what}")
    with np.load(folder / "labels.npz") as stored:
        labels = {name: stored[name] for name in stored.files}
    return Personas(np.load(folder / "images.npy", mmap_mode="r"), labels)


def training_share(count: int, held_out: int = HELD_OUT) -> int:
    """How many of `count` pictures are trained on: all but the held-out ones, half of a set too small for that."""
    return count - held_out if count > 2 * held_out else count // 2


def half_size(images: np.ndarray) -> np.ndarray:
    """Average 2x2 pixels: uint8 [N, H, W, 3] to uint8 [N, H/2, W/2, 3]."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, channels).astype(np.uint16)
    return ((blocks.sum((2, 4)) + 2) // 4).astype(np.uint8)


if __name__ == "__main__":
    import tyro

    render(tyro.cli(RenderConfig))
