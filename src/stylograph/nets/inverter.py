"""The avatars' inverter: a small network in the manner of e4e (Tov et al. 2021), a code in W and an offset per layer.

Fine layers of a generator say little about where things are, and much about how they look: their offsets are read from
finer maps, as in e4e's feature pyramid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.errors import WeightsError
from stylograph.files import load_tensors
from stylograph.images import resize
from stylograph.nets.e4e import COARSE, MEDIUM
from stylograph.nets.recogniser import Block


@dataclass(frozen=True)
class InverterConfig:
    """Shape of an inverter; stored beside its weights."""

    num_ws: int
    """Vectors of a W+ code."""
    w_dim: int
    """Length of each."""
    size: int = 64
    """Side of the picture it works on; others are resampled by exact area averages."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels at size/2, size/4 and size/8 pixels."""
    depth: int = 2
    """Residual blocks per resolution, counting the one that halves it."""
    squeeze: tuple[int, ...] = (3, 8, 16)
    """Channels that are kept of each map before it is flattened."""
    hidden: int = 256
    """Width of the layer before the codes, one for each map."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InverterConfig:
        """The config of a file's record. Raises `ValueError` for fields or values it cannot have."""
        if set(values) != {f.name for f in fields(cls)}:
            raise ValueError(f"got config fields {sorted(values)}; expected {[f.name for f in fields(cls)]}")
        known: dict[str, Any] = {k: tuple(v) if k in ("widths", "squeeze") else v for k, v in values.items()}
        sizes = [n for v in known.values() for n in (v if isinstance(v, tuple) else (v,))]
        if any(type(n) is not int or not 0 < n <= 4096 for n in sizes) or not len(known["widths"]) == 3 == len(
            known["squeeze"]
        ):
            raise ValueError("its sizes are not small positive whole numbers, three of widths and of squeeze")
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return asdict(self) | {"widths": list(self.widths), "squeeze": list(self.squeeze)}


class Inverter(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] -> W+ codes [N, num_ws, w_dim], differentiable."""

    def __init__(self, config: InverterConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(12, config.widths[0], 3, padding=1)
        stages = [nn.Sequential(*(Block(config.widths[0], config.widths[0]) for _ in range(config.depth)))]
        for width, out in pairwise(config.widths):
            more = (Block(out, out) for _ in range(config.depth - 1))
            stages.append(nn.Sequential(Block(width, out, stride=2), *more))
        self.stages = nn.ModuleList(stages)
        self.squeeze = nn.ModuleList(nn.Conv2d(w, s, 1) for w, s in zip(config.widths, config.squeeze))
        sides = [config.size >> (i + 1) for i in range(len(stages))]
        self.views = nn.ModuleList(
            nn.Linear(s * side * side, config.hidden) for s, side in zip(config.squeeze, sides, strict=True)
        )
        self.base = nn.Linear(config.hidden, config.w_dim)
        self.offsets = nn.ModuleList(nn.Linear(config.hidden, config.w_dim) for _ in range(config.num_ws - 1))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The code in W, [N, w_dim], and the offsets of the layers after the first, [N, num_ws - 1, w_dim]."""
        x = resize(images, self.config.size).contiguous(memory_format=torch.channels_last)
        x = F.silu(self.stem(F.pixel_unshuffle(x, 2)))
        views = []
        for stage, squeeze, view in zip(self.stages, self.squeeze, self.views):
            x = stage(x)
            views.append(F.silu(view(F.silu(squeeze(x)).flatten(1))))
        fine, medium, coarse = views
        chosen = [coarse if j < COARSE else medium if j < MEDIUM else fine for j in range(1, self.config.num_ws)]
        offsets = [head(view) for head, view in zip(self.offsets, chosen, strict=True)]
        return self.w_avg + self.base(coarse), torch.stack(offsets, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        w, offsets = self.parts(images)
        return torch.cat([w[:, None], w[:, None] + offsets], dim=1)


def load_inverter(path: Path) -> tuple[Inverter, dict[str, Any]]:
    """The network of a file and the file's record, of which "generator" is the digest it was trained for.

    Raises `WeightsError` for another file, and one whose record and tensors do not fit.
    """
    tensors, record = load_tensors(path, "inverter")
    try:
        network = Inverter(InverterConfig.from_dict(record["config"]))
        counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
        network.load_state_dict({**counters, **{k: v.float() for k, v in tensors.items()}})
        if not isinstance(record["generator"], str):
            raise ValueError("it names no generator")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: got an inverter file that contradicts itself ({' '.join(str(error).split())[:200]}); expected one "
            "written by recipes.avatars.train_inverter; write it again"
        ) from error
    return network.eval().requires_grad_(False), record
