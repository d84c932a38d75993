"""Global directions (StyleCLIP, section 6): from a sentence to channels of StyleSpace.

Relevance of channel c to a text: what moving c does to an image's CLIP embedding, compared with what the text asks for.

universal   a regression over random pictures: how the latent code has to differ for the embedding to differ as the
            sentence asks (`edit.universal`). Once per generator, then one matrix product for any sentence.
finite      the paper's R_c = E[Δi_c · Δt]: every channel of every image is moved to its mean ± 5σ, rendered, embedded.
            It says how purely a channel does what is asked, not how much it does.
gradient    back-propagation: how far a channel helps, times how purely. Slopes only tell what lies next to an image, and
            many edits do not (from bare eyes, sunglasses are not a small step away), so the direction is followed: one
            step along it, new slopes there, eight times. Purity is the paper's cosine for small moves, measured in
            pictures moved all the way: a channel that means something only behind sunglasses shows it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.edit.base import Shift
from stylograph.edit.config import DirectionConfig, DirectionMethod, UniversalConfig
from stylograph.edit.masks import layers_matching
from stylograph.edit.table import DirectionTable, measure_table, movable
from stylograph.edit.universal import UniversalMap, universal_map
from stylograph.embed import Clip
from stylograph.errors import EditError, PromptError, StylographError, one_of
from stylograph.generator import Generator
from stylograph.types import Latents, OnStep, Step


def find_direction(
    generator: Generator,
    clip: Clip,
    target: str,
    *,
    neutral: str | Sequence[str] = "a person",
    config: DirectionConfig | None = None,
    method: DirectionMethod | None = None,
    beta: float | None = None,
    count: int | None = None,
    on_step: OnStep | None = None,
) -> Shift:
    """The global direction of a sentence, as an edit in StyleSpace.

    target, neutral: what the picture should show, and the same sentence without the change (or several such
        sentences, whose mean counts).
    config: all settings; `method`, `beta`, `count` override its fields.
    Strength 1 moves the most relevant channel by one standard deviation, the others in proportion to relevance. The
    edit's own strength, used when none is given, makes the whole shift twenty standard deviations long.
    Raises `PromptError` if the sentences mean the same to the model, or none of the channels passes `beta`.
    """
    given: dict[str, Any] = {"method": method, "beta": beta, "count": count}
    settings = replace(config or DirectionConfig(), **{k: v for k, v in given.items() if v is not None})
    return find_directions(generator, clip, target, neutral=neutral, config=settings, on_step=on_step)[0]


def find_directions(
    generator: Generator,
    clip: Clip,
    target: str,
    *,
    neutral: str | Sequence[str] = "a person",
    config: DirectionConfig | None = None,
    counts: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> list[Shift]:
    """The direction of a sentence with several numbers of channels, `counts`; relevance is measured once.

    Without `counts` it is one edit, with the channels that `config` says. See `find_direction`.
    """
    settings = config or DirectionConfig()
    variants = [settings] if counts is None else [replace(settings, beta=None, count=count) for count in counts]
    for variant in variants:
        _validate(variant)
    wanted = clip.text_direction(target, neutral)
    found = relevance(generator, clip, wanted, config=settings, on_step=on_step)
    std = generator.style_statistics(truncation=settings.truncation).std
    edits = []
    for variant in variants:
        threshold = choose_beta(found, variant)
        delta = boundary(found, std, threshold)
        if not bool(delta.any()):
            raise PromptError(
                f"no channel passes beta={threshold:.3g} for {target!r}: the most relevant one reaches "
                f"{float(found.abs().max()):.3g}; lower beta, or describe the change in other words"
            )
        provenance = {
            "method": f"global direction ({settings.method})",
            "target": target,
            "neutral": neutral if isinstance(neutral, str) else list(neutral),
            "clip": clip.name,
            "beta": threshold,
            "channels": int((delta != 0).sum()),
            "settings": {k: str(v) if k == "table" else v for k, v in vars(variant).items() if v not in (None, ())},
        }
        edits.append(
            Shift(
                delta=delta.cpu(),
                layers=generator.layer_widths,
                generator_digest=generator.digest,
                strength=LENGTH / float((delta / std.clamp_min(1e-12)).norm()),
                provenance=provenance,
                generator=generator,
            )
        )
    return edits


LENGTH = 20.0
"""Length of an edit's shift at its own strength, in standard deviations over all its channels."""
PURITY_AT = 5.0
"""How far along the path, in standard deviations, its channels' purity is measured (gradient)."""
COUNTS = (240, 1_000_000)
"""Numbers of channels that an automatic strength chooses among; the second is all there are."""
DEFAULT_COUNT = {"gradient": 60, "universal": 240, "auto": 240}
"""Channels moved when nobody says how many."""


