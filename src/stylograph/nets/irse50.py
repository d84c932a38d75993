"""IR-SE50, the face recogniser of ArcFace (Deng et al. 2019) that StyleCLIP, e4e and pSp take their identity loss from.

Module names are those of the public file `model_ir_se50.pth`. The encoders of e4e and pSp stand on the same backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
UNITS = (3, 4, 14, 3)
"""Channels and number of units of the four groups; the first unit of each halves the picture."""
INPUT = 112
EMBEDDING = 512
ALIGNED = 256
FACE = (slice(35, 223), slice(32, 220))
"""Rows and columns of the face in an FFHQ-aligned picture of 256 pixels."""


def face_crop(images: Tensor) -> Tensor:
    """FFHQ-aligned pictures [N, 3, H, W] of any size -> their faces [N, 3, 112, 112], as in StyleCLIP's ID loss.

    Averages to 256 x 256 (also upwards, where it repeats pixels), cuts, averages to 112 x 112 over overlapping bins.
    """
    if tuple(images.shape[-2:]) != (ALIGNED, ALIGNED):
        images = F.adaptive_avg_pool2d(images, ALIGNED)
    return F.adaptive_avg_pool2d(images[:, :, FACE[0], FACE[1]], INPUT)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the averages of all channels (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(width // 16, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class Unit(nn.Module):
    """One residual unit: [N, C, H, W] -> [N, C', H/stride, W/stride]."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if width != out:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, out, 3, 1, 1, bias=False),
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            SqueezeExcite(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def backbone(widths: Sequence[int] = WIDTHS) -> tuple[nn.Sequential, nn.Sequential]:
    """Input layer, [N, 3, H, W] -> [N, widths[0], H, W], and the 24 units, -> [N, widths[-1], H/16, W/16]."""
    first = width = widths[0]
    start = nn.Sequential(nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first))
    units: list[Unit] = []
    for out, count in zip(widths, UNITS, strict=True):
        for i in range(count):
            units.append(Unit(width, out, 2 if i == 0 else 1))
            width = out
    return start, nn.Sequential(*units)


class IRSE50(nn.Module):
    """Faces [N, 3, 112, 112] in [-1, 1] -> unit vectors [N, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer, self.body = backbone()
        width, side = WIDTHS[-1], INPUT >> len(WIDTHS)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(width * side * side, EMBEDDING),
            nn.BatchNorm1d(EMBEDDING),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=1)
