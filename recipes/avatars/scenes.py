"""Scenes to look for avatars in: drawings of known place, size and turn on backgrounds of many kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.avatars.recogniser_training import blur
from recipes.avatars.train_features import to_tensor

SLOTS = 3
"""At most so many avatars are in a scene."""
KINDS = ("scene", "aligned", "close", "empty")
"""Avatars anywhere; the drawing itself, unframed; one as a second look sees it, where pictures are mirrored beyond
their border; no avatar at all."""
MIRRORED = 3
"""How a drawing is cut: 0 not at all, 1 round corners, 2 a circle, this: it goes on beyond its border, mirrored."""
Kind = Literal["scene", "aligned", "close", "empty"]


@dataclass(frozen=True)
class Scenes:
    """Pictures and what is in them, for every scene `SLOTS` places of which some are empty."""

    images: Tensor
    """[N, 3, H, W] in [-1, 1]."""
    center: Tensor
    """[N, SLOTS, 2]: x and y of the middle in pixels."""
    side: Tensor
    """[N, SLOTS] in pixels."""
    angle: Tensor
    """[N, SLOTS]: clockwise in radians."""
    there: Tensor
    """[N, SLOTS] bool: whether there is an avatar."""


def _uniform(shape: Sequence[int], low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(tuple(shape), generator=rng) * (high - low) + low


def _chance(shape: Sequence[int], probability: float, rng: torch.Generator) -> Tensor:
    return torch.rand(tuple(shape), generator=rng) < probability


class Scenery:
    """Draws scenes out of avatars and drawings of other styles, both uint8 [N, 128, 128, 3]."""

    def __init__(self, avatars: np.ndarray, others: np.ndarray) -> None:
        self.avatars, self.others = avatars, others

    def draw(self, kinds: Sequence[Kind], height: int, width: int, rng: torch.Generator) -> Scenes:
        """One scene of each of these kinds, all of one size; the same generator state gives the same scenes."""
        count = len(kinds)
        unit = min(height, width)
        center, side, angle, there = self._places(kinds, height, width, rng)
        pictures = [self._pick(self.avatars, count, rng) for _ in range(SLOTS)]
        canvas = self._ground(pictures[0], height, width, rng)
        for _ in range(2):  # drawings of other styles are no avatars, however they are framed
            shown = _chance((count,), 0.35, rng)
            where = torch.rand((count, 2), generator=rng) * torch.tensor([width, height])
            size = _uniform((count,), 0.2, 0.9, rng) * unit
            turn = _uniform((count,), -0.6, 0.6, rng)
            canvas = _placed(
                canvas, self._pick(self.others, count, rng), where, size, turn, shown, self._frame(count, rng)
            )
        close = torch.tensor([kind == "close" for kind in kinds])
        mirrored = close & _chance((count,), 0.5, rng)
        beyond = torch.full((count,), MIRRORED)
        canvas = _placed(canvas, pictures[0], center[:, 0], side[:, 0], angle[:, 0], mirrored, beyond)
        canvas[mirrored] = blur(blur(blur(canvas[mirrored])))
        for slot in range(SLOTS):
            frame = self._frame(count, rng)
            frame[torch.tensor([kind == "aligned" for kind in kinds]) | mirrored] = 0
            drawn = _recoloured(pictures[slot], rng)
            canvas = _placed(canvas, drawn, center[:, slot], side[:, slot], angle[:, slot], there[:, slot], frame)
        return Scenes(_photographed(canvas, rng), center, side, angle, there)

    def _pick(self, pool: np.ndarray, count: int, rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(pool), (count,), generator=rng).numpy()
        return to_tensor(np.stack([pool[row] for row in rows]))

    def _frame(self, count: int, rng: torch.Generator) -> Tensor:
        """How drawings are cut, [N], see `MIRRORED`."""
        return torch.multinomial(torch.tensor([0.7, 0.15, 0.15]), count, replacement=True, generator=rng)

    def _places(
        self, kinds: Sequence[Kind], height: int, width: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Middle, side, angle and presence of every slot; avatars do not cover each other and lie inside, nearly."""
        count, unit = len(kinds), min(height, width)
        frame = torch.tensor([width, height], dtype=torch.float32)
        side = (0.2 * 5 ** torch.rand((count, SLOTS), generator=rng)) * unit  # as many small ones as large ones
        angle = _uniform((count, SLOTS), -35, 35, rng).deg2rad() * _chance((count, SLOTS), 0.7, rng)
        out = 0.08 * side[..., None]  # so much may lie beyond the border
        room = (frame - side[..., None] + 2 * out).clamp(min=0)
        center = side[..., None] / 2 - out + room * torch.rand((count, SLOTS, 2), generator=rng)
        center = torch.where(frame - side[..., None] < 0, frame / 2, center)
        wanted = torch.randint(1, SLOTS + 1, (count,), generator=rng)
        there = torch.zeros(count, SLOTS, dtype=torch.bool)
        jitter = torch.randn((count, 2), generator=rng)
        for row, kind in enumerate(kinds):
            if kind == "empty":
                continue
            if kind == "aligned":
                side[row, 0], angle[row, 0], center[row, 0] = unit, 0, frame / 2
            if kind == "close":
                side[row, 0] = unit * 0.8 * float(torch.exp(0.1 * torch.randn((), generator=rng)))
                angle[row, 0] = 0.07 * torch.randn((), generator=rng)
                center[row, 0] = frame / 2 + 0.04 * unit * jitter[row]
            there[row, 0] = True
            for slot in range(1, int(wanted[row]) if kind == "scene" else 1):
                apart = (center[row, :slot] - center[row, slot]).norm(dim=1)
                reach = 0.62 * (side[row, :slot] + side[row, slot])
                there[row, slot] = bool((apart > reach)[there[row, :slot]].all())
        return center, side, angle, there

    def _ground(self, first: Tensor, height: int, width: int, rng: torch.Generator) -> Tensor:
        """Backgrounds [N, 3, H, W]: plain, in the avatar's own colour, gradients, clouds, other drawings, clutter."""
        count = len(first)
        plain = _uniform((count, 3, 1, 1), -1, 1, rng).expand(count, 3, height, width)
        kind = torch.randint(8, (count,), generator=rng)
        ground = plain.clone()
        own = kind == 1
        ground[own] = first[own][:, :, 2:3, 2:3].expand(-1, 3, height, width)
        corners = _uniform((count, 3, 2, 2), -1.2, 1.2, rng)
        smooth = F.interpolate(corners, (height, width), mode="bilinear", align_corners=True)
        ground = torch.where((kind == 2)[:, None, None, None], smooth, ground)
        for cloudy in (kind == 3).nonzero()[:, 0].tolist():
            for cells in (3, 8, 20, 50):
                strength = float(torch.rand((), generator=rng)) * 0.7
                noise = torch.randn((1, 3, cells, cells), generator=rng)
                ground[cloudy] += strength * F.interpolate(noise, (height, width), mode="bilinear")[0]
        for row in (kind == 4).nonzero()[:, 0].tolist():
            other = F.interpolate(self._pick(self.others, 1, rng), (max(height, width),) * 2, mode="bilinear")
            ground[row] = other[0, :, :height, :width]
        busy = (kind >= 5) & _chance((count,), 0.8, rng)
        ground[busy] = _clutter(ground[busy], rng)
        return ground.clamp(-1, 1)


