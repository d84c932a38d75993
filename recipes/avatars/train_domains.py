"""Train the domain judge: which drawing style a picture shows, and features to measure distances with.

It scores domain adaptation and is never part of a loss; it shares neither weights, seed nor widths with the CLIP that
guides adaptation. Besides the style it learns the attributes of personas and an 8x8 thumbnail of every picture: with
styles alone all pictures of a style would end in one point, and a collapsed generator could not be told from a varied
one. ``python -m recipes.avatars.train_domains`` writes ``domains.safetensors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from recipes.avatars.attributes import ATTRIBUTES
from recipes.avatars.recogniser_training import (
    accuracy,
    conditions,
    confusions,
    distort,
    fit,
    half_renders,
    look,
    save,
)
from recipes.avatars.render import HELD_OUT_STYLES, WORK, training_share
from recipes.avatars.styles import PERSONA_STYLE, STYLES
from recipes.avatars.train_features import attribute_loss, seen_labels, to_tensor
from recipes.avatars.train_judge import JUDGED
from stylograph.assets import ASSETS
from stylograph.nets.recogniser import Recogniser, RecogniserConfig

NAMES = ("personas", *STYLES)
"""The domains in the order of the values of the output `style`."""
WORDS = (PERSONA_STYLE[0], *(style.words[0] for style in STYLES.values()))
"""The plainest words of each domain."""
CELLS = 8
"""Side of the thumbnail."""


@dataclass(frozen=True)
class DomainsConfig:
    """How the domain judge is trained."""

    work: Path = WORK
    """Folder with the rendered sets."""
    out: Path = ASSETS / "avatars" / "domains.safetensors"
    """File to write."""
    steps: int = 1250
    """Training steps."""
    batch: int = 64
    """Pictures per step, half of them personas, the others uniform over the other styles."""
    lr: float = 4e-3
    """Peak learning rate of AdamW (one-cycle cosine)."""
    strength: float = 0.5
    """Strength of the distortions on half of every batch; the other half is only softened."""
    attributes: float = 0.3
    """Weight of the summed cross entropies of the attributes, beside 1 for that of the style."""
    thumbnail: float = 10.0
    """Weight of the thumbnail's mean squared error (values in [-1, 1])."""
    grounds: float = 0.3
    """Share of pictures that get another background colour, a third of these white: renders have only six."""
    widths: tuple[int, ...] = (28, 56, 112)
    """Channels at 32, 16 and 8 pixels; others than the other networks have."""
    hidden: int = 192
    """Length of the features."""
    seed: int = 43
    """Seed of weights, batches and distortions; another one than the other networks have."""


class Pictures:
    """Both rendered sets: the first `people` and `others` of them are to be trained on."""

    def __init__(self, work: Path) -> None:
        self.personas, labels = half_renders("personas", work)
        self.strange, strange = half_renders("styles", work)
        self.people = training_share(len(self.personas))
        self.others = training_share(len(self.strange), HELD_OUT_STYLES)
        self.labels = {name: value for name, value in seen_labels(labels).items() if name in JUDGED}
        self.styles = torch.from_numpy(strange["style"]) + 1

    def draw(self, count: int, rng: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A training batch [2·(count/2), 3, H, W], personas and others in turn, and its labels (-100: none).

        The other styles are interleaved in their set, so uniform rows are uniform styles.
        """
        half = count // 2
        rows = torch.randint(self.people, (half,), generator=rng)
        strange = torch.randint(self.others, (half,), generator=rng)
        images = np.stack([self.personas[rows.numpy()], self.strange[strange.numpy()]], axis=1)
        return to_tensor(images.reshape(-1, *images.shape[2:])), self._labels(rows, strange, in_turn=True)

    def held_out(self) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """What is not trained on, uint8 [N, H, W, 3], personas first, and its labels."""
        rows = torch.arange(self.people, len(self.personas))
        strange = torch.arange(self.others, len(self.strange))
        return np.concatenate([self.personas[self.people :], self.strange[self.others :]]), self._labels(rows, strange)

    def _labels(self, rows: torch.Tensor, strange: torch.Tensor, *, in_turn: bool = False) -> dict[str, torch.Tensor]:
        none = torch.full_like(strange, -100)
        pairs = {"style": (torch.zeros_like(rows), self.styles[strange])}
        pairs |= {name: (value[rows], none) for name, value in self.labels.items()}
        return {n: torch.stack(pair, 1).flatten() if in_turn else torch.cat(pair) for n, pair in pairs.items()}


def reground(
    images: torch.Tensor, labels: dict[str, torch.Tensor], rng: torch.Generator, *, share: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Give a share of the pictures [N, 3, H, W] another background; their label `background` becomes -100.

    Background is whatever has the colour of the upper left corner; smooth outlines keep a fringe of the old colour.
    """
    count = len(images)
    colour = torch.rand((count, 3, 1, 1), generator=rng) * 2 - 1
    colour[torch.rand(count, generator=rng) < 1 / 3] = 1.0
    chosen = torch.rand(count, generator=rng) < share
    ground = ((images - images[:, :, :1, :1]).abs() < 0.01).all(1, keepdim=True) & chosen[:, None, None, None]
    return torch.where(ground, colour, images), labels | {"background": labels["background"].masked_fill(chosen, -100)}


def thumbnails(images: torch.Tensor) -> torch.Tensor:
    """Averages of `CELLS` x `CELLS` fields of [N, 3, H, W], flattened to [N, 3·CELLS²]."""
    return F.adaptive_avg_pool2d(images, CELLS).flatten(1)


def domain_loss(
    outputs: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], clean: torch.Tensor, config: DomainsConfig
) -> torch.Tensor:
    """Style, attributes and thumbnail of a batch of which `clean` are the undistorted pictures [N, 3, H, W]."""
    style = F.cross_entropy(outputs["style"], labels["style"])
    attributes = attribute_loss({name: outputs[name] for name in JUDGED}, labels)
    error = F.mse_loss(outputs["thumbnail"], thumbnails(clean))
    return style + config.attributes * attributes + config.thumbnail * error


