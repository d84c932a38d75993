"""One training iteration of StyleGAN-NADA: seconds and peak memory against a plain implementation of the same method.

    python -m benchmarks.adaptation_step            # the table
    python -m benchmarks.adaptation_step --choices  # do layers chosen every 20 steps differ from those chosen at every one?

On the embedded avatars, and at 256² and 1024² with random weights (config-F, a CLIP of ViT-B/32's size); batch 2, the
directional loss, random noise. The baseline does what the reference code does, in plain torch: two complete generators
with weights modulated per sample, both run and both embedded at every iteration; a choice of layers from eight latents
at every iteration, made with every parameter of the trained generator and of CLIP requiring gradients; then a step in
which the chosen convolutions and their affine layers train (all convolutions and the constant where there is no
choice), and Adam over all parameters, with zero gradients for those not chosen. It clamps and resizes pictures for
CLIP as stylograph does, and its loss has the same random vectors as target.

*iteration* is a step and, where layers are chosen, its share of the choice: all of it for the baseline, a twentieth
for stylograph. *picture* is one picture drawn and embedded. *with looks* adds the pictures a training of 300
steps with the default settings draws beside its steps (the pool and the held-out ones once, the held-out ones again at
every look); the baseline has neither. Ratios are of iterations, to the baseline of the same size that also chooses or
not. At 1024² a baseline that chooses does not fit into 20 GB (eight pictures at more than 3 GB each, and 2 GB beside
them), so all convolutions train there. Every figure is the median of two (64²: nine), the baseline's at 256² and 1024² a single one.

The reference code itself took 56.7 s and 13.5 GB an iteration at 256² (config-F, batch 2, choice at every iteration, two
CPU cores). That is the project's earlier measurement of it, not one of this run.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import in_subprocess, report, timed
from benchmarks.optimization_step import baseline_render, build_clip
from stylograph.embed import SHIPPED, Clip, Tower
from stylograph.generator import Generator
from stylograph.nada.config import AdaptConfig, Memory
from stylograph.nada.target import Target, aim
from stylograph.nada.training import BETAS, Run, movement
from stylograph.nada.twins import Twins, convolutions
from stylograph.nets.stylegan2 import Layer, StyleConv, StyleGAN2, StyleGAN2Config

BATCH, LATENTS, LR = 2, 8, 0.0016
STEPS = 300
"""Of a training, for its share of what is done once."""


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    size: int
    choice: bool
    """Whether layers are chosen; else all convolutions train."""
    baseline: str | None = None
    """The row it is compared with; None for a baseline."""
    memory: Memory = "normal"
    crops: bool = False
    """Show CLIP parent and child through the same crops, as is the default: one more pass of CLIP."""


VARIANTS = {
    "64² plain, choice": Variant(64, True),
    "64² stylograph, choice": Variant(64, True, "64² plain, choice"),
    "64² plain, all": Variant(64, False),
    "64² stylograph, all": Variant(64, False, "64² plain, all"),
    "256² plain, choice": Variant(256, True),
    "256² stylograph, choice": Variant(256, True, "256² plain, choice"),
    "256² stylograph, choice, smallest": Variant(256, True, "256² plain, choice", memory="smallest"),
    "256² plain, all": Variant(256, False),
    "256² stylograph, all": Variant(256, False, "256² plain, all"),
    "256² stylograph, all, crops": Variant(256, False, "256² plain, all", crops=True),
    "1024² plain, all": Variant(1024, False),
    "1024² stylograph, all": Variant(1024, False, "1024² plain, all"),
}


# -------------------------------------------------------------------- the method, plainly


class PlainTwins:
    """Two complete generators, and nothing computed once that could be computed again."""

    def __init__(self, generator: Generator, target: Target, *, top_k: int, noise: str = "random") -> None:
        """top_k: so many convolutions train, chosen at every step; 0 for all of them."""
        self.target, self.top_k, self.noise = target, top_k, noise
        self.layers = generator.layers
        self.frozen: StyleGAN2 = copy.deepcopy(generator.net).requires_grad_(False)
        self.trained: StyleGAN2 = copy.deepcopy(generator.net)
        self.optimizer = torch.optim.Adam(self.trained.parameters(), lr=LR, betas=BETAS, foreach=False)
        for tower in target.clip.towers:
            tower.model.requires_grad_(True)
        for module in (*self.frozen.modules(), *self.trained.modules()):
            if isinstance(module, StyleConv) and not module.has_noise:
                module.noise_strength = module.noise_const = torch.zeros([])  # `baseline_render` asks for them
        self.let_train([layer for layer in self.layers if not layer.to_rgb])
        if not top_k:
            self.trained.synthesis.get_parameter("b4.const").requires_grad_(True)

    def step(self) -> None:
        """One iteration on new latents."""
        width = self.trained.config.z_dim
        if self.top_k:
            found = self.movement(torch.randn(LATENTS, width))
            order = sorted((la for la in self.layers if not la.to_rgb), key=lambda layer: -float(found[layer.w_index]))
            self.let_train(order[: self.top_k])
        loss = self.loss(torch.randn(BATCH, width))
        for module in (self.trained, *(tower.model for tower in self.target.clip.towers)):
            module.zero_grad(set_to_none=False)
        loss.backward()
        self.optimizer.step()

    def let_train(self, layers: Sequence[Layer]) -> None:
        self.trained.requires_grad_(False)
        for layer in layers:
            self.trained.synthesis.get_submodule(layer.name).requires_grad_(True)

    def picture(self, net: StyleGAN2, ws: Tensor) -> Tensor:
        """W+ [N, num_ws, w_dim] -> [N, 3, R, R] with noise of its own."""
        if self.noise == "random":
            for layer in self.layers:
                module = net.synthesis.get_submodule(layer.name)
                if isinstance(module, StyleConv) and module.has_noise:
                    module.noise_const = torch.randn(len(ws), 1, layer.resolution, layer.resolution)
        return baseline_render(net, ws).clamp(-1, 1)

    def loss(self, z: Tensor) -> Tensor:
        """1 - cos of the way between the twins' pictures and the wanted way, mean over z [N, z_dim]."""
        with torch.no_grad():
            ws = self.frozen.mapping(z)[:, None].repeat(1, self.frozen.config.num_ws, 1)
            old = self.target.clip.embed_images(self.picture(self.frozen, ws))
        new = self.target.clip.embed_images(self.picture(self.trained, ws))
        return (1 - F.cosine_similarity(new - old, self.target.directions)).mean()

    def movement(self, z: Tensor) -> Tensor:
        """Mean way every W+ vector goes in one step of descent on the distance to the target, [num_ws]."""
        self.trained.requires_grad_(True)
        start = self.frozen.mapping(z).detach()[:, None].repeat(1, self.frozen.config.num_ws, 1)
        ws = start.clone().requires_grad_()
        descent = torch.optim.SGD([ws], lr=0.01)
        new = self.target.clip.embed_images(self.picture(self.trained, ws))
        (1 - F.cosine_similarity(new, self.target.points)).mean().backward()
        descent.step()
        return (ws.detach() - start).abs().mean((0, 2))


