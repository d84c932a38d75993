"""Pivotal tuning (Roich et al. 2021): the generator learns to draw one picture at one code, and keeps to itself elsewhere.

minimise  likeness(G'(w), picture) + λ_R · MSE(G'(w_r), G(w_r)),  w_r = w + α·(w_z - w)/‖w_z - w‖, z random

Departures from the paper. What trains is not the weights but two thin factors of their change, so that the result is
small: cut to 2 % of the generator afterwards, trained weights have nearly twice the error they had; factors of that size
do not. And at w_r only pixels are compared, which keeps edits as well as a perceptual distance does and leaves the picture
closer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stylograph.errors import InvertError, LatentsError
from stylograph.generator import Generator
from stylograph.inversion.config import TuneConfig
from stylograph.inversion.delta import Delta, LowRank, digest_of, sharing
from stylograph.inversion.likeness import Likeness
from stylograph.nets.stylegan2 import StyleGAN2
from stylograph.types import Latents, OnStep, Step

SMALL_RATE = 0.1
"""Learning rate of small tensors, as a part of the factors'."""
FLAT = 0.01
"""A loss that falls by less than this part is flat."""


def tune(
    generator: Generator,
    image: Tensor,
    latents: Latents,
    likeness: Likeness,
    *,
    config: TuneConfig | None = None,
    on_step: OnStep | None = None,
) -> tuple[Delta, dict[str, Any]]:
    """What has to change for `generator` to draw the image at this code, and figures about it.

    image: [1, 3, R, R] in [-1, 1], R the generator's resolution.
    latents: one code in W, W+ or S, from an inversion.
    The generator stays as it is; `delta.apply(generator)` is the tuned one. The step with the smallest loss is kept. The
    same call gives the same result.
    Figures: mean square error and loss "before", "after", and "stored", that is with the change in eight bits; "steps";
    "ended", why no more of them; "rank", the largest; "bytes"; "share" of the generator's size in float32.
    Raises `LatentsError` for codes that do not fit, `InvertError` for an image of another size, for settings that make no
    sense, and for a loss that is NaN from the start.
    """
    settings = config or TuneConfig()
    _validate(settings)
    if len(latents) != 1:
        raise LatentsError(f"got {len(latents)} codes; expected one: a generator is tuned to one picture at a time")
    shape = [1, 3, generator.resolution, generator.resolution]
    if list(image.shape) != shape or not bool(torch.isfinite(image).all()):
        raise InvertError(
            f"got an image of shape {list(image.shape)}; expected finite numbers {shape}; resize it first"
        )
    return _Tuning(generator, image, latents, likeness, settings).run(on_step)


