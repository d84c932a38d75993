"""Distortions that keep every label: what a generator's flaws and a gradient's tricks look like."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=rng) * (high - low) + low


def _amplitude(count: int, high: float, rng: torch.Generator) -> torch.Tensor:
    """Per-image strength [N, 1, 1, 1], zero for half of the images and squared-uniform up to `high` for the rest."""
    strength = torch.rand((count, 1, 1, 1), generator=rng).square() * high
    return strength * (torch.rand((count, 1, 1, 1), generator=rng) < 0.5)


def _place(images: torch.Tensor, strength: float, rng: torch.Generator) -> torch.Tensor:
    count = len(images)
    angle = _uniform((count,), -0.12, 0.12, rng) * strength
    scale = 1 + _uniform((count,), -0.1, 0.1, rng) * strength
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1] = scale * angle.sin()
    theta[:, 1, 0] = -theta[:, 0, 1]
    theta[:, :, 2] = _uniform((count, 2), -0.1, 0.1, rng) * strength
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _soften(images: torch.Tensor, strength: float, rng: torch.Generator) -> torch.Tensor:
    """Resample some images through a lower resolution, and blend a blur into others."""
    side = images.shape[-1]
    count = len(images)
    out = images.clone()
    order = torch.randperm(count, generator=rng)
    share = round(count * strength / 4)
    coarse, blurred = order[:share], order[share : 2 * share]
    size = (side // 2, side // 2)
    out[coarse] = F.interpolate(
        F.interpolate(images[coarse], size, mode="area"), (side, side), mode="bilinear", align_corners=False
    )
    smooth = F.avg_pool2d(F.pad(images[blurred], (1, 1, 1, 1), mode="replicate"), 3, 1)
    mix = torch.rand((len(blurred), 1, 1, 1), generator=rng)
    out[blurred] = torch.lerp(images[blurred], smooth, mix)
    return out


def _field(images: torch.Tensor, cells: int, high: float, rng: torch.Generator) -> torch.Tensor:
    noise = torch.randn((len(images), 3, cells, cells), generator=rng)
    smooth = F.interpolate(noise, images.shape[-2:], mode="bilinear", align_corners=False)
    return smooth * _amplitude(len(images), high, rng)


def _cut_out(images: torch.Tensor, probability: float, rng: torch.Generator) -> torch.Tensor:
    count, _, height, width = images.shape
    centre = torch.rand((count, 2, 1), generator=rng)
    half = _uniform((count, 2, 1), 0.03, 0.11, rng)
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    inside_rows = (rows - centre[:, 0]).abs() < half[:, 0]
    inside_columns = (columns - centre[:, 1]).abs() < half[:, 1]
    chosen = torch.rand((count, 1, 1, 1), generator=rng) < probability
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :] & chosen
    return torch.where(hole, _uniform((count, 3, 1, 1), -1, 1, rng), images)


def augment(images: torch.Tensor, rng: torch.Generator, *, strength: float = 1.0) -> torch.Tensor:
    """Distort images [N, 3, H, W] in [-1, 1]: place, blur, colour fields, noise, coarse steps, small holes.

    Each image gets a random subset; colours move little because they are labels. `strength` scales all amplitudes.
    """
    count = len(images)
    images = _soften(_place(images, strength, rng), strength, rng)
    gain = 1 + _uniform((count, 3, 1, 1), -0.06, 0.06, rng) * strength
    shift = _uniform((count, 1, 1, 1), -0.1, 0.1, rng) * strength
    images = images * gain + shift
    images = images + _field(images, 4, 0.2 * strength, rng) + _field(images, 16, 0.25 * strength, rng)
    images = _cut_out(images, 0.25 * strength, rng)
    images = images + torch.randn(images.shape, generator=rng) * _amplitude(count, 0.3 * strength, rng)
    step = 2 / _uniform((count, 1, 1, 1), 12, 64, rng)
    coarse = torch.rand((count, 1, 1, 1), generator=rng) < 0.2 * strength
    images = torch.where(coarse, (images / step).round() * step, images)
    return images.clamp(-1, 1)
