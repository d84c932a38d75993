"""One training state of the avatars generator: networks, optimizers, and a step over all of them."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.avatars import codes
from recipes.avatars.discriminator import Discriminator, Features, Heads, shift
from recipes.avatars.export_generator import generator_config, read_warm_start
from recipes.avatars.render import WORK
from stylograph.nets.stylegan2 import StyleGAN2
from stylograph.weights import read


@dataclass(frozen=True)
class TrainConfig:
    """How to train; every field may change between two runs of the same state."""

    resolution: int = 64
    """Side of the pictures: `trunk`, or twice that (grows the state found in `out`)."""
    work: Path = WORK
    """Folder with the rendered sets."""
    out: Path = WORK / "generator"
    """Folder with the state and the sheets."""
    curve: Path | None = None
    """JSON file that receives the quality over time."""
    warm_start: Path | None = None
    """File with ``G.*``, ``G_ema.*`` and ``D.*`` to start from when there is no state yet."""
    generator: Path | None = None
    """Package file of a generator to go on from, mapping included, when there is no state yet."""
    features: Path | None = None
    """Frozen network that compares and judges pictures; without it only pixels count."""
    minutes: float = 60.0
    """Stop after this time."""
    until: int | None = None
    """Stop after this number of images, counted from the very first."""
    fall_from: int | None = None
    """From this number of images on, all rates fall in a line, to a twentieth at `until`."""
    batch: int = 32
    g_lr: float = 2e-3
    d_lr: float = 2.35e-3
    head_lr: float = 4e-4
    """At the pixel discriminator's rate the heads run ahead and the generator collapses."""
    pixel_weight: float = 10.0
    """Weight of the mean absolute difference between a pair's two pictures."""
    square_weight: float = 0.0
    """Weight of their mean squared difference: the absolute one alone hardly notices rare shapes early on."""
    feature_weight: float = 1.0
    """Weight of the relative difference between their features."""
    gan_weight: float = 1.0
    """Weight of the pixel discriminator in the generator's loss; 0 trains on pairs alone."""
    head_weight: float = 0.3
    """Weight of the projected heads in the generator's loss; 0 leaves them out."""
    pairs_at: int | None = None
    """Side at which pairs are compared when there is no discriminator; smaller is faster at first."""
    g_momentum: float = 0.0
    """Adam's first beta of the generator: 0 against a discriminator, 0.9 helps on pairs alone."""
    free: float = 0.5
    """Share of a batch without a target, when there is a discriminator: mixed and truncated latents."""
    lean: float = 0.0
    """Share of the pairs whose w leans towards other values (`codes.lean`), their target unchanged."""
    psi_low: float = 0.6
    """Half of all latents are truncated by a factor between this and 1."""
    head_shift: int = 3
    """Pixels (at `trunk` size) the heads' input is moved at most."""
    r1_gamma: float = 1.5
    r1_every: int = 16
    ramp_steps: int = 100
    """Steps over which learning rates rise after a start or a growth, while Adam has no history."""
    ema_half_life: float = 10_000.0
    """Images over which the average forgets half."""
    mixing: float = 0.5
    """Probability that the free part of a batch mixes two styles."""
    w_avg_beta: float = 0.995
    trunk: int = 64
    """Side of the pictures the discriminator's trunk and the features see."""
    channel_base: int = 2048
    channel_max: int = 128
    latent: int = 128
    """Width of z, w and the mapping."""
    seed: int = 0
    threads: int = 1
    bf16: bool = True
    save_minutes: float = 3.0
    sheet_minutes: float = 10.0


@dataclass(frozen=True)
class Renders:
    """Training pictures and what they show."""

    images: np.ndarray
    """uint8 [N, R, R, 3]."""
    labels: dict[str, Tensor]
    """int64 [N] by attribute name."""


