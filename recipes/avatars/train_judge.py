"""Train the judge: an attribute classifier that scores edits and is never part of a loss.

It shares neither weights, seed nor architecture with the small CLIP that guides edits and the feature network the
generator's discriminator looked through. ``python -m recipes.avatars.train_judge`` writes ``judge.safetensors``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from recipes.avatars.attributes import ATTRIBUTES, HAIR_COLOUR_HIDDEN, MOUTH_HIDDEN
from recipes.avatars.augment import augment
from recipes.avatars.render import HELD_OUT, WORK, half_size, load_set
from recipes.avatars.train_features import attribute_loss, seen_labels, to_tensor
from stylograph.assets import ASSETS
from stylograph.files import save_tensors
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
    steps: int = 1100
    """Training steps."""
    batch: int = 64
    """Pictures per step."""
    lr: float = 4e-3
    """Peak learning rate of AdamW (one-cycle cosine)."""
    strength: float = 0.5
    """Strength of the distortions on half of every batch; the other half is only softened."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels at 32, 16 and 8 pixels."""
    seed: int = 17
    """Seed of weights, batches and distortions; another one than the other networks have."""
    save_every: int = 300
    """Steps between two tables and files."""


def half_renders(work: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All personas at half their size, uint8 [N, H/2, W/2, 3], with their labels."""
    personas = load_set("personas", work=work)
    count = len(personas.images)
    return np.concatenate([half_size(personas.images[s : s + 1000]) for s in range(0, count, 1000)]), personas.labels


def training_share(count: int) -> int:
    """How many of `count` personas are trained on: all but the held-out ones, half of a set too small for that."""
    return count - HELD_OUT if count > 2 * HELD_OUT else count // 2


def blur(images: torch.Tensor) -> torch.Tensor:
    """3x3 average of [N, 3, H, W], edges repeated: a Gaussian of about 0.8 pixels."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def soften(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Move every image [N, 3, H, W] by a random part of the way to its blur, a third of them on to a second blur."""
    once = blur(images)
    images = torch.lerp(images, once, torch.rand((len(images), 1, 1, 1), generator=rng))
    share = len(images) // 3
    return torch.cat([torch.lerp(once[:share], blur(once[:share]), 0.7), images[share:]])


def distort(images: torch.Tensor, rng: torch.Generator, *, strength: float) -> torch.Tensor:
    """First half of the batch [N, 3, H, W]: `augment`; second half: softened, as a small generator's pictures are."""
    half = len(images) // 2
    return torch.cat([augment(images[:half], rng, strength=strength), soften(images[half:], rng)])


def tell(network: Recogniser, images: np.ndarray, change: Any = None) -> dict[str, torch.Tensor]:
    """Decisions [N] by attribute for uint8 pictures [N, H, W, 3], changed by `change` first."""
    network.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 250):
            batch = to_tensor(images[start : start + 250])
            found.append({k: v.argmax(1) for k, v in network(change(batch) if change else batch).items()})
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def accuracy(guesses: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of right decisions by attribute, where it can be seen (label not -100)."""
    return {n: (g == labels[n])[labels[n] >= 0].float().mean().item() for n, g in guesses.items()}


def confusions(guesses: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], name: str) -> list[str]:
    """The five most frequent mistakes of an attribute as "true -> told: count"."""
    keys = [value.key for value in ATTRIBUTES[name].values]
    wrong = (guesses[name] != labels[name]) & (labels[name] >= 0)
    pairs = labels[name][wrong] * len(keys) + guesses[name][wrong]
    counts = torch.bincount(pairs, minlength=len(keys) ** 2)
    order = counts.argsort(descending=True, stable=True)[:5].tolist()
    return [f"{keys[i // len(keys)]} -> {keys[i % len(keys)]}: {counts[i]}" for i in order if counts[i]]


def report(network: Recogniser, images: np.ndarray, labels: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Print and return held-out accuracy, clean, blurred and distorted, and the worst attribute's mistakes."""
    rng = torch.Generator().manual_seed(0)
    changes: dict[str, Any] = {
        "clean": None,
        "blurred": lambda x: blur(blur(x)),
        "distorted": lambda x: augment(x, rng, strength=0.5),
    }
    scores = {}
    for title, change in changes.items():
        guesses = tell(network, images, change)
        scores[title] = accuracy(guesses, labels)
        worst = min(scores[title], key=lambda name: scores[title][name])
        line = "  ".join(f"{name} {100 * value:.1f}" for name, value in scores[title].items())
        print(f"{title:9s} {line}\n          {worst}: {', '.join(confusions(guesses, labels, worst))}", flush=True)
    return scores


def save(network: Recogniser, config: JudgeConfig, step: int, scores: dict[str, dict[str, float]]) -> None:
    """Write the judge in float16 with everything a user of it has to know."""
    record = {
        "config": network.config.to_dict(),
        "attributes": {name: [value.key for value in ATTRIBUTES[name].values] for name in JUDGED},
        "hidden": HIDDEN,
        "accuracy": {title: {k: round(v, 4) for k, v in row.items()} for title, row in scores.items()},
        "provenance": {
            "recipe": "recipes/avatars/train_judge.py",
            "data": "DiceBear style 'personas' by Draftbit, CC BY 4.0, drawn by recipes/avatars/render.py",
            "pictures_seen": step * config.batch,
        },
    }
    state = {k: v.half() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_tensors(config.out, state, "judge", record)


def train(config: JudgeConfig) -> dict[str, dict[str, float]]:
    """Train, save and return the held-out accuracy by kind of picture and attribute."""
    torch.manual_seed(config.seed)
    images, raw = half_renders(config.work)
    count = training_share(len(images))
    labels = {name: value for name, value in seen_labels(raw).items() if name in JUDGED}
    outputs = {name: len(ATTRIBUTES[name].values) for name in JUDGED}
    network = Recogniser(RecogniserConfig(outputs, size=images.shape[1], widths=config.widths, depth=1))
    network = network.to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in network.parameters())} parameters, {count} pictures", flush=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.steps, pct_start=0.15)
    rng = torch.Generator().manual_seed(config.seed)
    held = {name: value[count:] for name, value in labels.items()}
    scores: dict[str, dict[str, float]] = {}
    began = time.monotonic()
    for step in range(1, config.steps + 1):
        rows = torch.randint(count, (config.batch,), generator=rng)
        batch = distort(to_tensor(images[rows.numpy()]), rng, strength=config.strength)
        loss = attribute_loss(network.train()(batch), {name: value[rows] for name, value in labels.items()})
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - began:.0f} s", flush=True)
        if step % config.save_every == 0 or step == config.steps:
            scores = report(network, images[count:], held)
            save(network, config, step, scores)
    return scores


if __name__ == "__main__":
    import tyro

    train(tyro.cli(JudgeConfig))
