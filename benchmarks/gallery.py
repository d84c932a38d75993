"""The pictures of the docs: `python -m benchmarks.gallery` writes them to docs/images (mappers are trained first)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stylograph import Clip, EditJob, Generator, GridJob, ImagineJob, SweepJob, find_direction, run
from stylograph.edit.config import DirectionConfig
from stylograph.render import save_picture, sheet

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SEEDS = (1, 2, 3, 4, 5, 6, 7, 8)
PROMPTS = ("a person wearing sunglasses", "a person with blue hair", "a person with a big smile")


def methods() -> None:
    """Three sentences, three methods, the same avatars."""
    rows: list[Tensor] = []
    captions: list[str] = []
    for prompt in PROMPTS:
        for method in ("direction", "optimize", "mapper"):
            result = run(EditJob(prompt, seed=SEEDS, method=method))
            if not rows:
                rows, captions = [result.rows[0]], ["originals"]
            rows.append(result.rows[1])
            captions.append(f"{prompt}: {method}")
    save_picture(sheet(rows, captions=captions), IMAGES / "methods.webp")


def ways(folder: Path) -> None:
    """Two sentences, the three ways to a direction, each at its own strength; a table of three images."""
    generator, clip = Generator.from_pretrained("avatars"), Clip.from_pretrained("avatars")
    latents = generator.sample(len(SEEDS), seed=SEEDS)
    table = DirectionConfig(method="finite", images=3, table=folder / "table.safetensors")
    rows, captions = [generator.render(latents)], ["originals"]
    for prompt in PROMPTS[:2]:
        for config in (DirectionConfig(method="universal"), DirectionConfig(method="gradient"), table):
            edit = find_direction(generator, clip, prompt, config=config)
            rows.append(generator.render(edit(latents)))
            captions.append(f"{prompt}: {config.method}, {edit.provenance['channels']} channels")
    save_picture(sheet(rows, captions=captions), IMAGES / "ways.webp")


def stacked(folder: Path) -> None:
    """Two edits, each alone and both together; the second from a file."""
    first, second = PROMPTS[:2]
    file = folder / "blue.safetensors"
    blue = run(EditJob(second, seed=SEEDS))
    assert blue.edit is not None
    blue.edit.save(file)
    dark, both = run(EditJob(first, seed=SEEDS)), run(EditJob(first, seed=SEEDS, edit=(file,)))
    rows = [blue.rows[0], dark.rows[1], blue.rows[1], both.rows[1]]
    save_picture(sheet(rows, captions=["originals", first, second, "both"]), IMAGES / "stack.webp")


def main() -> None:
    import tempfile

    methods()
    with tempfile.TemporaryDirectory() as folder:
        stacked(Path(folder))
        ways(Path(folder))
    run(GridJob("a person with blue hair", seed=(2,))).save(IMAGES / "grid.webp")
    mean = ImagineJob("a person with green hair wearing sunglasses", seed=(1,), truncation=0.0)
    pictures = [run(mean).rows[0], run(replace(mean, seed=(1, 2, 3), truncation=0.4)).rows[0]]
    captions = [f"{mean.target}, from the mean latent", "from near it: truncation 0.4"]
    save_picture(sheet(pictures, captions=captions), IMAGES / "imagine.png")
    slider = SweepJob("a person wearing sunglasses", seed=(2, 5, 7), strengths=(0.0, 1.2), frames=10)
    run(replace(slider, direction=DirectionConfig(method="universal"))).save(IMAGES / "slider.gif")


if __name__ == "__main__":
    main()
