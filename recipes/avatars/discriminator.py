"""The two discriminators: residual on pixels, and small heads on frozen features of another network.

The pixel discriminator follows StyleGAN2 (Karras et al. 2020), the heads Projected GANs (Sauer et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Callable[[Tensor], Sequence[Tensor]]
"""Frozen network: [N, 3, R, R] in [-1, 1] -> three feature maps, finest first."""

SQRT2 = math.sqrt(2.0)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU; its gain √2 sits in the weights before it: the same, without a pass over memory."""
    return F.leaky_relu(x, 0.2, inplace=True)


class Equal(nn.Module):
    """Convolution or dense layer with equalised learning rate, computed in the precision of its input."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int = 0, bias: bool = True, gain: float = SQRT2) -> None:
        """`kernel` is the side of the filter, 0 for a dense layer; `gain` multiplies the output."""
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_out, n_in, *([kernel, kernel] if kernel else [])))
        self.b = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.gain = gain

    def forward(self, x: Tensor, *, stride: int = 1, pooled: bool = False) -> Tensor:
        """`pooled` averages 2x2 outputs: as one convolution of stride 2 it costs less than half."""
        weight = self.w * (self.gain / math.sqrt(self.w[0].numel()))
        bias = None if self.b is None else (self.b * self.gain).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight.to(x.dtype), bias)
        padding = weight.shape[-1] // 2
        if pooled:
            shifted = [F.pad(weight, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1)]
            weight = torch.stack(shifted).mean(0)
            stride = 2
        weight = weight.to(x.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)


class Block(nn.Module):
    """Residual block (main + skip)/√2, [N, c_in, r, r] -> [N, c_out, r/2, r/2]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.c1 = Equal(c_in, c_in, kernel=3)
        self.c2 = Equal(c_in, c_out, kernel=3, gain=1.0)  # √2 of the activation, 1/√2 of the sum
        self.sk = Equal(c_in, c_out, kernel=1, bias=False, gain=1 / SQRT2)

    def forward(self, x: Tensor) -> Tensor:
        main = activate(self.c2(activate(self.c1(x)), pooled=True))
        return main + self.sk(F.avg_pool2d(x, 2))


class Detail(nn.Module):
    """What the trunk cannot see of a larger picture: [N, 3, 2r, 2r] -> [N, c_out, r, r], zero at first.

    Pixels go to channels before any convolution: at full size the same block would cost several times more.
    """

    def __init__(self, c_out: int) -> None:
        super().__init__()
        self.c1 = Equal(12, 2 * c_out, kernel=3)
        self.c2 = Equal(2 * c_out, c_out, kernel=3)
        nn.init.zeros_(self.c2.w)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        return self.c2(activate(self.c1(x)))


def minibatch_std(x: Tensor, group: int = 4) -> Tensor:
    """Append the mean deviation within groups of samples as one more channel (facts A.13)."""
    n, c, h, w = x.shape
    size = min(n, group)
    if n % size:
        raise ValueError(f"the batch must be a multiple of {group}, got {n}")
    spread = x.float().reshape(size, n // size, c, h, w).var(0, unbiased=False).add(1e-8).sqrt().mean((1, 2, 3))
    channel = spread.to(x.dtype).repeat(size)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([x, channel], dim=1)


class Discriminator(nn.Module):
    """Pixel discriminator: [N, 3, R, R] -> [N] logits, with R = `trunk` or twice that.

    The larger one keeps every parameter of the smaller one, which then sees the box-averaged picture, and adds
    a detail branch that starts at zero: growing changes no logit.
    """

    def __init__(self, resolution: int, *, trunk: int = 64, channel_base: int = 2048, channel_max: int = 128) -> None:
        super().__init__()
        if resolution not in (trunk, 2 * trunk):
            raise ValueError(f"resolution must be {trunk} or {2 * trunk}, got {resolution}")
        sides = [trunk >> i for i in range(trunk.bit_length() - 2)]  # trunk ... 4
        widths = [min(channel_base // side, channel_max) for side in sides]
        self.rgb = Equal(3, widths[0], kernel=1)
        self.bs = nn.ModuleList(Block(a, b) for a, b in pairwise(widths))
        self.c = Equal(widths[-1] + 1, widths[-1], kernel=3)
        self.f1 = Equal(widths[-1] * 16, widths[-1])
        self.f2 = Equal(widths[-1], 1, gain=1.0)
        self.detail = Detail(widths[0]) if resolution == 2 * trunk else None

    def forward(self, image: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        image = image.to(dtype, memory_format=torch.channels_last)
        if self.detail is None:
            x = activate(self.rgb(image))
        else:
            x = activate(self.rgb(F.avg_pool2d(image, 2)) + self.detail(image))
        for block in self.bs:
            x = block(x)
        x = activate(self.c(minibatch_std(x)))
        return self.f2(activate(self.f1(x.flatten(1).float())))[:, 0]


class Head(nn.Module):
    """One feature map [N, C, r, r] -> [N] logits, averaged over patches of about a quarter of the picture."""

    def __init__(self, c_in: int, side: int, *, width: int = 64) -> None:
        super().__init__()
        self.mix = Equal(c_in, width, kernel=1)
        self.down = nn.ModuleList(Equal(width, width, kernel=3) for _ in range(side.bit_length() - 3))  # down to 4x4
        self.logit = Equal(width, 1, kernel=1, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = activate(self.mix(x))
        for layer in self.down:
            x = activate(layer(x, stride=2))
        return self.logit(x).float().mean((1, 2, 3))


class Heads(nn.Module):
    """Heads on frozen features of a network: images [N, 3, r, r] -> [3, N] logits."""

    def __init__(self, features: Features, *, resolution: int = 64) -> None:
        super().__init__()
        with torch.no_grad():
            maps = features(torch.zeros(1, 3, resolution, resolution))
        self.heads = nn.ModuleList(Head(x.shape[1], x.shape[-1]) for x in maps)
        # Kept out of the module tree: it is not trained and not saved with the state.
        self.features = (features,)

    def forward(self, image: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            maps = self.features[0](image)
        return torch.stack([head(x.to(dtype)) for head, x in zip(self.heads, maps, strict=True)])


def shift(images: Tensor, *, most: int, rng: torch.Generator) -> Tensor:
    """Move every picture by up to `most` pixels, edges repeated (differentiable; same size)."""
    if most == 0:
        return images
    n, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4, mode="replicate")
    offsets = torch.randint(2 * most + 1, (n, 2), generator=rng).tolist()
    return torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, offsets, strict=True)])