def relevance(
    generator: Generator,
    clip: Clip,
    wanted: Tensor,
    *,
    config: DirectionConfig | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Relevance of every StyleSpace channel, [sum of channels] in [-1, 1]; zero for what may not move.

    wanted: the text direction Δt, unit length [D].
    """
    settings = config or DirectionConfig()
    kept = _moved(generator, settings)
    if settings.method == "finite":
        return _table(generator, clip, settings, on_step).relevance(wanted.to(generator.device)).masked_fill(~kept, 0)
    if settings.method in ("auto", "universal"):
        found = _universal(generator, clip, settings, on_step).relevance(generator, wanted).masked_fill(~kept, 0)
        return found / found.abs().max().clamp_min(1e-12)
    path = follow(generator, clip, wanted, config=settings, on_step=on_step)
    std = generator.style_statistics(truncation=settings.truncation).std
    arrived = PURITY_AT * F.normalize(path, dim=0) * std
    found = path * cosines(generator, clip, wanted, shift=arrived, config=settings, on_step=on_step).abs()
    return found / found.abs().max().clamp_min(1e-12)


def _universal(generator: Generator, clip: Clip, settings: DirectionConfig, on_step: OnStep | None) -> UniversalMap:
    config = None
    if settings.images is not None or settings.up_to != UniversalConfig.up_to:
        config = UniversalConfig(samples=settings.images or UniversalConfig.samples, up_to=settings.up_to)
    return universal_map(generator, clip, config=config, path=settings.table, on_step=on_step)


def _table(generator: Generator, clip: Clip, settings: DirectionConfig, on_step: OnStep | None) -> DirectionTable:
    if settings.table is not None and Path(settings.table).exists():
        return DirectionTable.load(settings.table, generator, clip)
    return measure_table(generator, clip, config=settings, path=settings.table, on_step=on_step)


def boundary(found: Tensor, std: Tensor, beta: float) -> Tensor:
    """The shift of S at strength 1: relevance where |relevance| >= beta, over the largest, times σ (section 6.2).

    All zero when no channel passes (the reference divides by zero there).
    """
    kept = torch.where(found.abs() >= beta, found, 0.0)
    return kept / kept.abs().max().clamp_min(torch.finfo(kept.dtype).tiny) * std


def choose_beta(found: Tensor, settings: DirectionConfig) -> float:
    """The threshold asked for, or the one that keeps `count` channels.

    With neither, 240 channels (gradient: 60); for "finite" the rule of StyleCLIP's demo for faces: the largest of 0.29,
    0.28 ... 0.10 that keeps more than 20 channels, or what keeps 20 if even 0.10 is too high.
    """
    if settings.beta is not None:
        return settings.beta
    size = found.abs()
    count = settings.count or DEFAULT_COUNT.get(settings.method)
    if count is None:
        for beta in (b / 100 for b in range(29, 9, -1)):
            if int((size >= beta).sum()) > 20:
                return beta
    strongest = size.topk(min(count or 20, int((size > 0).sum()))).values
    return float(strongest[-1]) if len(strongest) else 0.1


def follow(
    generator: Generator,
    clip: Clip,
    wanted: Tensor,
    *,
    config: DirectionConfig | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Where `steps` steps along the slopes of E(G(s))·Δt lead, [sum of channels] in σ; each step is one σ long."""
    settings = config or DirectionConfig()
    wanted, frozen = wanted.to(generator.device), ~_moved(generator, settings)
    std = generator.style_statistics(truncation=settings.truncation).std
    codes = _codes(generator, settings)
    path = torch.zeros(generator.s_dim, device=generator.device)
    for step in range(settings.steps):
        slope = torch.zeros_like(path)
        for s in codes.split(settings.batch):
            slope += (
                slopes(generator, clip, s + path * std, wanted.expand(len(s), 1, -1), up_to=settings.up_to).sum((0, 1))
                * std
            )
        path += F.normalize(slope.masked_fill(frozen, 0.0), dim=0)
        if on_step:
            on_step(Step("following the direction", step + 1, settings.steps))
    return path


def cosines(
    generator: Generator,
    clip: Clip,
    wanted: Tensor,
    *,
    shift: Tensor | None = None,
    config: DirectionConfig | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """E[cos(∂i/∂s_c, Δt)], [sum of channels]: the paper's R_c for small moves, from 1 + `probes` backward passes an image.

    The slope along Δt is exact, the length of ∂i/∂s_c is estimated from random axes (Hutchinson). With few of them
    cosines come out too large, by a quarter with four, and all by the same factor.

    shift: [sum of channels], added to the pictures' codes first.
    """
    settings = config or DirectionConfig()
    wanted = wanted.to(generator.device)
    codes = _codes(generator, settings) + (0 if shift is None else shift)
    rng = torch.Generator().manual_seed(settings.seed)
    size, rest = len(wanted), min(settings.probes, len(wanted) - 1)
    total, done = torch.zeros(generator.s_dim, device=generator.device), 0
    for s in codes.split(settings.batch):
        random = torch.randn(len(s), size, rest, generator=rng).to(wanted)
        # The first axis of the orthonormal set is ±Δt; the others are at right angles to it.
        axes = torch.linalg.qr(torch.cat([wanted.expand(len(s), -1)[..., None], random], dim=2))[0].mT.clone()
        axes[:, 0] = wanted
        along, across = slopes(generator, clip, s, axes, up_to=settings.up_to).split([1, rest], dim=1)
        length = (along.square() + (size - 1) / rest * across.square().sum(1, keepdim=True)).sqrt()
        total += (along / length.clamp_min(1e-12)).sum((0, 1))
        done += len(s)
        if on_step:
            on_step(Step("measuring slopes", done, len(codes)))
    return total / len(codes)


def _codes(generator: Generator, settings: DirectionConfig) -> Tensor:
    images = 24 if settings.images is None else settings.images
    return generator.styles(generator.sample(images, seed=settings.seed, truncation=settings.truncation)).tensor


def _moved(generator: Generator, settings: DirectionConfig) -> Tensor:
    """Which channels the edit may move, [sum of channels] bool."""
    locked = layers_matching(generator.layer_widths, settings.lock)
    limit = settings.max_resolution or generator.resolution
    if settings.method != "finite":  # what was not looked at is not moved
        limit = min(limit, settings.up_to)
    torgb = settings.method in ("auto", "universal") if settings.torgb is None else settings.torgb
    return movable(generator, limit, torgb=torgb) & ~locked.to(generator.device)


@torch.enable_grad()
def slopes(generator: Generator, clip: Clip, s: Tensor, axes: Tensor, *, up_to: int = 256) -> Tensor:
    """∂(E(G(s))·a)/∂s: s [N, sum of channels], K axes of the embedding per image [N, K, D] -> [N, K, sum of channels].

    One forward pass and K backward passes per image.
    """
    s = s.detach().requires_grad_()
    image = generator.render(Latents("s", s), up_to=min(up_to, generator.resolution))
    along = torch.einsum("nd,nkd->kn", clip.embed_images(image), axes.to(s)).sum(1)  # [K]
    return torch.stack([torch.autograd.grad(a, s, retain_graph=True)[0] for a in along], dim=1)


def agreement(first: Tensor, second: Tensor, *, top: int = 50) -> dict[str, Any]:
    """How alike two relevance vectors are: Pearson and rank correlation over channels either one measured, and the
    share of the `top` strongest channels they have in common."""
    both = (first != 0) | (second != 0)
    a, b = first[both].double(), second[both].double()
    ranks = [v.argsort().argsort().double() for v in (a, b)]
    common = set(first.abs().topk(top).indices.tolist()) & set(second.abs().topk(top).indices.tolist())
    return {
        "correlation": float(torch.corrcoef(torch.stack([a, b]))[0, 1]),
        "rank_correlation": float(torch.corrcoef(torch.stack(ranks))[0, 1]),
        "top": top,
        "top_overlap": len(common) / top,
    }


def _validate(settings: DirectionConfig) -> None:
    if settings.method not in get_args(DirectionMethod):
        raise StylographError(one_of(settings.method, get_args(DirectionMethod), "method"))
    if settings.probes < 1 or settings.steps < 1:
        raise EditError(f"got probes={settings.probes}, steps={settings.steps}; expected at least one of each")
    if settings.beta is not None and settings.count is not None:
        raise EditError("got both beta and count; expected one of them: each decides which channels are kept")
    if settings.beta is not None and not settings.beta > 0:
        raise EditError(f"got beta={settings.beta}; expected a threshold above 0")
    if settings.count is not None and settings.count < 1:
        raise EditError(f"got count={settings.count}; expected at least one channel")
