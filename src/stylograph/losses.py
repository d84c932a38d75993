"""Pure functions of CLIP embeddings: means, directions, similarities. No state, no weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def unit_mean(features: Tensor) -> Tensor:
    """[..., T, D] -> [..., D]: normalise each of T features, average, normalise (prompt ensembles; StyleCLIP's rows)."""
    return F.normalize(F.normalize(features, dim=-1).mean(-2), dim=-1)


def direction(new: Tensor, old: Tensor) -> Tensor:
    """Unit vector(s) from `old` to `new`, [..., D] each; zero where they coincide."""
    return F.normalize(new - old, dim=-1)
