"""Global directions (StyleCLIP, section 6): from a sentence to channels of StyleSpace.

Relevance of channel c to a text: what moving c does to an image's CLIP embedding, compared with what the text asks for.

finite      the paper's R_c = E[Δi_c · Δi]: every channel of every image is moved to its mean ± 5σ, rendered, embedded.
gradient    back-propagation: one backward pass gives the slope of the text similarity along all channels at once.
            Slopes only tell what lies next to an image, and many edits do not (from bare eyes, sunglasses are not a
            small step away), so the direction is followed: one step along it, new slopes there, eight times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.edit.base import Edit
from stylograph.embed import Clip
from stylograph.errors import EditError, PromptError, StylographError, one_of
from stylograph.generator import Generator
from stylograph.losses import direction
from stylograph.types import Latents, OnStep, Step

METHODS = ("gradient", "finite")


@dataclass(frozen=True)
class DirectionConfig:
    """How relevance is measured and which channels are kept."""

    method: str = "gradient"
    """"gradient" (seconds) or "finite" (the paper's finite differences; minutes to hours)."""
    images: int | None = None
    """Images the relevance is averaged over; default 100 for "finite" (as the paper), 24 for "gradient"."""
    shift: float = 5.0
    """Size of a finite difference in standard deviations of the channel."""
    steps: int = 8
    """How often the slopes are taken anew, one standard deviation further along the direction ("gradient")."""
    beta: float | None = None
    """Keep the channels with |relevance| >= beta. Relevance is a cosine for "finite"; for "gradient" it is relative to
    the most relevant channel, which has 1."""
    count: int | None = None
    """Keep the so many most relevant channels instead; the default for "gradient" is 60."""
    max_resolution: int | None = None
    """Leave layers above this resolution alone (the paper measures up to 128)."""
    truncation: float = 0.7
    """Truncation of the images and of the statistics, as in the paper."""
    seed: int = 0
    batch: int = 8
    """Images rendered at once."""


def find_direction(
    generator: Generator,
    clip: Clip,
    target: str,
    *,
    neutral: str = "a person",
    config: DirectionConfig | None = None,
    method: str | None = None,
    beta: float | None = None,
    count: int | None = None,
    on_step: OnStep | None = None,
) -> Edit:
    """The global direction of a sentence, as an `Edit` in StyleSpace.

    target, neutral: what the picture should show, and the same sentence without the change.
    config: all settings; `method`, `beta`, `count` override its fields.
    Strength 1 moves the most relevant channel by one standard deviation, the others in proportion to relevance. The
    edit's own strength, used when none is given, makes the whole shift five standard deviations long.
    Raises `PromptError` if the two sentences mean the same to the model, or none of the channels passes `beta`.
    """
    base = config or DirectionConfig()
    given = {"method": method, "beta": beta, "count": count}
    settings = DirectionConfig(**{**vars(base), **{k: v for k, v in given.items() if v is not None}})
    _validate(settings)
    wanted = clip.text_direction(target, neutral)
    found = relevance(generator, clip, wanted, config=settings, on_step=on_step)
    threshold = choose_beta(found, settings)
    std = generator.style_statistics(truncation=settings.truncation).std
    delta = boundary(found, std, threshold)
    if not bool(delta.any()):
        raise PromptError(
            f"no channel passes beta={threshold:.3g} for {target!r}: the most relevant one reaches "
            f"{float(found.abs().max()):.3g}; lower beta, or describe the change in other words"
        )
    return Edit(
        delta=delta.cpu(),
        layers=tuple((layer.name, layer.channels) for layer in generator.layers),
        generator_digest=generator.digest,
        strength=LENGTH / float((delta / std.clamp_min(1e-12)).norm()),
        provenance={
            "method": f"global direction ({settings.method})",
            "target": target,
            "neutral": neutral,
            "clip": clip.name,
            "beta": threshold,
            "channels": int((delta != 0).sum()),
            "peak_relevance": float(found.abs().max()),
            "settings": {k: v for k, v in vars(settings).items() if v is not None},
        },
        generator=generator,
    )


LENGTH = 5.0
"""Length of an edit's shift at its own strength, in standard deviations over all its channels. On the avatars shorter
ones leave too many pictures unchanged and longer ones change too much else."""


def relevance(
    generator: Generator,
    clip: Clip,
    wanted: Tensor,
    *,
    config: DirectionConfig | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Relevance of every StyleSpace channel, [sum of channels] in [-1, 1]; zero for ToRGB layers.

    wanted: the text direction Δt, unit length [D].
    """
    settings = config or DirectionConfig()
    if settings.method == "finite":
        return relevance_table(generator, clip, config=settings, on_step=on_step) @ wanted.to(generator.device)
    return _gradient_relevance(generator, clip, wanted, settings, on_step)


def boundary(found: Tensor, std: Tensor, beta: float) -> Tensor:
    """The shift of S at strength 1: relevance where |relevance| >= beta, over the largest, times σ (section 6.2).

    All zero when no channel passes (the reference divides by zero there).
    """
    kept = torch.where(found.abs() >= beta, found, 0.0)
    return kept / kept.abs().max().clamp_min(torch.finfo(kept.dtype).tiny) * std


def choose_beta(found: Tensor, settings: DirectionConfig) -> float:
    """The threshold asked for, or the one that keeps `count` channels.

    With neither, 60 channels for "gradient"; for "finite" the rule of StyleCLIP's demo for faces: the largest of 0.29,
    0.28 ... 0.10 that keeps more than 20 channels, or what keeps 20 if even 0.10 is too high.
    """
    if settings.beta is not None:
        return settings.beta
    size = found.abs()
    count = settings.count or (60 if settings.method == "gradient" else None)
    if count is None:
        for beta in (b / 100 for b in range(29, 9, -1)):
            if int((size >= beta).sum()) > 20:
                return beta
    strongest = size.topk(min(count or 20, int((size > 0).sum()))).values
    return float(strongest[-1]) if len(strongest) else 0.1


def relevance_table(
    generator: Generator, clip: Clip, *, config: DirectionConfig | None = None, on_step: OnStep | None = None
) -> Tensor:
    """The paper's text-independent table: unit row Δi_c per channel, [sum of channels, D].

    For each image, channel c is set to mean ± shift·σ, all other channels stay; the difference of the two unit
    embeddings is normalised, averaged over the images, and normalised again. Features before the moved layer do not
    depend on it and are computed once. Rows of ToRGB layers and of layers above `max_resolution` are zero.
    """
    settings = config or DirectionConfig(method="finite")
    images = settings.images or 100
    statistics = generator.style_statistics(truncation=settings.truncation)
    movable = _movable(generator, settings)
    measured = [(i, layer) for i, layer in enumerate(generator.layers) if bool(movable[layer.s_slice].any())]
    total = sum(layer.channels for _, layer in measured) * images
    synthesis, done = generator.net.synthesis, 0
    table: Tensor | None = None
    with torch.no_grad():
        codes = generator.styles(generator.sample(images, seed=settings.seed, truncation=settings.truncation)).tensor
        for start in range(0, images, settings.batch):
            s = codes[start : start + settings.batch]
            n = len(s)
            per_run = max(1, CHANNELS_PER_RUN // n)
            state = None
            for index, layer in measured:
                state = synthesis.run(s, dtype=generator.dtype, start=state, stop=index)
                channels = range(layer.s_slice.start, layer.s_slice.stop)
                for first in range(0, layer.channels, per_run):
                    chosen = list(channels[first : first + per_run])
                    moved = s.repeat(2 * len(chosen), 1, 1).view(len(chosen), 2, n, -1)
                    for k, c in enumerate(chosen):  # (a copy: `s` itself is never touched)
                        offset = settings.shift * statistics.std[c]
                        moved[k, 0, :, c] = statistics.mean[c] - offset
                        moved[k, 1, :, c] = statistics.mean[c] + offset
                    rows = moved.flatten(0, 2)
                    image = synthesis.run(rows, dtype=generator.dtype, start=state.repeat(2 * len(chosen))).image
                    assert image is not None
                    f = clip.embed_images(image.clamp(-1, 1)).view(len(chosen), 2, n, -1)
                    change = direction(f[:, 1], f[:, 0]).sum(1)  # [channels, D]
                    if table is None:
                        table = torch.zeros(generator.s_dim, change.shape[-1], device=change.device)
                    table[chosen] += change
                    done += len(chosen) * n
                    if on_step:
                        on_step(Step("measuring channels", done, total))
    assert table is not None
    return F.normalize(table, dim=-1)


CHANNELS_PER_RUN = 64
"""Channels times images moved in one run of `relevance_table` (two renders each)."""


def _gradient_relevance(
    generator: Generator, clip: Clip, wanted: Tensor, settings: DirectionConfig, on_step: OnStep | None
) -> Tensor:
    images = settings.images or 24
    std = generator.style_statistics(truncation=settings.truncation).std
    codes = generator.styles(generator.sample(images, seed=settings.seed, truncation=settings.truncation)).tensor
    frozen = ~_movable(generator, settings)
    path = torch.zeros(generator.s_dim, device=generator.device)
    for step in range(settings.steps):
        slope = torch.zeros_like(path)
        for start in range(0, images, settings.batch):
            s = codes[start : start + settings.batch] + path * std
            slope += similarity_slope(generator, clip, wanted, s).sum(0) * std
        path += F.normalize(slope.masked_fill(frozen, 0.0), dim=0)
        if on_step:
            on_step(Step("following the direction", step + 1, settings.steps))
    return path / path.abs().max().clamp_min(1e-12)


def _movable(generator: Generator, settings: DirectionConfig) -> Tensor:
    """Which channels an edit may move, [sum of channels] bool: no ToRGB, nothing above `max_resolution`."""
    limit = settings.max_resolution or generator.resolution
    chosen = torch.zeros(generator.s_dim, dtype=torch.bool, device=generator.device)
    for layer in generator.layers:
        chosen[layer.s_slice] = not layer.to_rgb and layer.resolution <= limit
    return chosen


def similarity_slope(generator: Generator, clip: Clip, wanted: Tensor, s: Tensor) -> Tensor:
    """∂(E(G(s))·Δt)/∂s for every image and channel: s [N, sum of channels], wanted Δt [D] -> [N, sum of channels]."""
    s = s.detach().requires_grad_()
    similarity = clip.embed_images(generator.render(Latents("s", s))) @ wanted.to(s)
    return torch.autograd.grad(similarity.sum(), s)[0]


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
    if settings.method not in METHODS:
        raise StylographError(one_of(settings.method, METHODS, "method"))
    if settings.beta is not None and settings.count is not None:
        raise EditError("got both beta and count; expected one of them: each decides which channels are kept")
    if settings.beta is not None and not settings.beta > 0:
        raise EditError(f"got beta={settings.beta}; expected a threshold above 0")
    if settings.count is not None and settings.count < 1:
        raise EditError(f"got count={settings.count}; expected at least one channel")
