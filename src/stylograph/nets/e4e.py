"""Face encoders on the IR-SE50 backbone: pSp (Richardson et al. 2021) and e4e (Tov et al. 2021), one network for both.

Module names are those of the public files. Heads of coarse layers read the backbone's last map, those of medium and fine
layers read the finer maps of a feature pyramid, which is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.nets.irse50 import UNITS, WIDTHS, backbone
from stylograph.nets.stylegan2 import Dense

SIDE = 256
"""Side of the pictures these encoders were made for."""
KINDS = ("e4e", "psp", "w")
MAX_WS = 32
COARSE, MEDIUM = 3, 7
"""First heads of the medium and of the fine group."""
HALVINGS = (4, 5, 6)
"""How often a coarse, medium or fine head halves its map until one pixel is left."""
LAST = tuple(end - 1 for end in accumulate(UNITS))
"""The last unit of each group of the backbone."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a face encoder; raises `ValueError` for one that cannot be."""

    kind: str
    """"e4e": the first head gives a code in W, the others offsets from it. "psp": every head gives its layer's whole code.
    "w": one code for all layers, from the average of the last map."""
    num_ws: int
    """Vectors of a W+ code."""
    w_dim: int = 512
    """Length of each."""
    widths: tuple[int, ...] = WIDTHS
    """Channels of the backbone's four groups; the pyramid is as wide as the last."""

    def __post_init__(self) -> None:
        sizes = [self.w_dim, *self.widths]
        if self.kind not in KINDS or not 0 < self.num_ws <= MAX_WS or len(self.widths) != len(UNITS):
            raise ValueError(f"an encoder of kind {self.kind!r}, {self.num_ws} vectors, {len(self.widths)} widths")
        if not all(16 <= size <= 4096 for size in sizes):
            raise ValueError(f"an encoder with vectors and maps of {sizes} channels")

    @classmethod
    def from_shapes(cls, kind: str, num_ws: int, shapes: Mapping[str, tuple[int, ...]]) -> EncoderConfig:
        """The config with the widths of these tensors; whether all of them fit it, loading tells. Raises `ValueError`."""

        def outputs(name: str) -> int:
            return (shapes.get(name) or (0,))[0]

        w_dim = outputs("linear.weight" if kind == "w" else "styles.0.linear.weight")
        return cls(kind, num_ws, w_dim, tuple(outputs(f"body.{unit}.res_layer.1.weight") for unit in LAST))


def group(head: int) -> int:
    """0, 1 or 2: whether a head is a coarse, medium or fine one."""
    return (head >= COARSE) + (head >= MEDIUM)


class Head(nn.Module):
    """A map [N, C, r, r] -> a vector [N, w_dim]; r is two to the power of `halvings`."""

    def __init__(self, width: int, w_dim: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers += [nn.Conv2d(w_dim if i else width, w_dim, 3, 2, 1), nn.LeakyReLU(0.01, inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.linear = Dense(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class FaceEncoder(nn.Module):
    """Faces [N, 3, 256, 256] in [-1, 1], aligned as in FFHQ -> W+ codes [N, num_ws, w_dim], differentiable.

    The codes are without the average latent that most of these encoders were trained to start from.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.input_layer, self.body = backbone(config.widths)
        _, fine, medium, width = config.widths
        if config.kind == "w":
            self.linear = Dense(width, config.w_dim)
        else:
            self.styles = nn.ModuleList(Head(width, config.w_dim, HALVINGS[group(j)]) for j in range(config.num_ws))
            self.latlayer1 = nn.Conv2d(medium, width, 1)
            self.latlayer2 = nn.Conv2d(fine, width, 1)

    def heads(self, images: Tensor) -> Tensor:
        """What the heads say, [N, heads, w_dim]: those of an e4e a code in W, then the other layers' offsets from it."""
        x = self.input_layer(images)
        maps = []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in LAST[1:]:
                maps.append(x)
        fine, medium, coarse = maps
        if self.config.kind == "w":
            return self.linear(coarse.mean((2, 3)))[:, None]
        medium = _enlarged(coarse, medium) + self.latlayer1(medium)
        fine = _enlarged(medium, fine) + self.latlayer2(fine)
        views = (coarse, medium, fine)
        return torch.stack([head(views[group(j)]) for j, head in enumerate(self.styles)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        found = self.heads(images)
        if self.config.kind == "psp":
            return found
        w = found[:, :1]
        if self.config.kind == "w":
            return w.repeat(1, self.config.num_ws, 1)
        return torch.cat([w, w + found[:, 1:]], dim=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
