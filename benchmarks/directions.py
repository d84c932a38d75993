"""How well the gradient way to channel relevance agrees with the paper's finite differences, and what each costs.

    python -m benchmarks.directions [--images 100]

On the embedded avatars. The table of the finite way does not depend on the text, so it is made once for all prompts.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from benchmarks.measure import report
from stylograph import Clip, DirectionConfig, Generator
from stylograph.edit.directions import agreement, relevance, relevance_table

PROMPTS = (
    "a person wearing sunglasses",
    "a person wearing glasses",
    "a person with a beard",
    "a person with blond hair",
    "a person with blue hair",
    "a bald person",
    "a person with long hair",
    "a smiling person",
    "a person wearing a red shirt",
    "a person with dark skin",
)
NEUTRAL = "a person"


@dataclass(frozen=True)
class Options:
    images: int = 32
    """Images the finite differences are averaged over (the paper: 100)."""
    gradient_images: int = 24
    """Images of the gradient way."""
    model: str = "avatars"
    clip: str = "avatars"


def main(options: Options) -> None:
    generator, clip = Generator.from_pretrained(options.model), Clip.from_pretrained(options.clip)
    channels = sum(layer.channels for layer in generator.layers if not layer.to_rgb)
    start = time.perf_counter()
    table = relevance_table(generator, clip, config=DirectionConfig(method="finite", images=options.images))
    finite_seconds = time.perf_counter() - start
    gradient = DirectionConfig(images=options.gradient_images)
    rows: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        with warnings.catch_warnings(record=True) as unknown:
            warnings.simplefilter("always")
            wanted = clip.text_direction(prompt, NEUTRAL)
        start = time.perf_counter()
        fast = relevance(generator, clip, wanted, config=gradient)
        seconds = time.perf_counter() - start
        found = agreement(table @ wanted, fast)
        rows.append({"prompt": prompt, **found, "gradient seconds": seconds, "unknown words": len(unknown)})
    means = {
        k: sum(row[k] for row in rows) / len(rows)
        for k in ("correlation", "rank_correlation", "top_overlap", "gradient seconds")
    }
    rows.append({"prompt": "mean", **means})
    report(
        "directions",
        rows,
        channels=channels,
        finite={"seconds": finite_seconds, "images": options.images, "generator_passes": 2 * channels * options.images},
        gradient={
            "images": options.gradient_images,
            "passes": options.gradient_images * gradient.steps,
        },
    )
    print(
        f"\n{channels} channels. Finite differences: {options.images} images, {finite_seconds:.0f} s once per generator, "
        f"{2 * channels * options.images} (partial) passes.\nGradient: {options.gradient_images} images, "
        f"{means['gradient seconds']:.1f} s per sentence, "
        f"{options.gradient_images * gradient.steps} forward and backward passes."
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main(tyro.cli(Options, description=__doc__))
