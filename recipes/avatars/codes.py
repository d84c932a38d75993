"""Which latent stands for which persona: a fixed code from z to attributes, and the mapping that reads it.

Every attribute owns one coordinate of the normalised z, cut into as many intervals as it has values, as likely as in the
data. That makes rendered pictures and latents into pairs, from which a generator learns many times faster than from an
adversary alone. The mapping is written down, not learned: w holds the attributes as mixed soft switches. (A
mapping *taught* to tell the attributes has them only as half-linear scores, from which the styles, linear in w,
cannot tell twenty hair styles apart: the pictures stayed soft.) Beyond this file it is an ordinary StyleGAN2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.avatars.attributes import ATTRIBUTES, FACIAL_HAIR_PROBABILITY
from stylograph.nets.stylegan2 import Mapping

HAIR_ORDER = (
    "bald", "balding", "buzzcut", "fade", "shortCombover", "shortComboverChops", "curlyHighTop", "curly", "curlyBun",
    "straightBun", "bunUndercut", "mohawk", "sideShave", "bobBangs", "bobCut", "long", "extraLong", "pigtails", "cap",
    "beanie",
)  # fmt: skip
"""Neighbours on the coordinate of hair styles look alike."""
SHARPNESS = 150.0
"""Slope of the switches: between two values lies a 1/150 of a deviation where both are half on."""
_EXTREME = 1e-3
"""Probability beyond which no coordinate is drawn for a wanted value: z must stay normalisable."""


def _order(name: str) -> list[int]:
    """Values of an attribute in the order of their intervals."""
    attribute = ATTRIBUTES[name]
    return [attribute.index(key) for key in HAIR_ORDER] if name == "hair_style" else list(range(len(attribute.values)))


def _shares(name: str) -> Tensor:
    count = len(ATTRIBUTES[name].values)
    if name != "facial_hair":
        return torch.full((count,), 1 / count, dtype=torch.float64)
    some = FACIAL_HAIR_PROBABILITY / (count - 1)
    return torch.tensor([1 - FACIAL_HAIR_PROBABILITY] + [some] * (count - 1), dtype=torch.float64)


ORDERS = {name: torch.tensor(_order(name)) for name in ATTRIBUTES}
BOUNDS = {name: torch.cat([torch.zeros(1), _shares(name).cumsum(0).clamp(max=1).float()]) for name in ATTRIBUTES}
"""Cumulative probabilities of the intervals, [values + 1]."""
EDGES = {name: torch.special.ndtri(bounds[1:-1].double()).float() for name, bounds in BOUNDS.items()}
"""Where the intervals of the normalised coordinate meet, [values - 1]."""
SWITCHES = sum(len(edges) for edges in EDGES.values())
VALUES = sum(len(order) for order in ORDERS.values())
PICKS = 4
"""Switches that a number of w sums up."""
LEAST_WIDTH = 2 * SWITCHES
"""Units the mapping's first layer must have."""


def labels_of(z: Tensor) -> dict[str, Tensor]:
    """What z [N, z_dim] means: one int64 tensor [N] per attribute."""
    z = z / z.square().mean(1, keepdim=True).sqrt()
    return {name: ORDERS[name][torch.bucketize(z[:, i].contiguous(), EDGES[name])] for i, name in enumerate(ATTRIBUTES)}


def latents_of(labels: dict[str, Tensor], z_dim: int, *, rng: torch.Generator) -> Tensor:
    """Normalised z [N, z_dim] that mean `labels` (int64 [N] per attribute), drawn as from a normal distribution."""
    count, used = len(next(iter(labels.values()))), len(ATTRIBUTES)
    z = torch.randn(count, z_dim, generator=rng)
    for i, name in enumerate(ATTRIBUTES):
        place = ORDERS[name].argsort()[labels[name]]
        low, high = BOUNDS[name][place], BOUNDS[name][place + 1]
        share = torch.rand(count, generator=rng)
        z[:, i] = torch.special.ndtri(torch.lerp(low, high, share).clamp(_EXTREME, 1 - _EXTREME).double()).float()
    # The other coordinates give the length that leaves these as they are when z is normalised.
    rest = (z_dim - z[:, :used].square().sum(1, keepdim=True)).clamp_min(1e-3)
    z[:, used:] *= (rest / z[:, used:].square().sum(1, keepdim=True)).sqrt()
    return z


