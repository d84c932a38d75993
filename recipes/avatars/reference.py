"""Features of real drawings of the benchmark's domains, by the domain judge: what adapted generators are compared with.

The drawings are new ones that no network was trained on. ``python -m recipes.avatars.reference`` writes
``reference.safetensors``; write it again whenever the domain judge changes: the file names it by its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recipes.avatars.attributes import BACKGROUND, sample_labels
from recipes.avatars.render import draw, draw_persona
from recipes.avatars.styles import STYLES
from stylograph.benchmark.domains import DOMAINS, SHIPPED, SOURCE
from stylograph.benchmark.plugs import digest_of
from stylograph.domains import DomainJudge
from stylograph.files import save_tensors


@dataclass(frozen=True)
class ReferenceConfig:
    """What is drawn, and where its features go."""

    out: Path = SHIPPED
    """File to write."""
    judge: str = "avatars"
    """Domain judge: "avatars", or a file written by ``recipes.avatars.train_domains``."""
    count: int = 400
    """Drawings of every domain: as many as an adapted generator is asked for."""
    size: int = 128
    """Their side in pixels; the judge reduces them as it does everything."""
    seed: int = 20_261_124
    """Seed of the drawings; the training sets have 0."""


def drawings(style: str, config: ReferenceConfig) -> np.ndarray:
    """New drawings of a style (or of "personas"), uint8 [N, H, W, 3]."""
    if style == SOURCE:
        labels = sample_labels(config.count, seed=config.seed)
        rows = ({name: int(values[i]) for name, values in labels.items()} for i in range(config.count))
        return np.stack([draw_persona(row, size=config.size) for row in rows])
    rng, found = np.random.default_rng([config.seed, list(STYLES).index(style)]), []
    for number in range(config.count):
        ground = BACKGROUND.values[rng.integers(len(BACKGROUND.values))].colour
        options: dict[str, object] = {"seed": f"{config.seed}-{number}", "backgroundColor": [ground]}
        options.update(STYLES[style].options)
        found.append(draw(style, options, size=config.size)[0])
    return np.stack(found)


def write(config: ReferenceConfig, styles: Sequence[str] | None = None) -> Path:
    """Draws, looks and writes; float16, a few hundred kilobytes."""
    judge = DomainJudge.from_pretrained(config.judge)
    chosen = styles or [SOURCE, *(domain.style for domain in DOMAINS.values())]
    tensors = {}
    for style in chosen:
        pixels = torch.from_numpy(drawings(style, config)).permute(0, 3, 1, 2)
        features = torch.cat([judge.features(part.float() / 127.5 - 1) for part in pixels.split(100)])
        told = torch.cat([judge.probabilities(part.float() / 127.5 - 1) for part in pixels.split(100)]).argmax(1)
        tensors[style] = features.half()
        right = float((told == judge.names.index(style)).float().mean())
        print(f"{style}: {len(features)} drawings, {100 * right:.1f} % named rightly", flush=True)
    record = {
        "judge": digest_of(judge),
        "seed": config.seed,
        "size": config.size,
        "recipe": "recipes/avatars/reference.py",
    }
    return save_tensors(config.out, tensors, "reference", record)


if __name__ == "__main__":
    import tyro

    place = write(tyro.cli(ReferenceConfig))
    print(f"wrote {place}, {place.stat().st_size} bytes; then: python -m recipes.avatars.manifest")
