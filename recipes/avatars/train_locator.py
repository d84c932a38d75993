"""Train the locator: it finds avatars in pictures, so that they can be cut out as the generator knows them.

Scenes are drawn while it trains (`recipes.avatars.scenes`); place, size and turn of every avatar in them are known.
The loss is that of Zhou et al. 2019 ("Objects as Points"): a focal loss on a map of middles, and distances at them.
``python -m recipes.avatars.train_locator`` writes ``locator.safetensors`` and resumes from ``.work/locator`` after a
kill.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from recipes.avatars.recogniser_training import save
from recipes.avatars.render import HELD_OUT_STYLES, WORK, load_set, training_share
from recipes.avatars.scenes import Kind, Scenery, Scenes
from stylograph.align.avatars import SHIPPED, AvatarAligner, AvatarConfig
from stylograph.align.geometry import Found, Quad
from stylograph.files import replacing
from stylograph.nets.locator import STRIDE, UNIT, Locator, LocatorConfig
from stylograph.render import to_uint8

MIXTURE: dict[Kind, float] = {"scene": 0.5, "close": 0.22, "aligned": 0.14, "empty": 0.14}
"""Kinds of scenes in a batch."""


@dataclass(frozen=True)
class TrainConfig:
    """How the locator is trained."""

    work: Path = WORK
    """Folder with the rendered sets; holds the training's state."""
    out: Path = SHIPPED
    """File to write."""
    steps: int = 1800
    """Training steps."""
    batch: int = 32
    """Square scenes per step; fewer when they are longer."""
    pool: int = 8000
    """Personas, and drawings of other styles, that are held in memory to draw scenes from."""
    lr: float = 2e-3
    """Peak learning rate of AdamW (warm-up, then cosine)."""
    distances: float = 4.0
    """Weight of the distances beside the focal loss."""
    seed: int = 41
    """Seed of weights and scenes."""
    save_seconds: float = 60.0
    """Time between two saved states."""
    check: int = 300
    """Held-out scenes of each kind to measure on at the end."""


def scenery(work: Path, pool: int, *, held_out: bool) -> Scenery:
    """Drawings to train on, or those never trained on."""
    people, others = load_set("personas", work=work).images, load_set("styles", work=work).images
    known, strange = training_share(len(people)), training_share(len(others), HELD_OUT_STYLES)
    if held_out:
        return Scenery(np.array(people[known:]), np.array(others[strange:]))
    return Scenery(np.array(people[: min(pool, known)]), np.array(others[: min(pool, strange)]))


def frame(rng: torch.Generator, unit: int) -> tuple[int, int]:
    """Height and width of a scene; the shorter side is `unit`, in half of the cases both are."""
    longer = unit * max(1.0, float(torch.rand((), generator=rng)) * 2.2 - 0.2)
    sides = (unit, round(longer)) if torch.rand((), generator=rng) < 0.5 else (round(longer), unit)
    return sides if torch.rand((), generator=rng) < 0.6 else (unit, unit)


def padded(scenes: Tensor, step: int) -> Tensor:
    """Sides become multiples of `step`, as `AvatarAligner` makes them."""
    return F.pad(scenes, (0, -scenes.shape[-1] % step, 0, -scenes.shape[-2] % step))