@torch.no_grad()
def wire(mapping: Mapping, *, spread: float = 0.7, seed: int = 0) -> None:
    """Set the weights of a mapping (three layers or more, `LEAST_WIDTH` wide) so that w tells the attributes.

    Its first layer holds two units per edge, whose difference is a steep step; the second the values, one switch each in
    [0, 1]; in the last every number of w is the sum of a few of them, with a deviation of about `spread`. `w_avg` is set
    too.
    """
    rng = torch.Generator().manual_seed(seed)
    layers = [getattr(mapping, f"fc{i}") for i in range(mapping.depth)]
    if min(len(layer.weight) for layer in layers) < LEAST_WIDTH or mapping.depth < 3:
        raise SystemExit(f"the mapping must have three layers or more, at least {LEAST_WIDTH} wide")
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()
    gain, low = math.sqrt(2), 0.2  # of the activation
    first, second, *middle, last = layers
    step = value = 0
    shares = []
    for i, name in enumerate(ATTRIBUTES):
        for j, edge in enumerate(EDGES[name].tolist()):
            for unit, offset in ((step, 0.5), (step + 1, -0.5)):
                first.weight[unit, i] = SHARPNESS
                first.bias[unit] = offset - SHARPNESS * edge
            # (first - second unit)/gain rises from `low` to 1; one value ends where the next begins.
            for row, sign in ((value + j, -1), (value + j + 1, 1)):
                second.weight[row, step] += sign / (gain * (1 - low))
                second.weight[row, step + 1] -= sign / (gain * (1 - low))
                second.bias[row] -= sign * low / (1 - low)
            step += 2
        second.bias[value] += 1
        shares.append((slice(value, value + len(ORDERS[name])), _shares(name).float()))
        value += len(ORDERS[name])
    for layer in (second, *middle):  # each undoes the gain of its own activation
        if layer is not second:
            layer.weight[range(VALUES), range(VALUES)] = 1.0
        layer.weight /= gain
        layer.bias /= gain
    mix = torch.zeros(len(last.weight), VALUES)
    for row, unit in enumerate(mix):
        picks = torch.cat([torch.tensor([row % VALUES]), torch.randperm(VALUES, generator=rng)[: PICKS - 1]])
        unit[picks] = 0.5 + 0.5 * torch.rand(PICKS, generator=rng)
    variance = sum(float((mix[:, part] ** 2 @ (p * (1 - p))).sum()) for part, p in shares)
    mix *= spread * math.sqrt(len(mix) / variance) / gain
    mix[1::2] /= -low  # half of the numbers are negative: either sign passes the activation linearly
    last.weight[:, :VALUES] = mix
    for layer in layers:
        layer.weight *= math.sqrt(layer.weight.shape[1]) / layer.lr_multiplier
        layer.bias /= layer.lr_multiplier
    mapping.w_avg.copy_(mapping(torch.randn(20_000, layers[0].weight.shape[1], generator=rng)).mean(0))


@torch.no_grad()
def lean(mapping: Mapping, labels: dict[str, Tensor], *, rng: torch.Generator) -> Tensor:
    """Moves of w [N, w_dim] that weaken a label's switches and half turn on others, but leave the label ahead.

    labels: int64 [N] per attribute. About half of the attributes move. A generator that draws the same picture
    before and after such a move decides between values, as one trained on a smooth latent space has to.
    """
    last = getattr(mapping, f"fc{mapping.depth - 1}")
    width = last.weight.shape[1]
    gain = last.lr_multiplier / math.sqrt(width)
    rows = F.leaky_relu(last.weight[:, :VALUES].T * gain, 0.2) * math.sqrt(2)  # w of every switch alone
    count, start = len(next(iter(labels.values()))), 0
    move = torch.zeros(count, rows.shape[1])
    for name, order in ORDERS.items():
        own = order.argsort()[labels[name]]
        other = (own + torch.randint(1, len(order), (count,), generator=rng)) % len(order)
        ahead = 0.55 + 1.25 * torch.rand(count, 1, generator=rng)
        behind = -0.2 + ahead * torch.rand(count, 1, generator=rng)  # at least 0.2 behind
        moved = (ahead - 1) * rows[start + own] + behind * rows[start + other]
        move += torch.where(torch.rand(count, 1, generator=rng) < 0.5, moved, 0.0)
        start += len(order)
    return move
