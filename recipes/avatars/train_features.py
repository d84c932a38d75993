"""Train a small residual CNN on the attributes of renders; a discriminator looks through it at generated pictures.

It never sees text and shares nothing with the CLIP that guides and judges edits.
``python -m recipes.avatars.train_features`` writes ``.work/features.safetensors``.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from recipes.avatars.attributes import ATTRIBUTES, visible_mask
from recipes.avatars.augment import augment
from recipes.avatars.render import WORK, half_size, load_set, training_share

WIDTHS = (24, 32, 64, 128, 192)
"""Channels at 64, 32, 16, 8 and 4 pixels."""


@dataclass(frozen=True)
class FeaturesConfig:
    """How the feature network is trained."""

    work: Path = WORK
    """Folder with the rendered sets; receives ``features.safetensors``."""
    steps: int = 900
    """Training steps."""
    batch: int = 128
    """Pictures per step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW (one-cycle cosine)."""
    strength: float = 0.8
    """Strength of the distortions."""
    seed: int = 0
    """Seed of batches and distortions."""
    go_on: bool = False
    """Start from the stored network instead of random weights; choose another seed then."""


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip, then 2x2 averaging: [N, C, H, W] to [N, C', H/2, W/2]."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.skip = nn.Conv2d(width, out, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.leaky_relu(self.first(x), 0.1))
        return F.avg_pool2d(F.leaky_relu(self.skip(x) + y, 0.1), 2)


class FeatureNet(nn.Module):
    """Images [N, 3, 64, 64] in [-1, 1] to [32 @ 32x32, 64 @ 16x16, 128 @ 8x8] feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, padding=1)
        self.stages = nn.ModuleList(Residual(a, b) for a, b in pairwise(WIDTHS))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(WIDTHS[-1], len(attribute.values)) for name, attribute in ATTRIBUTES.items()}
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The three intermediate feature maps."""
        return self._maps(images)[:3]

    def logits(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of every attribute by name."""
        pooled = self._maps(images)[-1].mean((2, 3))
        return {name: head(pooled) for name, head in self.heads.items()}

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        x = F.leaky_relu(self.stem(images), 0.1)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def load_features(path: Path) -> FeatureNet:
    """The trained network from `path`, frozen, in evaluation mode, float32; its gradients w.r.t. images flow."""
    with safe_open(path, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
    network = FeatureNet()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1], channels-last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def attribute_loss(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum over attributes of the cross entropy; label -100 marks what cannot be seen."""
    losses = [F.cross_entropy(logits[name].float(), labels[name], ignore_index=-100) for name in logits]
    return torch.stack(losses).sum()


def seen_labels(labels: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Labels as tensors, -100 where the attribute is hidden in the picture."""
    return {name: torch.from_numpy(np.where(visible_mask(labels, name), labels[name], -100)) for name in ATTRIBUTES}


def accuracy(network: FeatureNet, images: np.ndarray, labels: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of right answers by attribute, over what can be seen."""
    network.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 250):
            logits = network.logits(to_tensor(images[start : start + 250]))
            found.append({name: value.argmax(1) for name, value in logits.items()})
    result = {}
    for name in ATTRIBUTES:
        guess, shown = torch.cat([part[name] for part in found]), labels[name] >= 0
        result[name] = (guess == labels[name])[shown].float().mean().item()
    return result


def train(config: FeaturesConfig) -> dict[str, float]:
    """Train, save and return the held-out accuracy by attribute."""
    torch.manual_seed(config.seed)
    personas = load_set("personas", work=config.work)
    count = training_share(len(personas.images))
    images = np.concatenate([half_size(personas.images[s : s + 2000]) for s in range(0, len(personas.images), 2000)])
    labels = seen_labels(personas.labels)
    target = config.work / "features.safetensors"
    network = load_features(target).requires_grad_(True) if config.go_on else FeatureNet()
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.steps, pct_start=0.1)
    rng = torch.Generator().manual_seed(config.seed)
    began = time.monotonic()
    for step in range(config.steps):
        rows = torch.randint(count, (config.batch,), generator=rng)
        batch = augment(to_tensor(images[rows.numpy()]), rng, strength=config.strength)
        network.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network.logits(batch.contiguous(memory_format=torch.channels_last))
        loss = attribute_loss(logits, {name: value[rows] for name, value in labels.items()})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - began:.0f} s", flush=True)
    held = {name: value[count:] for name, value in labels.items()}
    scores = accuracy(network, images[count:], held)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    metadata = {"widths": json.dumps(WIDTHS), "accuracy": json.dumps(scores)}
    save_file(state, target.with_suffix(".tmp"), metadata=metadata)
    target.with_suffix(".tmp").replace(target)
    print({name: round(value, 3) for name, value in scores.items()}, flush=True)
    return scores


if __name__ == "__main__":
    import tyro

    train(tyro.cli(FeaturesConfig))
