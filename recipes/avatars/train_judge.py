"""Train the judge: an attribute classifier that scores edits and is never part of a loss.

It shares neither weights, seed nor architecture with the small CLIP that guides edits and the feature network the
generator's discriminator looked through. ``python -m recipes.avatars.train_judge`` writes ``judge.safetensors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recipes.avatars.attributes import ATTRIBUTES, HAIR_COLOUR_HIDDEN, MOUTH_HIDDEN
from recipes.avatars.recogniser_training import (
    accuracy,
    coarser,
    conditions,
    confusions,
    distort,
    fit,
    look,
    save,
)
from recipes.avatars.render import WORK, load_set, training_share
from recipes.avatars.train_features import attribute_loss, seen_labels, to_tensor
from stylograph.assets import ASSETS
from stylograph.nets.recogniser import Recogniser, RecogniserConfig

JUDGED = tuple(name for name in ATTRIBUTES if name != "nose")
"""The three noses differ in a few pale pixels: nobody can judge them."""
HIDDEN = {
    "hair_colour": {"attribute": "hair_style", "values": list(HAIR_COLOUR_HIDDEN)},
    "mouth": {"attribute": "facial_hair", "values": list(MOUTH_HIDDEN)},
}
"""Attribute -> the other attribute whose values hide it; goes into the file with the weights."""


@dataclass(frozen=True)
class JudgeConfig:
    """How the judge is trained."""

    work: Path = WORK
    """Folder with the rendered sets."""
    out: Path = ASSETS / "avatars" / "judge.safetensors"
    """File to write."""
    steps: int = 1600
    """Training steps."""
    batch: int = 64
    """Pictures per step."""
    lr: float = 4e-3
    """Peak learning rate of AdamW (one-cycle cosine)."""
    strength: float = 0.5
    """Strength of the distortions on half of every batch; the other half is only softened."""
    widths: tuple[int, ...] = (24, 48, 96, 128)
    """Channels at 64, 32, 16 and 8 pixels."""
    bf16: bool = False
    """Train in bfloat16; fifteen times slower on a CPU without instructions for it."""
    seed: int = 17
    """Seed of weights, batches and distortions; another one than the other networks have."""
    save_every: int = 300
    """Steps between two tables and files."""


def report(network: Recogniser, images: np.ndarray, labels: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Print and return held-out accuracy, clean, blurred and distorted, and the worst attribute's mistakes."""
    scores = {}
    for title, change in conditions():
        guesses = {name: logits.argmax(1) for name, logits in look(network, images, change).items()}
        scores[title] = accuracy(guesses, labels)
        worst = min(scores[title], key=lambda name: scores[title][name])
        line = "  ".join(f"{name} {100 * value:.1f}" for name, value in scores[title].items())
        mistakes = confusions(guesses[worst], labels[worst], [value.key for value in ATTRIBUTES[worst].values])
        print(f"{title:9s} {line}\n          {worst}: {', '.join(mistakes)}", flush=True)
    return scores


def train(config: JudgeConfig) -> dict[str, dict[str, float]]:
    """Train, save and return the held-out accuracy by kind of picture and attribute."""
    torch.manual_seed(config.seed)
    drawn = load_set("personas", work=config.work)
    images = drawn.images
    count = training_share(len(images))
    labels = {name: value for name, value in seen_labels(drawn.labels).items() if name in JUDGED}
    outputs = {name: len(ATTRIBUTES[name].values) for name in JUDGED}
    network = Recogniser(RecogniserConfig(outputs, size=images.shape[1], widths=config.widths, depth=1))
    network = network.to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in network.parameters())} parameters, {count} pictures", flush=True)
    rng = torch.Generator().manual_seed(config.seed)
    held = {name: value[count:] for name, value in labels.items()}
    scores: dict[str, dict[str, float]] = {}

    def loss() -> torch.Tensor:
        rows = torch.randint(count, (config.batch,), generator=rng)
        batch = distort(coarser(to_tensor(images[rows.numpy()]), rng), rng, strength=config.strength)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            return attribute_loss(network(batch), {name: value[rows] for name, value in labels.items()})

    def keep(step: int) -> None:
        if step % config.save_every and step != config.steps:
            return
        scores.update(report(network, images[count:], held))
        record = {
            "attributes": {name: [value.key for value in ATTRIBUTES[name].values] for name in JUDGED},
            "hidden": HIDDEN,
            "accuracy": {title: {k: round(v, 4) for k, v in row.items()} for title, row in scores.items()},
        }
        save(config.out, network, "judge", recipe="train_judge", pictures_seen=step * config.batch, record=record)

    fit(network, loss, steps=config.steps, lr=config.lr, on_step=keep)
    return scores


if __name__ == "__main__":
    import tyro

    train(tyro.cli(JudgeConfig))