def _clutter(ground: Tensor, rng: torch.Generator) -> Tensor:
    """Turned rectangles and ellipses, some shaded, as a photograph of a room has them."""
    count, _, height, width = ground.shape
    unit = min(height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    for _ in range(14):
        cx, cy = _uniform((count, 1, 1), 0, width, rng), _uniform((count, 1, 1), 0, height, rng)
        half = (0.02 * 30 ** torch.rand((2, count, 1, 1), generator=rng)) * unit
        turn = _uniform((count, 1, 1), -1.6, 1.6, rng) * _chance((count, 1, 1), 0.6, rng)
        u = ((x - cx) * turn.cos() + (y - cy) * turn.sin()) / half[0]
        v = ((y - cy) * turn.cos() - (x - cx) * turn.sin()) / half[1]
        box, disc = (u.abs() < 1) & (v.abs() < 1), u.square() + v.square() < 1
        inside = torch.where(_chance((count, 1, 1), 0.5, rng), box, disc)[:, None]
        shade = (u[:, None] * _uniform((count, 3, 1, 1), -0.4, 0.4, rng)) * _chance((count, 1, 1, 1), 0.5, rng)
        ground = torch.where(inside, _uniform((count, 3, 1, 1), -1.1, 1.1, rng) + shade, ground)
    return ground


def _recoloured(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Colours of half of the pictures mixed a little, of some a lot."""
    count = len(pictures)
    strength = _uniform((count, 1, 1), 0, 0.3, rng).square() * 4 * _chance((count, 1, 1), 0.5, rng)
    mix = torch.eye(3) + strength * torch.randn((count, 3, 3), generator=rng)
    return torch.einsum("nij,njhw->nihw", mix, pictures).clamp(-1, 1)


def _placed(
    canvas: Tensor, pictures: Tensor, center: Tensor, side: Tensor, angle: Tensor, shown: Tensor, frame: Tensor
) -> Tensor:
    """The canvas [N, 3, H, W] with one picture [N, 3, S, S] each in a square of this place, antialiased."""
    out = canvas.clone()
    height, width = canvas.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    # Halved until it is less than 1.5 times as large as its place.
    halvings = (pictures.shape[-1] / side / 1.5).log2().ceil().clamp(0, 3).long()
    for level in halvings[shown].unique().tolist():
        rows = (shown & (halvings == level)).nonzero()[:, 0]
        small = F.avg_pool2d(pictures[rows], 2**level) if level else pictures[rows]
        size, turn = side[rows, None, None], angle[rows, None, None]
        away_x, away_y = x - center[rows, 0, None, None], y - center[rows, 1, None, None]
        u = (away_x * turn.cos() + away_y * turn.sin()) / size
        v = (away_y * turn.cos() - away_x * turn.sin()) / size
        drawn = F.grid_sample(
            small, torch.stack([2 * u, 2 * v], -1), mode="bilinear", padding_mode="reflection", align_corners=False
        )
        # Distance to the border of a square whose corners are rounded by r: 0, a fifth, a half.
        r = torch.tensor([0.0, 0.2, 0.5, 0.0])[frame[rows]][:, None, None]
        far = torch.hypot((u.abs() - 0.5 + r).clamp(min=0), (v.abs() - 0.5 + r).clamp(min=0)) - r
        square = torch.maximum(u.abs(), v.abs()) - 0.5
        cover = (0.5 - torch.where(r > 0, far, square) * size).clamp(0, 1)[:, None]
        cover[frame[rows] == MIRRORED] = 1
        out[rows] = torch.lerp(out[rows], drawn, cover)
    return out


def _photographed(scenes: Tensor, rng: torch.Generator) -> Tensor:
    """What cameras, screens and compression do to a picture [N, 3, H, W]; a third of them stays as it is."""
    scenes = scenes.clone()
    touched = _chance((len(scenes),), 0.67, rng)
    for change, probability in ((_lit, 0.6), (_coarse, 0.2), (_soft, 0.3), (_lined, 0.25), (_grainy, 0.4)):
        rows = (_chance((len(scenes),), probability, rng) & touched).nonzero()[:, 0]
        if len(rows):
            scenes[rows] = change(scenes[rows], rng)
    return scenes.clamp(-1, 1)


def _each(scenes: Tensor, low: float, high: float, rng: torch.Generator) -> Tensor:
    """A number per scene."""
    return _uniform((len(scenes), 1, 1, 1), low, high, rng)


def _lit(scenes: Tensor, rng: torch.Generator) -> Tensor:
    colour = _uniform((len(scenes), 3, 1, 1), -0.15, 0.15, rng)
    return (scenes + 1) * torch.exp(colour + _each(scenes, -0.5, 0.35, rng)) - 1 + _each(scenes, -0.2, 0.2, rng)


def _coarse(scenes: Tensor, rng: torch.Generator) -> Tensor:
    height, width = scenes.shape[-2:]
    share = 64 / min(height, width)
    rough = F.interpolate(scenes, (round(height * share), round(width * share)), mode="area")
    return F.interpolate(rough, (height, width), mode="bilinear")


def _soft(scenes: Tensor, rng: torch.Generator) -> Tensor:
    soft = scenes
    for _ in range(max(2, min(scenes.shape[-2:]) // 64)):
        soft = blur(soft)
    return torch.lerp(scenes, soft, _each(scenes, 0, 1, rng))


def _lined(scenes: Tensor, rng: torch.Generator) -> Tensor:
    """The fine lines of a photographed screen."""
    height, width = scenes.shape[-2:]
    unit = min(height, width)
    y, x = torch.meshgrid(torch.arange(height) / unit, torch.arange(width) / unit, indexing="ij")
    turn, pitch = _each(scenes, 0, 3.2, rng), _each(scenes, 60, 380, rng)
    return scenes + _each(scenes, 0, 0.2, rng) * (pitch * (x * turn.cos() + y * turn.sin())).sin()


def _grainy(scenes: Tensor, rng: torch.Generator) -> Tensor:
    return scenes + torch.randn(scenes.shape, generator=rng) * _each(scenes, 0, 0.2, rng)
