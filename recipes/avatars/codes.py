"""Which latent stands for which persona: a fixed code from z to attributes, and the mapping that reads it.

Every value of an attribute owns one or two coordinates of z; the largest coordinate of a block wins, so normal z draw
the attributes with the frequencies of the data. Given labels, a z that means them is a normal draw with two numbers
swapped. That makes rendered pictures and latents into pairs, from which a generator learns many times faster than
from an adversary alone; beyond this file it is an ordinary StyleGAN2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.avatars.attributes import ATTRIBUTES, FACIAL_HAIR_PROBABILITY, HAIR_STYLE
from stylograph.nets.stylegan2 import Mapping

HAIR_GROUPS = (
    ("bald", "balding", "buzzcut", "fade"),
    ("shortCombover", "shortComboverChops", "mohawk", "curlyHighTop"),
    ("beanie", "cap", "bunUndercut", "sideShave"),
    ("long", "extraLong", "bobCut", "bobBangs"),
    ("curly", "curlyBun", "straightBun", "pigtails"),
)
"""Twenty-way contests have close seconds, so hair is coded as a group (of 5) and a member (of 4)."""
_HAIR = torch.tensor([HAIR_STYLE.index(key) for group in HAIR_GROUPS for key in group])
_HAIR_CODE = _HAIR.argsort()
_GATE = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * FACIAL_HAIR_PROBABILITY, dtype=torch.float64)))


def _blocks() -> dict[str, slice]:
    """Coordinates of z per contest, in a fixed order; `gate` is one coordinate: facial hair or none."""
    sizes = {"hair_group": 5, "hair_member": 4, "gate": 1}
    for name, attribute in ATTRIBUTES.items():
        if name != "hair_style":
            sizes[name] = len(attribute.values) - (name == "facial_hair")
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = slice(start, start + size)
        start += size
    return found


BLOCKS = _blocks()
USED = max(block.stop for block in BLOCKS.values())
"""Coordinates of z with a meaning; the others are free."""


def _to_digits(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """The winner of every contest; -1 where it does not matter (which facial hair, when there is none)."""
    code = _HAIR_CODE[labels["hair_style"]]
    digits = {name: labels[name] for name in BLOCKS if name in labels}
    digits |= {"hair_group": code // 4, "hair_member": code % 4, "gate": (labels["facial_hair"] > 0).long()}
    return digits | {"facial_hair": labels["facial_hair"] - 1}


def labels_of(z: Tensor) -> dict[str, Tensor]:
    """What z [N, z_dim] means: one int64 tensor [N] per attribute."""
    digits = {name: z[:, block].argmax(1) for name, block in BLOCKS.items()}
    labels = {name: digits[name] for name in ATTRIBUTES if name in digits}
    labels["hair_style"] = _HAIR[digits["hair_group"] * 4 + digits["hair_member"]]
    labels["facial_hair"] = torch.where(z[:, BLOCKS["gate"].start] > _GATE, digits["facial_hair"] + 1, 0)
    return labels


def latents_of(labels: dict[str, Tensor], z_dim: int, *, rng: torch.Generator) -> Tensor:
    """Normal z [N, z_dim] under the condition that they mean `labels` (int64 [N] per attribute)."""
    digits = _to_digits(labels)
    count = len(digits["gate"])
    z = torch.randn(count, z_dim, generator=rng)
    rows = torch.arange(count)
    for name, block in BLOCKS.items():
        if name == "gate":
            continue
        part = z[:, block]
        best, values = part.argmax(1), part.amax(1)
        wanted = torch.where(digits[name] < 0, best, digits[name])
        part[rows, best] = part[rows, wanted]
        part[rows, wanted] = values
    share = 1 - FACIAL_HAIR_PROBABILITY
    uniform = torch.rand(count, generator=rng)
    uniform = torch.where(digits["gate"] > 0, share + (1 - share) * uniform, share * uniform)
    z[:, BLOCKS["gate"].start] = torch.erfinv(2 * uniform.clamp(1e-4, 1 - 1e-4) - 1) * math.sqrt(2)
    return z


def teach_mapping(
    mapping: Mapping,
    *,
    steps: int = 8000,
    batch: int = 1024,
    spread: float = 0.7,
    noise: float = 0.1,
    seed: int = 0,
) -> float:
    """Train a fresh mapping until linear readouts of w tell the attributes; returns their mean accuracy.

    w is scaled to a deviation of `spread` from its mean, which becomes `w_avg`.
    """
    rng = torch.Generator().manual_seed(seed)
    z_dim, w_dim = mapping.fc0.weight.shape[1], mapping.w_avg.shape[0]
    sizes = {name: len(attribute.values) for name, attribute in ATTRIBUTES.items()}
    readout = nn.Linear(w_dim, sum(sizes.values()))
    # The mapping stores weights divided by its multiplier, hence its own rate.
    rate = 2e-3 / mapping.fc0.lr_multiplier
    groups = [{"params": mapping.parameters(), "lr": rate}, {"params": readout.parameters(), "lr": 2e-3}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    right: list[float] = []
    for step in range(steps):
        z = torch.randn(batch, z_dim, generator=rng)
        labels = labels_of(z)
        w = mapping(z)
        # Noise keeps the codes of different values apart instead of merely separable.
        shake = torch.randn(w.shape, generator=rng) * (noise * w.detach().std(0).mean())
        parts = readout(w + shake).split(list(sizes.values()), dim=1)
        loss = torch.stack([F.cross_entropy(part, labels[name]) for part, name in zip(parts, sizes, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= steps - 10:
            for part, name in zip(parts, sizes, strict=True):
                right.append(float((part.argmax(1) == labels[name]).float().mean()))
    with torch.no_grad():
        w = mapping(torch.randn(10_000, z_dim, generator=rng))
        scale = spread / (w - w.mean(0)).square().mean().sqrt()
        last = getattr(mapping, f"fc{mapping.depth - 1}")
        last.weight.mul_(scale)
        last.bias.mul_(scale)
        mapping.w_avg.copy_(w.mean(0) * scale)
    return sum(right) / len(right)
