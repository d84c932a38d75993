"""Resampling as matrix products: exact, differentiable, and cheap for any size."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

RESAMPLERS = ("box", "bicubic")


@lru_cache(maxsize=32)
def box_matrix(size_in: int, size_out: int) -> Tensor:
    """A [size_out, size_in] whose row i averages the input interval [i, i+1)·size_in/size_out.

    Edge pixels count by the fraction they are covered, so A·X·Aᵀ is the exact area average; it equals StyleCLIP's
    nearest up-sampling by 7 followed by average pooling by size/32.
    """
    ratio = size_in / size_out
    low = torch.arange(size_out, dtype=torch.float64)[:, None] * ratio
    pixel = torch.arange(size_in, dtype=torch.float64)[None, :]
    overlap = torch.minimum(low + ratio, pixel + 1) - torch.maximum(low, pixel)
    return (overlap.clamp_min(0) / ratio).float()


def resize(images: Tensor, size: int, *, method: str = "box") -> Tensor:
    """[N, C, H, W] -> [N, C, size, size]; a non-square picture loses its longer side's ends (centre crop).

    method: "box" (exact area average) or "bicubic" (antialiased, as PIL and torchvision do it).
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images
    if method == "bicubic":
        return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    matrix = box_matrix(side, size).to(images)
    return matrix @ images @ matrix.T
