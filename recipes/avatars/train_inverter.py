"""Train the avatars' inverter: a picture to the W+ code that the generator draws it from.

As in e4e (Tov et al. 2021) the network gives one code in W and an offset for every layer, and large offsets cost: codes
near W can be edited. Half of every batch the generator drew itself, so that the right code is known; half are drawings
it has to come close to. Inputs are distorted, what is asked for is the clean picture, so that a soft, noisy or slightly
misplaced picture leads to the avatar that was meant. A quarter has other colours, in what is asked for as well.
``python -m recipes.avatars.train_inverter`` writes ``inverter.safetensors``; an interrupted training goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recipes.avatars.codes import latents_of
from recipes.avatars.recogniser_training import distort, fit, half_renders, save
from recipes.avatars.render import WORK, training_share
from recipes.avatars.train_features import to_tensor
from stylograph.assets import ASSETS
from stylograph.embed import Clip
from stylograph.generator import Generator
from stylograph.identity import _avatars as read_identity
from stylograph.images import resize
from stylograph.inversion.perceptual import Perceptual
from stylograph.metrics import Judge
from stylograph.nets.inverter import Inverter, InverterConfig
from stylograph.types import Latents


@dataclass(frozen=True)
class TrainInverterConfig:
    """How the inverter is trained."""

    work: Path = WORK
    """Folder with the rendered sets, and for the state."""
    assets: Path = ASSETS / "avatars"
    """Folder with the generator, the robust CLIP, the identity net and the judge."""
    out: Path = ASSETS / "avatars" / "inverter.safetensors"
    """File to write."""
    steps: int = 1500
    """Training steps."""
    batch: int = 32
    """Pictures per step, half of them the generator's own."""
    lr: float = 2e-3
    """Peak learning rate of AdamW (one-cycle cosine)."""
    perceptual: float = 0.4
    """Weight of the distance of CLIP's layers, beside a mean square error of weight 1."""
    identity: float = 0.1
    """Weight of 1 - cosine of the identity net."""
    code: float = 0.2
    """Weight of the squared distance from the known code, in units of the variance of W: what a drawing shows tells its
    code as well (codes.py). Recoloured pictures have none."""
    offsets: float = 0.002
    """Weight of the squared length of the offsets, in the same units: what keeps a code near W."""
    strength: float = 0.5
    """Strength of the distortions on half of every batch; the other half is only softened."""
    recoloured: float = 0.25
    """Share of pictures with other colours."""
    bf16: bool = False
    """Draw and look in bfloat16; slower on a CPU without instructions for it."""
    seed: int = 37
    """Seed of weights, batches and distortions."""
    report: int = 500
    """Steps between two looks at held-out drawings."""
    check: int = 256
    """Held-out drawings looked at."""


def recolour(images: torch.Tensor, share: float, rng: torch.Generator) -> torch.Tensor:
    """Mix the channels of a share of the images [N, 3, H, W] a little, and move their brightness."""
    n = len(images)
    mix = torch.eye(3) + 0.35 * (torch.rand((n, 3, 3), generator=rng) - 0.5)
    mix = mix / mix.sum(2, keepdim=True)  # white stays white
    shift = 0.3 * (torch.rand((n, 1, 1, 1), generator=rng) - 0.5)
    other = (torch.einsum("nij,njhw->nihw", mix, images) + shift).clamp(-1, 1)
    return torch.where(torch.rand((n, 1, 1, 1), generator=rng) < share, other, images)