def targets(scenes: Scenes, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the maps should say: middles [N, R, C] as Gaussians with peak 1, the five numbers [N, 5, R, C], their
    weights [N, R, C], and the sides in cells [N, R, C]."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    center = scenes.center[:, :, :, None, None] / STRIDE  # [N, slots, 2, 1, 1]
    away = torch.stack([center[:, :, 0] - x, center[:, :, 1] - y], 2)  # [N, slots, 2, R, C]
    cells = (scenes.side / STRIDE)[:, :, None, None]
    heat = torch.exp(-away.square().sum(2) / (2 * (0.12 * cells).clamp(min=0.7) ** 2))
    heat = heat * scenes.there[:, :, None, None]
    peak = (away.abs() <= 0.5).all(2) & scenes.there[:, :, None, None]
    heat, owner = torch.where(peak, 1.0, heat).max(1)
    angle = scenes.angle[:, :, None, None].expand_as(peak)
    size = (scenes.side / UNIT).log()[:, :, None, None].expand_as(peak)
    numbers = torch.stack([away[:, :, 0], away[:, :, 1], size, angle.sin(), angle.cos()], 2)
    index = owner[:, None, None].expand(-1, 1, 5, -1, -1)
    chosen = numbers.gather(1, index)[:, 0]
    sides = cells.expand_as(peak).gather(1, owner[:, None])[:, 0]
    return heat, chosen, torch.where(heat > 0.3, heat, 0.0), sides


def losses(maps: Tensor, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Focal loss of the middles, and the mean distance of what is said at them, in sides of the avatar."""
    heat, numbers, weight, sides = targets(scenes, *maps.shape[-2:])
    logit = maps[:, 0]
    told = logit.sigmoid()
    hit = heat == 1
    focal = torch.where(
        hit, (1 - told).square() * F.softplus(-logit), (1 - heat) ** 4 * told.square() * F.softplus(logit)
    )
    gap = (maps[:, 1:] - numbers).abs()
    far = (gap[:, 0] + gap[:, 1]) / sides + gap[:, 2] + 0.5 * (gap[:, 3] + gap[:, 4])
    return focal.sum() / hit.sum().clamp(min=1), (weight * far).sum() / weight.sum().clamp(min=1)


def train(config: TrainConfig) -> None:
    """Train (or resume), measure and save."""
    torch.manual_seed(config.seed)
    network = Locator(LocatorConfig()).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.03)
    place, shape = config.work / "locator" / "state.pt", network.config
    place.parent.mkdir(exist_ok=True)
    first = 0
    if place.exists():
        stored = torch.load(place, weights_only=True)
        network.load_state_dict(stored["network"])
        optimiser.load_state_dict(stored["optimiser"])
        first = stored["step"]
    print(f"{sum(p.numel() for p in network.parameters())} parameters, from step {first}", flush=True)
    source = scenery(config.work, config.pool, held_out=False)
    seen, began = first * config.batch, time.monotonic()
    saved = began
    for step in range(first, config.steps):
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        height, width = frame(rng, shape.size)
        count = max(4, round(config.batch * shape.size**2 / (height * width)))
        kinds = [
            list(MIXTURE)[i] for i in torch.multinomial(torch.tensor([*MIXTURE.values()]), count, True, generator=rng)
        ]
        if height != width:  # a drawing by itself and a second look are square
            kinds = ["scene" if kind in ("aligned", "close") else kind for kind in kinds]
        scenes = source.draw(kinds, height, width, rng)
        share = step / config.steps
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        network.train()
        focal, far = losses(network(padded(scenes.images, shape.step)), scenes)
        optimiser.zero_grad()
        (focal + config.distances * far).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        if step % 25 == 0:
            print(f"step {step} focal {focal:.3f} far {far:.4f} {time.monotonic() - began:.0f} s", flush=True)
        if time.monotonic() - saved > config.save_seconds or step + 1 == config.steps:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            with replacing(place) as temporary:
                torch.save(state, temporary)
            saved = time.monotonic()
    measured = measure(network, scenery(config.work, 0, held_out=True), config.check)
    save(
        config.out,
        network,  # type: ignore[arg-type]
        "locator",
        recipe="train_locator",
        sources=("personas", "styles"),
        pictures_seen=seen + (config.steps - first) * config.batch,
        record={"measured": measured},
    )


# ----------------------------------------------------------------- measuring


def drawn(source: Scenery, kind: Kind, count: int, unit: int, seed: int) -> Iterator[tuple[Image.Image, list[Quad]]]:
    """Scenes as pictures with the squares of their avatars; their size and shape vary."""
    for number in range(count):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + number)
        height, width = frame(rng, unit)
        scenes = source.draw([kind], height, width, rng)
        quads = [
            Quad.around(scenes.center[0, slot].tolist(), float(scenes.side[0, slot]), float(scenes.angle[0, slot]))
            for slot in scenes.there[0].nonzero()[:, 0].tolist()
        ]
        yield Image.fromarray(to_uint8(scenes.images)[0].numpy()), quads


def matched(found: list[Found], quads: list[Quad]) -> list[tuple[Quad, Found]]:
    """Squares with the find that belongs to each: the nearest, its middle within a quarter of the side."""
    pairs, left = [], list(found)
    for quad in quads:
        near = [face for face in left if float((face.quad.center - quad.center).norm()) < quad.side / 4]
        near = [face for face in near if 2 / 3 < face.quad.side / quad.side < 3 / 2]
        if near:
            best = min(near, key=lambda face: float((face.quad.center - quad.center).norm()))
            left.remove(best)
            pairs.append((quad, best))
    return pairs


def corner_error(one: Quad, other: Quad) -> float:
    """Mean distance of the corners, in sides of the first."""
    return float((one.corners - other.corners).norm(dim=1).mean()) / one.side


def measure(network: Locator, source: Scenery, count: int) -> dict[str, dict[str, float]]:
    """Prints and returns what the locator finds in held-out scenes, with one look and with two."""
    told: dict[str, dict[str, float]] = {}
    for looks in (1, 2):
        aligner = AvatarAligner(network, config=replace(AvatarConfig(), looks=looks))
        errors: list[float] = []
        avatars = strays = 0
        for picture, quads in drawn(source, "scene", count, 320, seed=1):
            found = aligner.find(picture)
            pairs = matched(found, quads)
            errors += [corner_error(quad, face.quad) for quad, face in pairs]
            avatars += len(quads)
            strays += len(found) - len(pairs)
        alarms = [bool(aligner.find(picture)) for picture, _ in drawn(source, "empty", count, 320, seed=2)]
        ordered = sorted(errors)
        told[f"looks {looks}"] = {
            "avatars": avatars,
            "recall": round(len(errors) / avatars, 4),
            "false finds per scene": round(strays / count, 4),
            "scenes without avatars with a find": round(sum(alarms) / count, 4),
        }
        if ordered:
            told[f"looks {looks}"] |= {
                "corner error, mean": round(sum(errors) / len(errors), 4),
                "corner error, median": round(ordered[len(errors) // 2], 4),
                "corner error, 95 %": round(ordered[int(len(errors) * 0.95)], 4),
            }
    for side in (64, 128, 512):
        exact = []
        for number in range(count // 2):
            rng = torch.Generator().manual_seed(3_000_003 + number)
            made = source.draw(["aligned"], 128, 128, rng).images
            picture = Image.fromarray(to_uint8(made)[0].numpy()).resize((side, side), Image.Resampling.BICUBIC)
            found = aligner.find(picture)
            exact.append(len(found) == 1 and corner_error(Quad.middle(side, side), found[0].quad) == 0)
        told[f"drawings of {side} pixels"] = {"found as the whole picture": round(sum(exact) / len(exact), 4)}
    for name, row in told.items():
        print(name, "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return told


if __name__ == "__main__":
    import tyro

    train(tyro.cli(TrainConfig))
