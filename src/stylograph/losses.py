"""Pure functions of CLIP embeddings: means, directions, similarities. No state, no weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

NO_MOVE = 1e-4
"""Embeddings closer than this have no direction between them."""


def unit_mean(features: Tensor) -> Tensor:
    """[..., T, D] -> [..., D]: normalise each of T features, average, normalise (prompt ensembles; StyleCLIP's rows)."""
    return F.normalize(F.normalize(features, dim=-1).mean(-2), dim=-1)


def direction(new: Tensor, old: Tensor) -> Tensor:
    """Unit vector(s) from `old` to `new`, [..., D] each; zero where they coincide."""
    return F.normalize(new - old, dim=-1)


def mean_direction(new: Tensor, old: Tensor) -> Tensor:
    """[M, D], [N, D] -> [D], the unit vector between the means of two sets of normalised features.

    StyleGAN-NADA's direction, of a sentence's prompt templates or of pictures. Unlike in StyleCLIP the two means are
    not normalised again.
    """
    return direction(F.normalize(new, dim=-1).mean(0), F.normalize(old, dim=-1).mean(0))


def directional_loss(new: Tensor, old: Tensor, wanted: Tensor) -> Tensor:
    """1 - cos(new - old, wanted) of every row, [N] (StyleGAN-NADA, eq. 3).

    new, old: [N, D] embeddings of the trained and the frozen generator's pictures; wanted: unit vector [D].
    Rows that have not moved, as all of the first step, have no direction: they are given the gradient of
    -(new - old)·wanted, which is finite and of the size the others have. (The reference adds 1e-6 to the pictures.)
    """
    moved = new - old
    square = moved.square().sum(-1)
    still = square < NO_MOVE**2
    size = square.masked_fill(still, 1.0).sqrt()
    return 1 - (moved @ wanted) / size
