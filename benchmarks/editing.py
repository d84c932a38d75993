"""What an edit costs: applying it, moving its slider, finding it, and optimising at a lower resolution.

    python -m benchmarks.editing

On the embedded avatars, and at 1024² with random weights (config-F, a CLIP of ViT-B/32's size). The paper's table is
measured on two images and multiplied up to its hundred; the rest is measured as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import report, timed
from benchmarks.optimization_step import build_clip
from stylograph import Clip, Generator, OptimizeConfig, find_direction, optimize
from stylograph.edit.base import Shift
from stylograph.edit.config import MeasureConfig, UniversalConfig
from stylograph.edit.table import measure_table, movable
from stylograph.edit.universal import fit_universal
from stylograph.embed import Tower
from stylograph.nets.stylegan2 import StyleGAN2Config

PROMPT = "a person wearing sunglasses"


class FixedText(Clip):
    """A CLIP with random weights, for which every sentence is the same random vector."""

    def embed_text(self, prompts: str | Sequence[str], *, templates: bool | Sequence[str] = True) -> Tensor:
        return F.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(1)), dim=-1)


def large(dtype: torch.dtype) -> tuple[Generator, Clip]:
    channels = tuple(min(32768 // (4 << i), 512) for i in range(9))
    generator = Generator.random(StyleGAN2Config(1024, channels, 512, 512, (512,) * 8)).to(dtype=dtype)
    generator.net.mapping.w_avg.copy_(generator.w_samples(1000).mean(0))
    torch.manual_seed(0)
    tower = Tower("random", build_clip(dtype).requires_grad_(False), None, 224, (0.5,) * 3, (0.5,) * 3)
    return generator, FixedText([tower])


def slider(name: str, generator: Generator, edit: Shift) -> dict[str, Any]:
    """Milliseconds for one picture."""
    w = generator.sample(1)
    with torch.no_grad():
        moved = edit(w)
        apply = timed(lambda: edit(w), repeats=20)["seconds"]
        sweep = timed(lambda: edit.sweep(w, [0.5, 1.0, 1.5, 2.0]), repeats=20)["seconds"] / 4
        draw = timed(lambda: generator.render(moved), repeats=5)["seconds"]
    return {"model": name, "apply ms": 1e3 * apply, "per strength of a sweep ms": 1e3 * sweep, "render ms": 1e3 * draw}


def random_edit(generator: Generator) -> Shift:
    delta = torch.randn(generator.s_dim, generator=torch.Generator().manual_seed(0)) * movable(generator)
    layers = tuple((layer.name, layer.channels) for layer in generator.layers)
    return Shift(delta=delta, layers=layers, generator_digest=generator.digest, generator=generator)


def seconds(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def finding(generator: Generator, clip: Clip) -> list[dict[str, Any]]:
    """From a generator nobody has seen to the first edit: passes and seconds."""
    channels = int(movable(generator).sum())
    paper = 2 * 100 * channels
    two, _ = seconds(lambda: measure_table(generator, clip, config=MeasureConfig(images=2)))
    rows: list[dict[str, Any]] = [{"way": "finite (the paper's)", "passes": paper, "seconds": 50 * two}]
    took, _ = seconds(lambda: fit_universal(generator, clip))
    rows.append({"way": "universal", "passes": UniversalConfig.samples, "seconds": took})
    took, _ = seconds(lambda: find_direction(generator, clip, PROMPT, method="gradient"))
    rows.append({"way": "gradient, per sentence", "passes": 528, "seconds": took})
    return [row | {"fewer": paper / row["passes"], "faster": 50 * two / row["seconds"]} for row in rows]


def optimizing(steps: int = 6) -> list[dict[str, Any]]:
    """Latent optimization at 1024², judged in full and at 256²: time, and the similarity it reaches at 1024²."""
    generator, clip = large(torch.float32)
    w, text = generator.sample(1), clip.embed_text(PROMPT)[0]
    rows: list[dict[str, Any]] = []
    for up_to in (None, 256):
        config = OptimizeConfig(space="w+", steps=steps, patience=0, l2=0.0, up_to=up_to)
        took, edit = seconds(lambda c=config: optimize(generator, clip, w, PROMPT, config=c))
        with torch.no_grad():
            old, new = (float(clip.embed_images(generator.render(codes)) @ text) for codes in (w, edit(w)))
        rows.append(
            {"judged at": up_to or 1024, "seconds per step": took / (steps + 1), "similarity": new, "gain": new - old}
        )
    return [row | {"faster": rows[0]["seconds per step"] / row["seconds per step"]} for row in rows]


def main() -> None:
    generator, clip = Generator.from_pretrained("avatars"), Clip.from_pretrained("avatars")
    edit = find_direction(generator, clip, PROMPT)
    sliders = [slider("avatars, 64²", generator, edit)]
    big, _ = large(torch.float32)
    sliders.append(slider("random, 1024²", big, random_edit(big)))
    del big
    for name, rows in (("slider", sliders), ("finding", finding(generator, clip)), ("optimizing", optimizing())):
        print()
        report(f"editing_{name}", rows)


if __name__ == "__main__":
    main()
