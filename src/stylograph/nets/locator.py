"""A small fully convolutional network that tells where in a scene avatars are, how large and how turned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.nets.recogniser import Block

STRIDE = 8
"""Pixels per cell."""
UNIT = 64.0
"""Sides are told as logarithms of their share of this many pixels."""


@dataclass(frozen=True)
class LocatorConfig:
    """Shape of a locator; stored beside its weights."""

    size: int = 128
    """The shorter side of a scene it is trained for; a multiple of `step`."""
    widths: tuple[int, ...] = (24, 40, 56, 72, 72)
    """Channels at 1/2, 1/4, 1/8, 1/16, ... of the size."""

    @property
    def step(self) -> int:
        """Sides of scenes are multiples of this."""
        return 1 << len(self.widths)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LocatorConfig:
        """The config of a file's record. Raises `ValueError` for fields or values it cannot have."""
        if set(values) != {f.name for f in fields(cls)}:
            raise ValueError(f"got config fields {sorted(values)}; expected {[f.name for f in fields(cls)]}")
        size, widths = values["size"], tuple(values["widths"])
        if any(type(v) is not int or not 0 < v <= 1024 for v in (size, *widths)) or not 3 <= len(widths) <= 6:
            raise ValueError("its sizes are not small positive whole numbers, or not 3 to 6 widths")
        if size % (1 << len(widths)):
            raise ValueError(f"its size {size} is no multiple of {1 << len(widths)}")
        return cls(size, widths)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return asdict(self) | {"widths": list(self.widths)}


class Locator(nn.Module):
    """Scenes [N, 3, H, W] in [-1, 1] -> maps [N, 6, H/8, W/8]; H and W multiples of `config.step`.

    The six values of a cell: logit of "the middle of an avatar is here"; how far that middle lies right of and below
    the cell's, in cells; log(side / 64 pixels); sine and cosine (not normalised) of the clockwise turn.
    """

    def __init__(self, config: LocatorConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(12, config.widths[0], 3, padding=1)
        self.stages = nn.ModuleList(Block(width, out, stride=2) for width, out in pairwise(config.widths))
        width = config.widths[2]
        # What is seen from farther away is added to the cells: the border of a large avatar is beyond their own view.
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1, bias=False) for w in config.widths[3:])
        self.join = Block(width, width)
        self.head = nn.Conv2d(width, 6, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.get_parameter("bias").copy_(torch.tensor([-3.0, 0, 0, 0, 0, 1]))  # hardly any cell is a middle

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads float16 or float32 tensors strictly. Raises `RuntimeError` for missing, unknown or misshapen ones."""
        counters = {k: v for k, v in self.state_dict().items() if k.endswith("num_batches_tracked")}
        self.load_state_dict({**counters, **{k: v.float() for k, v in tensors.items()}})

    def forward(self, scenes: Tensor) -> Tensor:
        x = F.pixel_unshuffle(scenes.contiguous(memory_format=torch.channels_last), 2)
        levels = [F.silu(self.stem(x))]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        cells = levels[2]
        for lateral, level in zip(self.lateral, levels[3:]):
            cells = cells + F.interpolate(lateral(level), size=cells.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(self.join(cells))
