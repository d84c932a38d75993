"""What a latent mapper costs to train and to apply, and how much better its edits fit the sentence.

    python -m benchmarks.mapper [--out sheet.png]
    python -m benchmarks.mapper --training.clip-loss similarity

On the embedded avatars. The pictures that are scored are none of those the mapper was trained on, nor of those that
decided when it was best.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.measure import report
from stylograph import Clip, Generator
from stylograph.edit.mapper import train_mapper
from stylograph.edit.mapper_training import MapperTraining
from stylograph.losses import direction
from stylograph.metrics import Judge, leakage, success
from stylograph.render import save_picture, sheet

PROMPTS = {
    "a person wearing sunglasses": ("eyes", "sunglasses"),
    "a person with blue hair": ("hair_colour", "blue"),
    "a person with a big smile": ("mouth", "bigSmile"),
}
"""Sentence -> attribute and value the judge looks for."""
NEUTRAL = "a person"
UNSEEN = 900_001
"""First seed of the pictures that are scored."""


@dataclass(frozen=True)
class Options:
    images: int = 128
    """Unseen pictures the edits are scored on."""
    training: MapperTraining = field(default_factory=MapperTraining)
    threads: int = 1
    out: Path | None = None
    """Where to put a picture of originals and edits."""


def milliseconds(function: Callable[[Any], Any], given: Any, *, repeats: int = 21) -> float:
    """Median of `repeats` calls after two to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function(given)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[2:])


@torch.no_grad()
def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    generator, clip = Generator.from_pretrained("avatars"), Clip.from_pretrained("avatars")
    codes = generator.sample(options.images, seed=UNSEEN)
    before = generator.render(codes).clamp(-1, 1)
    seen = clip.embed_images(before)
    judge = Judge.from_pretrained("avatars")
    opinion = judge.probabilities(before)
    rows: list[dict[str, Any]] = []
    shown: list[Tensor] = [before[:8]]
    for prompt, (attribute, value) in PROMPTS.items():
        start, busy = time.perf_counter(), time.process_time()
        with torch.enable_grad():
            edit = train_mapper(generator, clip, prompt, neutral=NEUTRAL, config=options.training)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        after = generator.render(edit(codes)).clamp(-1, 1)
        fits = clip.embed_images(after)
        sentence = clip.embed_text(prompt)[0]
        wanted = clip.text_direction(prompt, NEUTRAL)
        second = judge.probabilities(after)
        index = judge.value(attribute, value)
        other = opinion[attribute].argmax(1) != index  # the rest have it already
        changed = leakage(opinion, second, hidden=judge.hidden, exempt=(attribute,))
        one, many = generator.sample(1, seed=UNSEEN), generator.sample(32, seed=UNSEEN)
        rows.append(
            {
                "prompt": prompt,
                "steps": edit.provenance["steps"],
                "train s": seconds,
                "train CPU s": busy,
                "similarity before": float((seen @ sentence).mean()),
                "after": float((fits @ sentence).mean()),
                "directional": float((direction(fits, seen) @ wanted).mean()),
                "reached": float(success(second, attribute, index)[other].float().mean()),
                "leakage": changed.share,
                "rms": float((after - before).square().mean().sqrt()),
                "apply 1 ms": milliseconds(edit, one),
                "apply 32 ms": milliseconds(edit, many),
                "render 1 ms": milliseconds(generator.render, one),
                "render 32 ms": milliseconds(generator.render, many, repeats=5),
                "file kB": sum(4 * tensor.numel() for tensor in edit.net.state_dict().values()) / 1000,
            }
        )
        shown.append(after[:8])
    loss = options.training.clip_loss
    report(
        "mapper" if loss == MapperTraining.clip_loss else f"mapper_{loss}",
        rows,
        images=options.images,
        columns={
            "similarity before, after": "mean cosine of picture and sentence",
            "directional": "cosine of the change of the picture with that of the sentence",
            "reached": "share of the pictures without the attribute in which the judge finds it after the edit",
            "leakage": "share of the judge's other decisions that changed",
        },
    )
    if options.out:
        save_picture(sheet(shown, captions=["original", *PROMPTS]), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