class Trainer:
    """The networks, their optimizers and the one loop over them."""

    def __init__(self, config: TrainConfig, renders: Renders, features: Features | None = None) -> None:
        """`features`: frozen network behind the feature loss and the projected heads."""
        self.config, self.renders, self.features = config, renders, features
        torch.manual_seed(config.seed)
        self.rng = torch.Generator().manual_seed(config.seed)
        sizes = {"channel_base": config.channel_base, "channel_max": config.channel_max}
        self.g = StyleGAN2(generator_config(config.resolution, width=config.latent, **sizes))
        self.d = Discriminator(config.resolution, trunk=config.trunk, **sizes)
        wanted = features is not None and config.gan_weight and config.head_weight
        self.heads = Heads(features, resolution=config.trunk) if features is not None and wanted else None
        self.g.mapping.requires_grad_(False)  # written down by codes.wire
        self.ema = copy.deepcopy(self.g).requires_grad_(False)
        self.dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.step = self.images_seen = self.started = 0
        self.minutes = 0.0
        self.optimizers = {
            "g": self._adam(self.g, config.g_lr, config.g_momentum),
            "d": self._adam(self.d, config.d_lr),
        }
        if self.heads is not None:
            self.optimizers["heads"] = self._adam(self.heads, config.head_lr)
        self.restore()

    def _adam(self, net: torch.nn.Module, lr: float, momentum: float = 0.0) -> torch.optim.Adam:
        wanted = [value for value in net.parameters() if value.requires_grad]
        return torch.optim.Adam(wanted, lr=lr, betas=(momentum, 0.99), eps=1e-8, fused=True)

    # --- state -----------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.config.out / "state.pt"

    def save(self) -> None:
        """Write the whole state under a temporary name, then rename it."""
        state: dict[str, Any] = {
            "generator_config": self.g.config.to_dict(),
            "g": self.g.state_dict(),
            "ema": self.ema.state_dict(),
            "d": self.d.state_dict(),
            "optimizers": {name: one.state_dict() for name, one in self.optimizers.items()},
            "rng": self.rng.get_state(),
            "images": self.images_seen,
            "step": self.step,
            "started": self.started,
            "minutes": self.minutes,
        }
        if self.heads is not None:
            state["heads"] = self.heads.state_dict()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def restore(self) -> None:
        """Go on from the state in `out`, grow it, or begin (with the warm start, if any)."""
        if not self.path.exists():
            self._begin()
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        found, wanted = state["generator_config"]["resolution"], self.config.resolution
        if found not in (wanted, wanted // 2):
            raise SystemExit(f"{self.path} is at {found} px, asked for {wanted}; choose another --out or --resolution")
        self.rng.set_state(state["rng"])
        self.images_seen, self.step, self.minutes = state["images"], state["step"], state["minutes"]
        self.started = state["started"]
        if self.heads is not None and "heads" in state["optimizers"]:
            self.heads.load_state_dict(state["heads"])
            self._load_optimizer("heads", state)
        if found == wanted:
            self.g.load_state_dict(state["g"])
            self.ema.load_state_dict(state["ema"])
            self.d.load_state_dict(state["d"])
            self._load_optimizer("g", state)
            self._load_optimizer("d", state)
            return
        grow_generator(self.g, state["g"])
        self.ema.load_state_dict(self.g.state_dict())
        grow_generator(self.ema, state["ema"])
        missing, unexpected = self.d.load_state_dict(state["d"], strict=False)
        if unexpected or any(not key.startswith("detail.") for key in missing):
            raise SystemExit(f"{self.path} holds another discriminator: missing {missing}, unknown {unexpected}")
        self.started = self.step

    def _load_optimizer(self, name: str, state: dict[str, Any]) -> None:
        group = self.optimizers[name].param_groups[0]
        asked = {key: group[key] for key in ("lr", "betas")}  # the config's, not the saved ones
        self.optimizers[name].load_state_dict(state["optimizers"][name])
        self.optimizers[name].param_groups[0].update(asked)

    def _begin(self) -> None:
        if (path := self.config.warm_start) is not None:
            from safetensors import safe_open

            self.g.load_state_dict(read_warm_start(path, "G"))
            self.d.load_state_dict(read_warm_start(path, "D"))
            with safe_open(path, "pt") as file:
                self.images_seen = int((file.metadata() or {}).get("images_seen", 0))
        if (path := self.config.generator) is not None:
            checkpoint = read(path)
            self.images_seen = int(checkpoint.provenance.get("images_seen", 0))
            if checkpoint.config["resolution"] == self.config.resolution:
                self.g.load_state_dict(checkpoint.tensors)
            else:
                grow_generator(self.g, checkpoint.tensors)
            self.ema.load_state_dict(self.g.state_dict())
            return
        # Latents get a meaning of their own: a wired mapping, also in front of a warm synthesis.
        codes.wire(self.g.mapping, seed=self.config.seed)
        balance_styles(self.g)
        centre_styles(self.g)
        for side in self.g.config.resolutions:
            if self.config.pairs_at is not None and side > self.config.pairs_at:
                silence(self.g, side)  # the blocks above learn later and must not disturb the picture then
        self.ema.load_state_dict(self.g.state_dict())
        self.optimizers["g"] = self._adam(self.g, self.config.g_lr, self.config.g_momentum)

    # --- one step --------------------------------------------------------------------------------

    def batch(self) -> tuple[Tensor, Tensor, int]:
        """Real pictures, generated ones [N, 3, R, R], and how many of the first of both are pairs."""
        config, count = self.config, self.config.batch
        paired = count if config.gan_weight == 0 else count - int(config.free * count)
        rows = torch.randint(len(self.renders.images), (count,), generator=self.rng)
        real = torch.from_numpy(self.renders.images[rows.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
        labels = {name: values[rows[:paired]] for name, values in self.renders.labels.items()}
        z = codes.latents_of(labels, self.g.config.z_dim, rng=self.rng)
        z = torch.cat([z, torch.randn(count - paired, self.g.config.z_dim, generator=self.rng)])
        side = config.pairs_at if config.pairs_at and config.gan_weight == 0 else config.resolution
        styles = self.g.synthesis.styles(self._ws(z, labels))
        fake = self.g.synthesis.run(styles, noise="none", dtype=self.dtype, stop=self.g.stop_index(side)).image
        assert fake is not None
        return F.avg_pool2d(real, config.resolution // side), fake, paired

    def _ws(self, z: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """W+ of z: half of the rows truncated; the first, paired with `labels`, may lean, the others mix; moves `w_avg`."""
        paired = len(next(iter(labels.values())))
        mapping, layers = self.g.mapping, self.g.config.num_ws
        w = mapping(z)
        mapping.w_avg.lerp_(w.detach().mean(0), 1 - self.config.w_avg_beta)
        psi = 1 - (1 - self.config.psi_low) * torch.rand(len(z), generator=self.rng)
        psi = torch.where(torch.rand(len(z), generator=self.rng) < 0.5, psi, 1.0)
        if self.config.lean:
            leans = torch.rand(paired, 1, generator=self.rng) < self.config.lean
            move = torch.where(leans, codes.lean(mapping, labels, rng=self.rng), 0.0)
            w = torch.cat([w[:paired] + move, w[paired:]])
        ws = torch.lerp(mapping.w_avg, w, psi[:, None])[:, None].expand(-1, layers, -1)
        if len(z) > paired and torch.rand((), generator=self.rng) < self.config.mixing:
            cut = int(torch.randint(1, layers, (), generator=self.rng))
            mixed = torch.cat([ws[paired:, :cut], ws[paired:, cut:].roll(1, 0)], dim=1)
            ws = torch.cat([ws[:paired], mixed])
        return ws

    def _small(self, images: Tensor) -> Tensor:
        """Pictures at the size the features see: box-averaged, or (early pairs) enlarged."""
        side = images.shape[-1]
        if side < self.config.trunk:
            return F.interpolate(images, scale_factor=self.config.trunk / side, mode="bilinear")
        return F.avg_pool2d(images, side // self.config.trunk) if side > self.config.trunk else images

    def _head_logits(self, images: Tensor) -> Tensor:
        assert self.heads is not None
        return self.heads(shift(self._small(images), most=self.config.head_shift, rng=self.rng), dtype=self.dtype)

    def _apply(self, name: str, base_lr: float) -> None:
        ramp = min(1.0, (self.step - self.started + 1) / self.config.ramp_steps)
        self.optimizers[name].param_groups[0]["lr"] = base_lr * ramp * self._fallen()
        self.optimizers[name].step()
        self.optimizers[name].zero_grad(set_to_none=True)

    def _fallen(self) -> float:
        """What is left of the learning rates at the end of a run."""
        begin, end = self.config.fall_from, self.config.until
        if begin is None or end is None:
            return 1.0
        gone = (self.images_seen - begin) / max(1, end - begin)
        return 1 - 0.95 * min(1.0, max(0.0, gone))

    def train_step(self) -> dict[str, float]:
        """One update of all networks on the same fakes; returns the numbers to log."""
        config = self.config
        real, fake, paired = self.batch()
        log = self._discriminate(real, fake.detach()) if config.gan_weight else {}

        log["pixel"] = (fake[:paired] - real[:paired]).abs().mean()
        loss = config.pixel_weight * log["pixel"]
        if config.square_weight:
            loss = loss + config.square_weight * (fake[:paired] - real[:paired]).square().mean()
        if self.features is not None:
            log["feature"] = self._feature_distance(fake[:paired], real[:paired])
            loss = loss + config.feature_weight * log["feature"]
        if config.gan_weight:
            self.d.requires_grad_(False)
            log["g"] = F.softplus(-self.d(fake, dtype=self.dtype)).mean()
            loss = loss + config.gan_weight * log["g"]
        if self.heads is not None:
            self.heads.requires_grad_(False)
            loss = loss + config.head_weight * F.softplus(-self._head_logits(fake)).mean()
        loss.backward()
        self._apply("g", config.g_lr)

        self.step += 1
        self.images_seen += config.batch
        self._average()
        numbers = {name: float(value.detach()) for name, value in log.items()}
        if not all(map(math.isfinite, numbers.values())):
            raise SystemExit(f"training diverged at {self.images_seen} images: {numbers}; lower the learning rates")
        return numbers

    def _feature_distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean over feature maps of the absolute difference, relative to the maps of the real pictures."""
        assert self.features is not None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
            with torch.no_grad():
                wanted = self.features(channels_last(self._small(real)))
            found = self.features(channels_last(self._small(fake)))
        gaps = [(a - b).float().abs().mean() / b.float().abs().mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(gaps).mean()

    def _discriminate(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """One update of the pixel discriminator and of the heads."""
        config = self.config
        self.d.requires_grad_(True)
        real_logits, fake_logits = self.d(real, dtype=self.dtype), self.d(fake, dtype=self.dtype)
        (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()).backward()
        log = {"real": real_logits.mean(), "fake": fake_logits.mean()}
        if self.step % config.r1_every == 0:
            log["r1"] = self._r1(real)
        self._apply("d", config.d_lr)
        if self.heads is not None:
            self.heads.requires_grad_(True)
            real_logits, fake_logits = self._head_logits(real), self._head_logits(fake)
            (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()).backward()
            log |= {"head_real": real_logits.mean(), "head_fake": fake_logits.mean()}
            self._apply("heads", config.head_lr)
        return log

    def _r1(self, real: Tensor) -> Tensor:
        """Lazy gradient penalty on real pictures in float32: adds to the gradients, returns mean |grad|²."""
        real = real.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.d(real).sum(), real, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean()
        (penalty * (self.config.r1_gamma / 2 * self.config.r1_every)).backward()
        return penalty

    def _average(self) -> None:
        half_life = min(self.config.ema_half_life, 0.05 * self.images_seen)
        weight = 1 - 0.5 ** (self.config.batch / max(half_life, 1e-8))
        with torch.no_grad():
            for mean, now in zip(self.ema.parameters(), self.g.parameters(), strict=True):
                mean.lerp_(now, weight)
            self.ema.mapping.w_avg.copy_(self.g.mapping.w_avg)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def balance_styles(net: StyleGAN2) -> None:
    """Rescale the 3x3 layers so that styles average about 1 and weights deviate by 1; the pictures stay the same.

    Demodulation cancels both scales, but Adam's steps do not follow them: in the warm start, styles of 13 at 32 px
    varied by 1 between latents, so the upper layers hardly learned to tell latents apart.
    """
    for layer in net.config.layers:
        if not layer.to_rgb:
            conv = net.synthesis.get_submodule(layer.name)
            affine = conv.get_submodule("affine")
            scale = affine(net.mapping.w_avg).abs().mean().clamp_min(1.0)
            affine.get_parameter("weight").div_(scale)
            affine.get_parameter("bias").div_(scale)
            weight = conv.get_parameter("weight")
            weight.div_(weight.std())


@torch.no_grad()
def centre_styles(net: StyleGAN2) -> None:
    """Make all styles 1 at the mean w, whatever that is, so that they differ by what tells latents apart."""
    for layer in net.config.layers:
        affine = net.synthesis.get_submodule(layer.name).get_submodule("affine")
        bias = affine.get_parameter("bias")
        bias.add_(1 - affine(net.mapping.w_avg))


def grow_generator(net: StyleGAN2, smaller: dict[str, Tensor]) -> None:
    """Load the state of a generator half the size; the new block adds nothing to its picture yet."""
    top = f"synthesis.b{net.config.resolution}."
    missing, unexpected = net.load_state_dict(smaller, strict=False)
    if unexpected or any(not key.startswith(top) for key in missing):
        raise SystemExit(f"cannot grow from this state: missing {missing}, unknown {unexpected}")
    silence(net, net.config.resolution)


def silence(net: StyleGAN2, side: int) -> None:
    """Make the block of `side` add nothing to the up-sampled picture below it."""
    rgb = net.synthesis.get_submodule(f"b{side}.torgb")
    torch.nn.init.zeros_(rgb.get_parameter("weight"))
    torch.nn.init.zeros_(rgb.get_parameter("bias"))
