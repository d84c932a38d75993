"""What the recipes of judge, identity net, domain judge and inverter share: held-out sets, distortions, the loop, decisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from recipes.avatars.augment import augment
from recipes.avatars.render import half_size, load_set
from recipes.avatars.train_features import to_tensor
from stylograph.files import replacing, save_tensors
from stylograph.nets.inverter import Inverter
from stylograph.nets.recogniser import Recogniser

SOURCES = {
    "personas": "DiceBear style 'personas' by Draftbit, CC BY 4.0, drawn by recipes/avatars/render.py",
    "styles": "DiceBear styles named in ATTRIBUTION.md, drawn by recipes/avatars/render.py",
}
"""What the pictures of a rendered set are; goes into the files with the weights."""

SAVE_SECONDS = 120.0
Change = Callable[[torch.Tensor], torch.Tensor]


def half_renders(what: Literal["personas", "styles"], work: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All pictures of a set at half their size, uint8 [N, H/2, W/2, 3], with their labels."""
    drawn = load_set(what, work=work)
    count = len(drawn.images)
    return np.concatenate([half_size(drawn.images[s : s + 1000]) for s in range(0, count, 1000)]), drawn.labels


def blur(images: torch.Tensor) -> torch.Tensor:
    """3x3 average of [N, 3, H, W], edges repeated: a Gaussian of about 0.8 pixels."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def soften(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Move every image [N, 3, H, W] by a random part of the way to its blur, a third of them on to a second blur."""
    once = blur(images)
    images = torch.lerp(images, once, torch.rand((len(images), 1, 1, 1), generator=rng))
    share = len(images) // 3
    return torch.cat([torch.lerp(once[:share], blur(once[:share]), 0.7), images[share:]])


def coarser(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Half of the pictures [N, 3, H, W], at random, seen at half the resolution and enlarged again."""
    small = F.interpolate(F.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(torch.rand((len(images), 1, 1, 1), generator=rng) < 0.5, small, images)


def distort(images: torch.Tensor, rng: torch.Generator, *, strength: float) -> torch.Tensor:
    """First half of the batch [N, 3, H, W]: `augment`; second half: softened, as a small generator's pictures are."""
    half = len(images) // 2
    return torch.cat([augment(images[:half], rng, strength=strength), soften(images[half:], rng)])


def conditions() -> Iterator[tuple[str, Change]]:
    """The three kinds of picture held-out accuracy is told for, with what makes them of clean ones."""
    rng = torch.Generator().manual_seed(0)
    yield "clean", lambda images: images
    yield "blurred", lambda images: blur(blur(images))
    yield "distorted", lambda images: augment(images, rng, strength=0.5)


def fit(
    network: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    *,
    steps: int,
    lr: float,
    on_step: Callable[[int], None] | None = None,
    state: Path | None = None,
) -> None:
    """Train with AdamW on a one-cycle schedule; prints the loss now and then.

    loss: draws a batch and returns the scalar loss of `network`, which is in training mode when it is called.
    lr: peak learning rate. on_step: called after every step with its number, from 1.
    state: file to keep the training in, every other minute, and to go on from; batches are drawn anew then.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.15)
    parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
    done = 0
    if state is not None and state.exists():
        kept = torch.load(state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        done = kept["step"]
    began = saved = time.monotonic()
    for step in range(done + 1, steps + 1):
        network.train()
        error = loss()
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step} loss {error.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
        if on_step is not None:
            on_step(step)
        if state is not None and (time.monotonic() - saved > SAVE_SECONDS or step == steps):
            state.parent.mkdir(parents=True, exist_ok=True)
            with replacing(state) as temporary:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, temporary)
            saved = time.monotonic()


def look(network: Recogniser, images: np.ndarray, change: Change | None = None) -> dict[str, torch.Tensor]:
    """Outputs [N, width] by name for uint8 pictures [N, H, W, 3], changed by `change` first."""
    network.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 250):
            batch = to_tensor(images[start : start + 250])
            found.append(network(change(batch) if change else batch))
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def accuracy(guesses: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of right decisions by name of the label, where it can be seen (label not -100)."""
    return {n: (g == labels[n])[labels[n] >= 0].float().mean().item() for n, g in guesses.items()}


def confusions(guess: torch.Tensor, label: torch.Tensor, keys: Sequence[str]) -> list[str]:
    """The five most frequent mistakes of an output with the values `keys` as "true -> told: count"."""
    wrong = (guess != label) & (label >= 0)
    counts = torch.bincount(label[wrong] * len(keys) + guess[wrong], minlength=len(keys) ** 2)
    order = counts.argsort(descending=True, stable=True)[:5].tolist()
    return [f"{keys[i // len(keys)]} -> {keys[i % len(keys)]}: {counts[i]}" for i in order if counts[i]]


def save(
    out: Path,
    network: Recogniser | Inverter,
    kind: str,
    *,
    recipe: str,
    sources: Sequence[str] = ("personas",),
    pictures_seen: int,
    record: dict[str, Any],
) -> None:
    """Write a network in float16 with its shape, its provenance and whatever else a user of it has to know."""
    provenance = {
        "recipe": f"recipes/avatars/{recipe}.py",
        "data": "; ".join(SOURCES[name] for name in sources),
        "pictures_seen": pictures_seen,
    }
    state = {k: v.half() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_tensors(out, state, kind, {"config": network.config.to_dict(), "provenance": provenance, **record})
