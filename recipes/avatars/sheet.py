"""What the generator looks like: grids of samples and data, and one number over time (KID).

``python -m recipes.avatars.sheet --state .work/generator/state.pt --out sheet.png`` puts data on the left, samples
at truncation 0.7 in the middle and without truncation on the right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recipes.avatars.export_generator import load_ema
from recipes.avatars.render import WORK, half_size, load_set, training_share
from stylograph.nets.stylegan2 import StyleGAN2


@dataclass(frozen=True)
class SheetConfig:
    """Which pictures to put on a sheet."""

    state: Path
    """Training state (``.pt``) or warm start (``.safetensors``)."""
    out: Path
    """PNG to write."""
    side: int = 8
    """Pictures per row and column of each grid."""
    seed: int = 1
    """Seed of the latents."""
    work: Path = WORK
    """Folder with the rendered sets."""


@torch.no_grad()
def sample(net: StyleGAN2, count: int, *, psi: float, seed: int, batch: int = 50) -> Tensor:
    """`count` pictures as uint8 [N, R, R, 3] at truncation `psi`; the same seed gives the same pictures."""
    rng = torch.Generator().manual_seed(seed)
    pictures = []
    for z in torch.randn(count, net.config.z_dim, generator=rng).split(batch):
        w = torch.lerp(net.mapping.w_avg, net.mapping(z), psi)
        image = net(w[:, None].expand(-1, net.config.num_ws, -1), noise="none", dtype=torch.bfloat16)
        pictures.append((image * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(pictures)


def grid(pictures: np.ndarray | Tensor, side: int) -> np.ndarray:
    """The first side² pictures uint8 [N, H, W, 3] as one picture [side·H, side·W, 3]."""
    rows = np.asarray(pictures)[: side * side]
    height, width = rows.shape[1:3]
    rows = rows.reshape(side, side, height, width, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(side * height, side * width, 3)


def save_side_by_side(path: Path, grids: list[np.ndarray]) -> None:
    """Write grids of equal height next to each other, 8 white pixels between them."""
    gap = np.full((grids[0].shape[0], 8, 3), 255, np.uint8)
    parts = [part for one in grids for part in (one, gap)][:-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(parts, axis=1)).save(path)


def held_out(resolution: int, *, work: Path = WORK) -> np.ndarray:
    """The renders nobody trains on, uint8 [N, resolution, resolution, 3]."""
    images = load_set("personas", work=work).images
    images = np.array(images[training_share(len(images)) :])
    while images.shape[1] > resolution:
        images = half_size(images)
    return images


def random_features() -> Callable[[Tensor], Tensor]:
    """A fixed random convolutional net and 16x16 pixels: [N, 3, 64, 64] in [-1, 1] -> [N, D].

    Random features see texture and layout, nothing was trained, so no loss can have been fitted to them.
    """
    rng = torch.Generator().manual_seed(0)
    shapes = [(48, 3, 5, 5), (96, 48, 3, 3), (128, 96, 3, 3)]
    kernels = [torch.randn(s, generator=rng) * (2 / (s[1] * s[2] * s[3])) ** 0.5 for s in shapes]

    def features(x: Tensor) -> Tensor:
        found = [F.avg_pool2d(x, 4).flatten(1)]
        for kernel in kernels:
            x = F.relu(F.conv2d(x, kernel, stride=2, padding=kernel.shape[-1] // 2))
            found.append(F.adaptive_avg_pool2d(x, 4).flatten(1))
        return torch.cat(found, dim=1)

    return features


@torch.no_grad()
def embed(pictures: np.ndarray | Tensor, features: Callable[[Tensor], Tensor], *, batch: int = 100) -> Tensor:
    """Features [N, D] of uint8 pictures [N, R, R, 3], box-averaged to 64 px first."""
    found = []
    for rows in torch.as_tensor(np.asarray(pictures)).split(batch):
        x = rows.permute(0, 3, 1, 2).float() / 127.5 - 1
        found.append(features(F.avg_pool2d(x, x.shape[-1] // 64) if x.shape[-1] > 64 else x).float())
    return torch.cat(found)


def kid(real: Tensor, fake: Tensor) -> float:
    """Kernel distance of features [N, D] and [M, D] (Binkowski et al. 2018, cubic kernel, unbiased).

    Every dimension is standardised by the real features first, since these features have no common scale; one
    that hardly varies counts less.
    """
    mean, std = real.mean(0), real.std(0)
    std = std.clamp_min(0.1 * float(std.mean()))
    real, fake = ((real - mean) / std).double(), ((fake - mean) / std).double()
    n, m, dim = len(real), len(fake), real.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / dim + 1) ** 3

    same_real, same_fake = kernel(real, real), kernel(fake, fake)
    within = (same_real.sum() - same_real.trace()) / (n * (n - 1)) + (same_fake.sum() - same_fake.trace()) / (
        m * (m - 1)
    )
    return float(within - 2 * kernel(real, fake).mean())


def make(config: SheetConfig) -> None:
    """Write the sheet: data, samples at truncation 0.7, samples without truncation."""
    net, _ = load_ema(config.state)
    count = config.side**2
    data = held_out(net.config.resolution, work=config.work)[:count]
    grids = [data, *(np.asarray(sample(net, count, psi=psi, seed=config.seed)) for psi in (0.7, 1.0))]
    save_side_by_side(config.out, [grid(one, config.side) for one in grids])
    print(config.out)


if __name__ == "__main__":
    import tyro

    make(tyro.cli(SheetConfig))