# -------------------------------------------------------------------- what is measured


class OneVector(Clip):
    """A CLIP without a tokenizer."""

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return (vectors,)


def setting(size: int) -> tuple[Generator, Target]:
    """A generator, and random vectors for where it should go and which way."""
    torch.manual_seed(0)
    if size == 64:
        generator, clip = Generator.from_pretrained("avatars"), Clip.from_pretrained("avatars")
    else:
        channels = tuple(min(32768 // (4 << i), 512) for i in range(size.bit_length() - 2))
        generator = Generator.random(StyleGAN2Config(size, channels, 512, 512, (512,) * 8))
        for name, parameter in generator.net.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.1)  # so that two pictures of one latent are not the same to the last bit
        model = build_clip(torch.float32).requires_grad_(False)
        clip = OneVector([Tower("random", model, None, 224, (0.5,) * 3, (0.5,) * 3)])
    width = clip.embed_images(torch.zeros(1, 3, 8, 8)).shape[1]
    point, way = F.normalize(torch.randn(2, 1, width), dim=-1)
    return generator, Target(clip, point, way, torch.ones(1), 1.0, {})


def reference_k(size: int) -> int:
    """How many layers the reference's notebook chooses."""
    return int(2 * (2 * math.log2(size) - 2) / 3)


def measure(variant: Variant) -> dict[str, float]:
    """Seconds of an iteration and its parts, and the peak memory of this process."""
    generator, target = setting(variant.size)
    top_k, small = reference_k(variant.size) if variant.choice else 0, variant.size == 64
    if variant.baseline is None:
        found = timed(PlainTwins(generator, target, top_k=top_k).step, repeats=5 if small else 1)
        return {"iteration": found["seconds"], "peak_gb": found["peak_gb"]}
    usual = AdaptConfig()
    config = AdaptConfig(
        batch=BATCH,
        steps=STEPS,
        lr=LR,
        lambda_global=0.0,
        top_k=top_k,
        memory=variant.memory,
        pool=4,
        held_out=2,
        crops=usual.crops if variant.crops else 0.0,
    ).filled(len(convolutions(generator)))
    run = Run(Twins(generator, target, config), config)
    repeats = 9 if small else 2

    def choose() -> None:
        run.step = 0
        run.choose_layers()

    def step() -> None:
        run.choose_layers()
        run.descend()

    @torch.no_grad()
    def look() -> Tensor:
        return target.clip.embed_images(run.twins.child_pictures(torch.arange(BATCH), seed=0))

    picture = timed(look, repeats=repeats)["seconds"] / BATCH
    choice = timed(choose, repeats=repeats if small else 1, warmup=int(small))["seconds"] if top_k else 0.0
    found = timed(step, repeats=repeats)  # the first call, which does not count, is the one that also chooses
    iteration = found["seconds"] + choice / usual.select_every
    pictures = (usual.pool + usual.held_out) / STEPS + usual.held_out / usual.check_every
    return {
        "step": found["seconds"],
        "choice": choice,
        "picture": picture,
        "iteration": iteration,
        "with looks": iteration + pictures * picture,
        "peak_gb": found["peak_gb"],
    }


def table() -> None:
    rows: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS.items():
        rows[name] = {"variant": name, **in_subprocess("benchmarks.adaptation_step", name)}
        if variant.baseline is not None:
            plain = rows[variant.baseline]
            rows[name]["speed-up"] = plain["iteration"] / rows[name]["iteration"]
            rows[name]["memory"] = rows[name]["peak_gb"] / plain["peak_gb"]
        report("adaptation_step", list(rows.values()))  # after every row: the table takes a quarter of an hour


# -------------------------------------------------------------------- how often layers have to be chosen


def overlap(first: set[str], second: set[str]) -> float:
    """Jaccard index."""
    return len(first & second) / len(first | second)


def chance_overlap(k: int, n: int) -> float:
    """Mean overlap of two random sets of k out of n."""
    ways = [math.comb(k, i) * math.comb(n - k, k - i) for i in range(k + 1)]
    return sum(w * i / (2 * k - i) for i, w in enumerate(ways)) / sum(ways)


def follow(generator: Generator, target: Target, top_k: int, *, steps: int = 60, every: int = 20) -> dict[str, float]:
    """Trains with a choice at every step; compares each with the last one of every twentieth and with its own repetition.

    "kept" is what choosing every twentieth step would have trained instead; "again" is the choice by eight other latents
    at the same step, which no way of choosing by eight latents can agree with better.
    """
    config = AdaptConfig(
        batch=BATCH, steps=steps, lambda_global=0.0, top_k=top_k, select_every=1, pool=64, held_out=2
    ).filled(len(convolutions(generator)))
    run = Run(Twins(generator, target, config), config)
    chosen: list[set[str]] = []
    again: list[set[str]] = []
    for step in range(steps):
        found = movement(run.twins, seed=10_000_000 + step)
        again.append({la.name for la in sorted(run.twins.layers, key=lambda la: -float(found[la.w_index]))[:top_k]})
        run.choose_layers()
        chosen.append(set(run.chosen))
        run.descend()
    kept = [(chosen[i], chosen[i - i % every]) for i in range(steps) if i % every]
    twice = list(zip(chosen, again, strict=True))
    return {
        "kept overlap": sum(overlap(*pair) for pair in kept) / len(kept),
        "again overlap": sum(overlap(*pair) for pair in twice) / len(twice),
        "chance overlap": chance_overlap(top_k, len(run.twins.layers)),
        "kept equal": sum(a == b for a, b in kept) / len(kept),
        "again equal": sum(a == b for a, b in twice) / len(twice),
        "different sets": float(len({frozenset(names) for names in chosen})),
    }


def choices() -> None:
    warnings.simplefilter("ignore")
    name = "avatars-robust" if Path(SHIPPED["avatars-robust"]).exists() else "avatars"
    generator, clip = Generator.from_pretrained("avatars"), Clip.from_pretrained(name)
    rows: list[dict[str, Any]] = []
    for sentence in ("a robot", "pixel art", "a black and white line drawing"):
        target = aim(generator, clip, sentence, "a person")
        for top_k in (3, 6):
            rows.append({"domain": sentence, "top_k": top_k, **follow(generator, target, top_k)})
    report("adaptation_choices", rows, clip=name)


def main() -> None:
    match sys.argv[1:]:
        case []:
            table()
        case ["--choices"]:
            choices()
        case [name]:
            print(json.dumps(measure(VARIANTS[name])))
        case other:
            raise SystemExit(f"got {' '.join(other)!r}; expected nothing, --choices, or one of {', '.join(VARIANTS)}")


if __name__ == "__main__":
    main()