def trained(net: StyleGAN2) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Name -> parameter of what is tuned: the convolutions' weights, and everything else of the synthesis network but
    the affine layers (they would only move the code, which is given)."""
    found = {n: p for n, p in net.named_parameters() if n.startswith("synthesis.") and ".affine." not in n}
    large = {n: p for n, p in found.items() if p.ndim == 4 and ".torgb." not in n}
    return large, {n: p for n, p in found.items() if n not in large}


def ranks(net: StyleGAN2, budget: float) -> dict[str, int]:
    """Rank of every weight's change: the same for all, as large as the budget allows, but no larger than is of use.

    Raises `InvertError` if the budget is too small for rank 1.
    """
    large, small = trained(net)
    total = 4 * sum(p.numel() for p in net.parameters())
    fixed = 2 * sum(p.numel() for p in small.values())

    def size(rank: int) -> tuple[dict[str, int], int]:
        found = {name: min(rank, *p.flatten(1).shape) for name, p in large.items()}
        return found, fixed + sum(r * LowRank.bytes_per_rank(large[n].shape) for n, r in found.items())

    if size(1)[1] > budget * total:
        least = math.ceil(1000 * size(1)[1] / total) / 1000
        raise InvertError(f"got budget={budget}; this generator needs at least {least}: raise it")
    rank = 1
    while size(rank + 1)[1] <= budget * total and size(rank + 1)[0] != size(rank)[0]:
        rank += 1
    return size(rank)[0]


class _Tuning:
    """A twin of the generator whose weights are those of the generator plus σ · left · right."""

    def __init__(
        self, generator: Generator, image: Tensor, latents: Latents, likeness: Likeness, config: TuneConfig
    ) -> None:
        self.generator, self.likeness, self.config = generator, likeness, config
        self.rng = torch.Generator().manual_seed(config.seed)
        self.latents = latents.with_tensor(latents.tensor.detach().to(generator.device).float())
        with torch.no_grad():
            self.code = generator.styles(self.latents).tensor
            self.spread = 0.0
            """Root of the summed variances of random codes, in the latents' space."""
            if config.locality:
                wide = generator.style_statistics(truncation=1.0).std if latents.space == "s" else None
                self.spread = float((generator.w_samples(1000).std(0) if wide is None else wide).norm())
        self.original = likeness.of(image, generator)
        names = [name for part in trained(generator.net) for name in part]
        self.net = sharing(generator.net, names)
        self.large, self.small = trained(self.net)
        self.left: dict[str, Tensor] = {}
        self.right: dict[str, Tensor] = {}
        for name, rank in ranks(generator.net, config.budget).items():
            weight = self.large[name].flatten(1)
            random = torch.randn((weight.shape[1], rank), generator=self.rng)
            self.left[name] = weight.new_zeros((weight.shape[0], rank))
            self.right[name] = torch.linalg.qr(random)[0].T.contiguous().to(weight)
        self.sigma = {name: float(p.std(correction=0)) for name, p in self.large.items()}
        self.starts = dict(generator.net.named_parameters())
        for parameter in (self.large | self.small).values():
            parameter.requires_grad_(True)
        self.best = self.state()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """A copy of all that trains."""
        parts = {"left": self.left, "right": self.right, "small": dict[str, Tensor](self.small)}
        return {part: {n: t.detach().clone() for n, t in tensors.items()} for part, tensors in parts.items()}

    def draw(self, net: StyleGAN2, code: Tensor) -> Tensor:
        image = net.synthesis.run(code, dtype=self.generator.dtype).image
        assert image is not None
        return image

    def neighbour(self) -> Latents:
        """A code some way from the one that is tuned at, in the same space, towards a random one (paper, eq. 6)."""
        generator, own = self.generator, self.latents
        z = torch.randn((1, generator.z_dim), generator=self.rng)
        classes = generator.config.c_dim
        label = int(torch.randint(classes, (1,), generator=self.rng)) if classes else None
        random = generator.map(z, label=label, mined=False)
        if own.space != "w":
            random = generator.w_plus(random) if own.space == "w+" else generator.styles(random)
        way = random.tensor - own.tensor
        far = self.config.reach * self.spread / way.norm(dim=-1, keepdim=True).clamp_min(1e-8)
        return own.with_tensor(own.tensor + far * way)

    def losses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the picture, loss of a neighbour, and the picture [1, 3, R, R]."""
        if not self.config.locality:
            image = self.draw(self.net, self.code)
            return self.likeness.loss(image, self.original)[0], image.new_zeros(()), image
        with torch.no_grad():
            beside = self.generator.styles(self.neighbour()).tensor
            kept = self.draw(self.generator.net, beside)
        images = self.draw(self.net, torch.cat([self.code, beside]))
        return self.likeness.loss(images[:1], self.original)[0], (images[1:] - kept).square().mean(), images[:1]

    @torch.enable_grad()
    def run(self, on_step: OnStep | None) -> tuple[Delta, dict[str, Any]]:
        config = self.config
        groups = [
            {"params": [*self.left.values(), *self.right.values()], "lr": config.lr},
            {"params": [*self.small.values()], "lr": SMALL_RATE * config.lr},
        ]
        optimizer = torch.optim.Adam(groups, foreach=False)
        lowest, first, history = math.inf, {}, []
        ended, step = "all steps done", 0
        for step in range(config.steps + 1):
            loss, beside, image = self.losses()
            value, mse = float(loss.detach()), float((image.detach() - self.original.images).square().mean())
            if not step:
                first = {"mse": mse, "loss": value}
                if not math.isfinite(value):
                    raise InvertError("got a loss that is NaN at the start; check generator, picture and networks")
            if value < lowest:
                lowest, self.best = value, self.state()
            history.append(lowest)
            if on_step:
                on_step(
                    Step("tuning", step, config.steps, {"loss": value, "mse": mse, "locality": float(beside.detach())})
                )
            if step == config.steps:
                break
            if mse < config.enough:
                ended = "close enough"
                break
            if config.patience and step >= config.patience and lowest > (1 - FLAT) * history[step - config.patience]:
                ended = "no longer better"
                break
            optimizer.zero_grad(set_to_none=True)
            self.net.zero_grad(set_to_none=True)
            (loss + config.locality * beside).backward()
            if not self.pass_on():
                ended = "the loss or its gradient is no longer a number"
                break
            optimizer.step()
            self.put()
        return self.result(first, {"steps": step, "ended": ended})

    @torch.no_grad()
    def pass_on(self) -> bool:
        """Gradients of the weights become those of their factors; False if they are no numbers."""
        for name, parameter in self.large.items():
            assert parameter.grad is not None
            slope = self.sigma[name] * parameter.grad.flatten(1)
            self.left[name].grad = slope @ self.right[name].T
            self.right[name].grad = self.left[name].T @ slope
        found = [t.grad for part in (self.left, self.right, self.small) for t in part.values()]
        return all(bool(torch.isfinite(t).all()) for t in found if t is not None)

    @torch.no_grad()
    def put(self) -> None:
        """Weights from their factors."""
        for name, parameter in self.large.items():
            change = self.left[name] @ self.right[name]
            parameter.copy_(self.starts[name] + self.sigma[name] * change.view(parameter.shape))

    @torch.no_grad()
    def result(self, first: dict[str, float], more: dict[str, Any]) -> tuple[Delta, dict[str, Any]]:
        best = self.best
        for part, now in (("left", self.left), ("right", self.right), ("small", self.small)):
            for name, tensor in now.items():
                tensor.copy_(best[part][name])
        self.put()
        delta = Delta(
            self.generator.digest,
            digest_of(self.latents),
            {n: LowRank.of(self.sigma[n] * best["left"][n].cpu(), best["right"][n].cpu()) for n in self.left},
            {n: (t - self.starts[n]).cpu().to(torch.float16) for n, t in best["small"].items()},
        )
        figures = {}
        for name, net in (("after", self.net), ("stored", delta.apply(self.generator).net)):
            image = self.draw(net, self.code)
            figures[name] = {
                "mse": float((image - self.original.images).square().mean()),
                "loss": float(self.likeness.loss(image, self.original)),
            }
        size = 4 * sum(p.numel() for p in self.generator.net.parameters())
        rank = max(matrix.left.shape[1] for matrix in delta.matrices.values())
        told = {"rank": rank, "bytes": delta.size, "share": delta.size / size}
        return delta, {"before": first, **figures, **more, **told}


def _validate(config: TuneConfig) -> None:
    least = {"steps": 1, "patience": 0, "locality": 0, "reach": 0, "enough": 0, "seed": 0}
    for name, smallest in least.items():
        if not smallest <= getattr(config, name) < math.inf:
            raise InvertError(f"got {name}={getattr(config, name)}; expected at least {smallest}")
    if not 0 < config.lr < math.inf:
        raise InvertError(f"got lr={config.lr}; expected a rate above 0")
    if not 0 < config.budget <= 1:
        raise InvertError(f"got budget={config.budget}; expected a share of the generator's size, above 0, at most 1")