def report(network: Recogniser, pictures: Pictures) -> dict[str, Any]:
    """Print and return what is measured on held-out pictures, by kind of picture.

    Shares of right styles among "personas" and "others", of right attributes on average, and how much of the
    thumbnails' variance is told (R²).
    """
    images, labels = pictures.held_out()
    truth = thumbnails(to_tensor(images))
    spread = (truth - truth.mean(0)).square().mean()
    persona = labels["style"] == 0
    scores = {}
    for title, change in conditions():
        outputs = look(network, images, change)
        told = {name: outputs[name].argmax(1) for name in labels}
        right = (told["style"] == labels["style"]).float()
        shares = accuracy(told, labels)
        scores[title] = {
            "personas": right[persona].mean().item(),
            "others": right[~persona].mean().item(),
            "attributes": float(np.mean([shares[name] for name in JUDGED])),
            "thumbnail": 1 - ((outputs["thumbnail"] - truth).square().mean() / spread).item(),
        }
        line = "  ".join(f"{name} {100 * value:.1f}" for name, value in scores[title].items())
        print(
            f"{title:9s} {line}\n          {', '.join(confusions(told['style'], labels['style'], NAMES))}", flush=True
        )
        print("          " + "  ".join(f"{name} {100 * shares[name]:.1f}" for name in JUDGED), flush=True)
    return scores


def train(config: DomainsConfig) -> dict[str, Any]:
    """Train, save and return the table of `report`."""
    torch.manual_seed(config.seed)
    pictures = Pictures(config.work)
    outputs = {"style": len(NAMES), **{name: len(ATTRIBUTES[name].values) for name in JUDGED}}
    outputs["thumbnail"] = 3 * CELLS**2
    size = pictures.personas.shape[1]
    shape = RecogniserConfig(outputs, size=size, widths=config.widths, depth=1, hidden=config.hidden)
    network = Recogniser(shape).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in network.parameters())} parameters, {pictures.people} personas, ", end="")
    print(f"{pictures.others} others", flush=True)
    rng = torch.Generator().manual_seed(config.seed)

    def loss() -> torch.Tensor:
        clean, labels = reground(*pictures.draw(config.batch, rng), rng, share=config.grounds)
        return domain_loss(network(distort(clean, rng, strength=config.strength)), labels, clean, config)

    fit(network, loss, steps=config.steps, lr=config.lr)
    scores = report(network, pictures)
    save(
        config.out,
        network,
        "domains",
        recipe="train_domains",
        sources=("personas", "styles"),
        pictures_seen=config.steps * 2 * (config.batch // 2),
        record={
            "names": NAMES,
            "words": WORDS,
            "accuracy": {title: {k: round(v, 4) for k, v in row.items()} for title, row in scores.items()},
        },
    )
    return scores


if __name__ == "__main__":
    import tyro

    train(tyro.cli(DomainsConfig))
