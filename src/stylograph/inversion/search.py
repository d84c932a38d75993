"""Inversion by optimisation: gradient descent on the latent code of each picture (Abdal et al. 2019; PTI's first step).

minimise  likeness loss + λ_near·‖w - w_start‖² / variance of W + noise regularisation (StyleGAN2, appendix D)
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.edit.optimize import flat, learning_rate
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
    parts = []
    for first in range(0, len(images), settings.batch):
        here = slice(first, first + settings.batch)
        original = likeness.of(images[here], generator, up_to=settings.up_to)
        begin = beginnings(generator, original, settings) if start is None else generator.w_plus(start[here])
        if start is None:
            tries = torch.arange(len(original), device=generator.device).repeat_interleave(settings.starts)
            trial = _Descent(generator, likeness, original[tries], begin, settings)
            begin, loss = trial.run(settings.trial, None, 0, 0)
            best = loss.reshape(-1, settings.starts).argmin(1)
            begin = begin[torch.arange(len(best), device=best.device) * settings.starts + best]
        descent = _Descent(generator, likeness, original, begin, settings)
        batches = math.ceil(len(images) / settings.batch)
        codes, _ = descent.run(
            settings.steps, on_step, first // settings.batch * settings.steps, batches * settings.steps
        )
        parts.append(codes.tensor)
    return Latents("w+", torch.cat(parts), generator)


@torch.no_grad()
def beginnings(generator: Generator, original: Original, config: SearchConfig) -> Latents:
    """Places to begin at, W+ of N·starts rows, those of one picture side by side: the average code, and the nearest of a
    pool of random ones, as far as thumbnails tell."""
    average = generator.net.mapping.w_avg
    pool = torch.cat([average[None], average.lerp(generator.w_samples(config.pool, seed=config.seed), 0.7)])
    size = min(generator.resolutions, key=lambda r: abs(r - 4 * THUMBNAIL))
    small = min(THUMBNAIL, size, original.images.shape[-1])
    drawn = [generator.render(Latents("w", part), up_to=size) for part in pool.split(config.batch)]
    thumbnails = resize(torch.cat(drawn).clamp(-1, 1), small)
    distance = torch.cdist(resize(original.images, small).flatten(1), thumbnails.flatten(1))
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
        self.net, self.noise = generator.net, dict[str, Tensor]()
        if config.noise:
            self.net, self.noise = with_noise(generator.net, len(original))

    def codes(self, vectors: Tensor) -> Latents:
        return Latents("w+", vectors.expand(-1, self.generator.num_ws, -1), self.generator)

    def loss(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of every picture [N], and the penalty of the noise maps, one number."""
        styles = self.net.synthesis.styles(self.codes(vectors).tensor)
        stop = self.net.stop_index(self.config.up_to or self.generator.resolution)
        image = self.net.synthesis.run(styles, dtype=self.generator.dtype, stop=stop).image
        assert image is not None
        far = (vectors - self.start).square().sum(2).mean(1) / self.variance
        loss = self.likeness.loss(image, self.original) + self.config.near * far
        return loss, self.config.noise * sum((structure(part) for part in self.noise.values()), torch.zeros(()))

    @torch.enable_grad()
    def run(self, steps: int, on_step: OnStep | None, base: int, total: int) -> tuple[Latents, Tensor]:
        """The best codes met in so many steps, W+, and their losses [N]."""
        vectors = self.start.clone().requires_grad_()
        free = [vectors, *self.noise.values()]
        optimizer = torch.optim.Adam(free, lr=self.config.lr, foreach=False)
        best = torch.full((len(vectors),), math.inf, device=vectors.device)
        kept, history = vectors.detach().clone(), []
        for step in range(steps + 1):
            loss, penalty = self.loss(vectors)
            found = loss.detach()
            if step == 0 and not bool(torch.isfinite(found).all()):
                raise InvertError("got a loss that is NaN at the start; check generator, picture and networks")
            better = found < best  # False for NaN
            best = torch.where(better, found, best)
            kept[better] = vectors.detach()[better]
            history.append(best)
            if on_step:
                on_step(Step("searching the code", base + step, total, {"loss": float(best.mean())}))
            if step == steps or not bool(torch.isfinite(found).any()) or flat(history, self.config.patience):
                break
            gradients = torch.autograd.grad(loss.sum() + penalty, free, allow_unused=True)
            for tensor, gradient in zip(free, gradients, strict=True):
                tensor.grad = None if gradient is None else torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
            optimizer.param_groups[0]["lr"] = learning_rate((step + 1) / (steps + 1), lr=self.config.lr)
            optimizer.step()
            with torch.no_grad():
                for part in self.noise.values():  # as large as noise, whatever the rate
                    part.sub_(part.mean((2, 3), keepdim=True))
                    part.mul_(part.square().mean((2, 3), keepdim=True).clamp_min(1e-12).rsqrt())
        return self.codes(kept), best


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
