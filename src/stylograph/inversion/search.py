"""Inversion by optimisation: gradient descent on the latent code of each picture (Abdal et al. 2019; PTI's first step).

minimise  likeness loss + λ_near·‖w - w_start‖² / variance of W + noise regularisation (StyleGAN2, appendix D)
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.edit.optimize import descend
from stylograph.errors import InvertError
from stylograph.generator import Generator
from stylograph.images import resize
from stylograph.inversion.config import SearchConfig
from stylograph.inversion.likeness import Likeness, Original
from stylograph.nets.stylegan2 import StyleConv, StyleGAN2
from stylograph.types import Latents, OnStep, Step

THUMBNAIL = 16
"""Side of the pictures that starts are chosen by."""
SMALLEST_NOISE = 8
"""Noise maps are compared with themselves down to this side."""


def search(
    generator: Generator,
    images: Tensor,
    likeness: Likeness,
    *,
    start: Latents | None = None,
    config: SearchConfig | None = None,
    on_step: OnStep | None = None,
) -> Latents:
    """The codes a generator draws images from, W+ [N, num_ws, w_dim] (all vectors of a row alike if the space is W).

    images: [N, 3, H, W] in [-1, 1], aligned as the generator's own are.
    start: where to begin, W or W+ codes of N images, as an encoder gives them; without it several places are tried.
    The step with the smallest loss is kept, image by image; images do not influence one another. The same call gives
    the same codes. Raises `InvertError` for settings that make no sense and a loss that is NaN from the start.
    """
    settings = config or SearchConfig()
    _validate(settings, generator)
    if start is not None and len(start) != len(images):
        raise InvertError(f"got {len(start)} codes to start from for {len(images)} pictures; expected one each")
    each = settings.starts if start is None else 1
    places = beginnings(generator, images, settings) if start is None else generator.w_plus(start)
    total = math.ceil(len(images) / settings.batch) * settings.steps
    parts = []
    for first in range(0, len(images), settings.batch):
        original = likeness.of(images[first : first + settings.batch], generator, up_to=settings.up_to)
        begin = places[first * each : (first + settings.batch) * each]
        if start is None:  # a few steps from each of the places tell which is the best
            several = original[torch.arange(len(original)).repeat_interleave(each)]
            begin, loss = _Descent(generator, likeness, several, begin, settings).run(settings.trial)
            best = loss.reshape(-1, each).argmin(1)
            begin = begin[torch.arange(len(best), device=best.device) * each + best]
        told = Step("searching the code", first // settings.batch * settings.steps, total)
        codes, _ = _Descent(generator, likeness, original, begin, settings).run(settings.steps, on_step, told)
        parts.append(codes.tensor)
    return Latents("w+", torch.cat(parts), generator)


@torch.no_grad()
def beginnings(generator: Generator, images: Tensor, config: SearchConfig) -> Latents:
    """Places to begin at for images [N, 3, H, W], W+ of N·starts rows, those of one picture side by side: the average code,
    and the nearest of a pool of random ones, as far as thumbnails tell."""
    average = generator.net.mapping.w_avg
    pool = torch.cat([average[None], average.lerp(generator.w_samples(config.pool, seed=config.seed), 0.7)])
    size = min(generator.resolutions, key=lambda r: abs(r - 4 * THUMBNAIL))
    small = min(THUMBNAIL, size)
    drawn = [generator.render(Latents("w", part), up_to=size) for part in pool.split(config.batch)]
    thumbnails = resize(torch.cat(drawn).clamp(-1, 1), small)
    distance = torch.cdist(resize(images.to(thumbnails), small).flatten(1), thumbnails.flatten(1))
    nearest = distance[:, 1:].topk(config.starts - 1, largest=False).indices + 1
    rows = F.pad(nearest, (1, 0))  # row 0 of the pool is the average
    return generator.w_plus(Latents("w", pool[rows.flatten()], generator))


class _Descent:
    """The loss of one batch of pictures as a function of their codes and noise maps, and its descent."""

    def __init__(
        self, generator: Generator, likeness: Likeness, original: Original, begin: Latents, config: SearchConfig
    ) -> None:
        self.generator, self.likeness, self.original, self.config = generator, likeness, original, config
        self.variance = generator.w_samples(1000).var(0).sum()
        start = begin.tensor.detach().float()
        self.start = start.mean(1, keepdim=True) if config.space == "w" else start
        self.net, self.noise = generator.net, list[Tensor]()
        if config.noise:
            self.net, maps = with_noise(generator.net, len(original))
            self.noise = list(maps.values())

    def codes(self, vectors: Tensor) -> Latents:
        return Latents("w+", vectors.expand(-1, self.generator.num_ws, -1), self.generator)

    def loss(self, vectors: Tensor) -> Tensor:
        """The loss of every picture [N]."""
        styles = self.net.synthesis.styles(self.codes(vectors).tensor)
        stop = self.net.stop_index(self.config.up_to or self.generator.resolution)
        image = self.net.synthesis.run(styles, dtype=self.generator.dtype, stop=stop).image
        assert image is not None
        far = (vectors - self.start).square().sum(2).mean(1) / self.variance
        return self.likeness.loss(image, self.original) + self.config.near * far

    def penalty(self) -> Tensor:
        """How far the noise maps are from noise."""
        return self.config.noise * torch.stack([structure(part) for part in self.noise]).sum()

    @torch.no_grad()
    def settle(self) -> None:
        """Makes the noise maps as large as noise, whatever the rate."""
        for part in self.noise:
            part.sub_(part.mean((2, 3), keepdim=True))
            part.mul_(part.square().mean((2, 3), keepdim=True).clamp_min(1e-12).rsqrt())

    def run(self, steps: int, on_step: OnStep | None = None, told: Step | None = None) -> tuple[Latents, Tensor]:
        """The best codes met in so many steps, W+, and their losses [N]."""
        found = descend(
            self.start,
            self.loss,
            steps=steps,
            lr=self.config.lr,
            patience=self.config.patience,
            beside=self.noise,
            penalty=self.penalty if self.noise else None,
            settle=self.settle,
            lost=InvertError("got a loss that is NaN at the start; check generator, picture and networks"),
            on_step=on_step,
            told=told or Step("trying a start", 0),
        )
        return self.codes(found.kept), found.loss


def with_noise(net: StyleGAN2, n: int) -> tuple[StyleGAN2, dict[str, Tensor]]:
    """The network with noise maps [n, 1, R, R] that can be optimised, one set per picture, and these maps by layer.

    Everything else is the network's own, not a copy.
    """
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    twin = copy.deepcopy(net, shared)
    maps = {}
    for name, module in twin.named_modules():
        if isinstance(module, StyleConv) and module.has_noise:
            noise = module.noise_const.expand(n, 1, -1, -1).clone().requires_grad_()
            module.noise_const = maps[name] = noise
    return twin, maps


def structure(noise: Tensor) -> Tensor:
    """How far noise maps [N, 1, R, R] are from noise: their squared correlations with their neighbours at every scale
    (StyleGAN2, appendix D), summed over the maps."""
    total = noise.new_zeros(())
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean((1, 2, 3)).square().sum()
        if noise.shape[-1] <= SMALLEST_NOISE:
            return total
        noise = F.avg_pool2d(noise, 2)


def _validate(config: SearchConfig, generator: Generator) -> None:
    least = {
        "steps": 1,
        "starts": 1,
        "pool": config.starts,
        "trial": 1,
        "near": 0,
        "noise": 0,
        "batch": 1,
        "patience": 0,
    }
    for name, smallest in least.items():
        if not getattr(config, name) >= smallest:
            raise InvertError(f"got {name}={getattr(config, name)}; expected at least {smallest}")
    if not config.lr > 0:
        raise InvertError(f"got lr={config.lr}; expected a rate above 0")
    if config.up_to is not None and config.up_to not in generator.resolutions:
        known = ", ".join(map(str, generator.resolutions))
        raise InvertError(f"got up_to={config.up_to}; expected one of the generator's resolutions: {known}")