class Teacher:
    """Draws batches and knows what is wrong with a code."""

    def __init__(self, config: TrainInverterConfig, images: np.ndarray, labels: dict[str, torch.Tensor]) -> None:
        self.config, self.images, self.labels = config, images, labels
        self.rng = torch.Generator().manual_seed(config.seed)
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.generator = Generator.from_pretrained(config.assets / "generator.safetensors", dtype=dtype)
        self.perceptual = Perceptual(Clip.from_pretrained(config.assets / "clip-robust"))
        self.identity = read_identity(config.assets / "identity.safetensors", "cpu")
        self.w_avg = self.generator.net.mapping.w_avg
        self.variance = self.generator.w_samples().var(0).sum()

    def render(self, codes: torch.Tensor) -> torch.Tensor:
        """What the generator draws from W+ codes, averaged to the size of the drawings, which may be smaller."""
        return resize(self.generator.render(Latents("w+", codes, self.generator)), self.images.shape[1])

    @torch.no_grad()
    def drawn(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures of the generator's own and their W+ codes: of one latent at some truncation, a third of two latents."""
        z = torch.randn((2 * n, self.generator.z_dim), generator=self.rng)
        psi = 0.5 + 0.5 * torch.rand((n, 1, 1), generator=self.rng)
        first, second = self.generator.map(z).tensor.chunk(2)
        cut = torch.randint(1, 3 * self.generator.num_ws, (n, 1, 1), generator=self.rng)
        place = torch.arange(self.generator.num_ws)[None, :, None]
        codes = torch.where(place < cut, first[:, None], second[:, None])
        codes = self.w_avg + psi * (codes - self.w_avg)
        return self.render(codes).clamp(-1, 1), codes

    @torch.no_grad()
    def meant(self, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """W+ codes that stand for drawings with these labels."""
        z = latents_of(labels, self.generator.z_dim, rng=self.rng)
        return self.generator.map(z).tensor[:, None].expand(-1, self.generator.num_ws, -1)

    def loss(self, network: Inverter) -> torch.Tensor:
        """The loss of one batch, scalar."""
        config, half = self.config, self.config.batch // 2
        rows = torch.randint(len(self.images), (config.batch - half,), generator=self.rng)
        own, codes = self.drawn(half)
        wanted = torch.cat([own, to_tensor(self.images[rows.numpy()])])
        codes = torch.cat([codes, self.meant({name: value[rows] for name, value in self.labels.items()})])
        recoloured = recolour(wanted, config.recoloured, self.rng)
        known = (recoloured == wanted).flatten(1).all(1)
        order = torch.randperm(config.batch, generator=self.rng)  # `distort` treats the halves differently
        given = torch.empty_like(wanted)
        given[order] = distort(recoloured[order], self.rng, strength=config.strength)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            w, offsets = network.parts(given)
        w, offsets = w.float(), offsets.float()
        found = torch.cat([w[:, None], w[:, None] + offsets], dim=1)
        images = self.render(found)
        with torch.no_grad():
            seen, person = self.perceptual.see(recoloured), self.identity.embed(recoloured)
        far = (found[known] - codes[known]).square().sum(2).mean() / self.variance if known.any() else 0.0
        return (
            (images - recoloured).square().mean()
            + config.perceptual * self.perceptual.distance(images, seen).mean()
            + config.identity * (1 - (self.identity.embed(images) * person).sum(1)).mean()
            + config.code * far
            + config.offsets * offsets.square().sum(2).mean() / self.variance
        )


@torch.no_grad()
def check(network: Inverter, teacher: Teacher, images: np.ndarray) -> dict[str, float]:
    """How well held-out drawings come back: error, identity, share of the judge's decisions that stay, distance from W."""
    network.eval()
    given, judge = to_tensor(images), Judge.from_pretrained(teacher.config.assets / "judge.safetensors")
    w, offsets = network.parts(given)
    codes = torch.cat([w[:, None], w[:, None] + offsets], dim=1)
    found = teacher.render(codes)
    before, after = judge.labels(given), judge.labels(found)
    return {
        "mse": float((found - given).square().mean()),
        "perceptual": float(teacher.perceptual.distance(found, teacher.perceptual.see(given)).mean()),
        "identity": float(teacher.identity.similarity(found, given).mean()),
        "kept": float(torch.stack([(before[n] == after[n]).float().mean() for n in before]).mean()),
        "offsets": float((offsets.square().sum(2).mean() / teacher.variance).sqrt()),
    }


def train(config: TrainInverterConfig) -> dict[str, float]:
    """Train, save, and return the figures of `check` on held-out drawings."""
    torch.manual_seed(config.seed)
    images, labels = half_renders("personas", config.work)
    count = training_share(len(images))
    teacher = Teacher(config, images[:count], {name: torch.from_numpy(rows[:count]) for name, rows in labels.items()})
    held_out = images[count : count + config.check]
    shape = InverterConfig(teacher.generator.num_ws, teacher.generator.w_dim, images.shape[1])
    network = Inverter(shape).to(memory_format=torch.channels_last)
    network.w_avg.copy_(teacher.w_avg)
    for head in (network.base, *network.offsets):
        torch.nn.init.normal_(head.weight, std=0.01)
        torch.nn.init.zeros_(head.bias)
    print(f"{sum(p.numel() for p in network.parameters())} parameters", flush=True)

    def report(step: int) -> None:
        if step % config.report == 0:
            figures = check(network, teacher, held_out)
            print(f"step {step} " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()), flush=True)

    fit(
        network,
        lambda: teacher.loss(network),
        steps=config.steps,
        lr=config.lr,
        on_step=report,
        state=config.work / "inverter" / "state.pt",
    )
    figures = {name: round(value, 4) for name, value in check(network, teacher, held_out).items()}
    save(
        config.out,
        network,
        "inverter",
        recipe="train_inverter",
        pictures_seen=config.steps * config.batch,
        record={"generator": teacher.generator.digest, "held_out": figures},
    )
    return figures


if __name__ == "__main__":
    import tyro

    print(train(tyro.cli(TrainInverterConfig)))
