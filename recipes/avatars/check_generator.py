"""What the generator draws beside what it should draw: a sheet to look at, KID, and how often every attribute occurs.

``python -m recipes.avatars.check_generator --sheet docs/images/avatars-samples.webp`` prints the tables of the model card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.avatars import sheet
from recipes.avatars.attributes import ATTRIBUTES
from recipes.avatars.render import WORK
from stylograph.assets import ASSETS
from stylograph.domains import DomainJudge, diversity, kid
from stylograph.generator import Generator
from stylograph.metrics import Judge, visible


@dataclass(frozen=True)
class CheckGeneratorConfig:
    """Which generator to look at, and how."""

    assets: Path = ASSETS / "avatars"
    """Folder with the generator, the judge and the domain judge."""
    work: Path = WORK
    """Folder with the rendered sets."""
    count: int = 2000
    """Pictures of either kind."""
    seed: int = 3
    """Seed of the latents."""
    sheet: Path | None = None
    """Picture to write: 8 x 8 held-out drawings on the left, 8 x 8 samples on the right."""


def frequencies(judge: Judge, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """How often the judge sees every value, [values] by attribute, where the attribute can be seen."""
    told = judge.probabilities(images)
    seen = visible(told, judge.hidden)
    counts = {
        name: torch.bincount(table.argmax(1)[seen[name]], minlength=table.shape[1]).float()
        for name, table in told.items()
    }
    return {name: count / count.sum() for name, count in counts.items()}


def _pictures(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def check(config: CheckGeneratorConfig) -> None:
    """Print the tables, and write the sheet."""
    generator = Generator.from_pretrained(config.assets / "generator.safetensors")
    drawings = sheet.held_out(generator.resolution, work=config.work)[: config.count].copy()
    count = len(drawings)
    samples = {psi: sheet.sample(generator.net, count, psi=psi, seed=config.seed) for psi in (1.0, 0.7)}
    if config.sheet is not None:
        grids = [sheet.grid(one, 8) for one in (drawings, samples[0.7])]
        gap = np.full((len(grids[0]), 24, 3), 255, np.uint8)
        picture = Image.fromarray(np.concatenate([grids[0], gap, grids[1]], axis=1))
        config.sheet.parent.mkdir(parents=True, exist_ok=True)
        picture.save(config.sheet, quality=88)
    judge = Judge.from_pretrained(config.assets / "judge.safetensors")
    domains = DomainJudge.from_pretrained(config.assets / "domains.safetensors")
    sets = {"drawings": _pictures(drawings)} | {f"samples, {psi}": _pictures(one) for psi, one in samples.items()}
    features = {name: domains.features(images) for name, images in sets.items()}
    random = {name: sheet.embed(one, sheet.random_features()) for name, one in zip(sets, (drawings, *samples.values()))}
    told = {name: frequencies(judge, images) for name, images in sets.items()}
    some, size = min(500, count), min(200, count // 4)
    half = count // 2
    print("| | KID, domain judge | KID, random features | diversity | told personas |\n|---|---|---|---|---|")
    for name in sets:
        same = name == "drawings"  # against each other: what no difference looks like
        a, b = (features[name][:half], features[name][half:]) if same else (features["drawings"], features[name])
        c, d = (random[name][:half], random[name][half:]) if same else (random["drawings"], random[name])
        own = (domains.probabilities(sets[name]).argmax(1) == domains.names.index("personas")).float().mean()
        far = kid(a, b, size=size).mean
        spread = diversity(features[name][:some], clusters=min(10, some // 2))
        print(f"| {name} | {far:.2f} | {sheet.kid(c, d):.4f} | {spread:.1f} | {100 * own:.1f} % |")
    print("\n| attribute | rarest value, drawings -> samples at 1 | total variation, % | of the drawings' halves |")
    print("|---|---|---|---|")
    halves = [frequencies(judge, sets["drawings"][part::2]) for part in (0, 1)]
    for name, wanted in told["drawings"].items():
        found = told["samples, 1.0"][name]
        worst = int((found - wanted).argmin())
        key = ATTRIBUTES[name].values[worst].key
        off, noise = (50 * float((a - b).abs().sum()) for a, b in ((wanted, found), (halves[0][name], halves[1][name])))
        print(f"| {name} | {key}: {100 * wanted[worst]:.1f} -> {100 * found[worst]:.1f} % | {off:.1f} | {noise:.1f} |")


if __name__ == "__main__":
    import tyro

    check(tyro.cli(CheckGeneratorConfig))
