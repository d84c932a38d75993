"""Automatic strength: how far to go, image by image, and how many channels to move.

An edit is tried at a ladder of strengths. At each one three things are measured: the *gain* (how far the picture's CLIP
embedding went along the text direction), the *drift* (how far it went anywhere else) and the *identity* (what a
recogniser still sees of the person). Gain usually rises fast, then levels off or creeps on while the picture falls
apart; the strength is the knee of that curve, within a budget for identity. Nothing is guessed from the text, and
everything that was measured is in the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylograph.edit.base import Edit, Recogniser
from stylograph.edit.config import THRIFT, StrengthConfig
from stylograph.embed import Clip
from stylograph.errors import EditError
from stylograph.generator import Generator
from stylograph.types import Latents, OnStep, Step

MEASURED = ("gain", "drift", "identity")


@dataclass(frozen=True)
class Curve:
    """What an edit did at every strength tried; rows are strengths [K], columns images [N]."""

    strengths: Tensor
    gain: Tensor
    """(E(edited) - E(original))·Δt, at most about 1."""
    drift: Tensor
    """Length of the rest of the embedding's change."""
    identity: Tensor
    """Cosine of the recogniser's embeddings; 1 throughout without a recogniser."""


@dataclass(frozen=True)
class FoundStrength:
    """The strength of each image, and why."""

    values: Tensor
    """[N]"""
    choice: Tensor
    """[N], which of the edits tried is the image's."""
    reasons: tuple[str, ...]
    """Per image: "reached" (more would not bring much more), "budget" (identity allowed no more), "end" (still rising
    fast at the largest strength tried), "none" (no strength has an effect, so 0)."""
    curves: tuple[Curve, ...]
    """What was measured, one curve per edit tried."""

    @classmethod
    def joined(cls, parts: Sequence[FoundStrength]) -> FoundStrength:
        """The strengths of several groups of images for which the same edits were tried, as if they were one."""
        curves = [
            Curve(group[0].strengths, *(torch.cat([getattr(c, name) for c in group], 1) for name in MEASURED))
            for group in zip(*(part.curves for part in parts), strict=True)
        ]
        values, choice = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "choice"))
        return cls(values, choice, tuple(reason for part in parts for reason in part.reasons), tuple(curves))

    def apply(self, edits: Sequence[Edit], latents: Latents) -> Latents:
        """Every image with its own edit at its own strength, in S."""
        rows = torch.stack([edit(latents, self.values).tensor for edit in edits])
        return Latents("s", rows[self.choice, torch.arange(rows.shape[1])], latents.generator)

    @property
    def typical(self) -> tuple[int, float]:
        """The edit most images got, and the middle one of its strengths that do something (0 if none does)."""
        active = self.values != 0
        if not bool(active.any()):
            return int(self.choice.mode().values), 0.0
        favourite = self.choice[active].mode().values
        return int(favourite), float(self.values[active & (self.choice == favourite)].median())

    def record(self) -> dict[str, Any]:
        """What was chosen and seen, as JSON-ready data; curves are means over the images."""
        curves = [
            {
                name: [round(x, 4) for x in values.tolist()]
                for name, values in (
                    ("strength", curve.strengths),
                    ("gain", curve.gain.mean(1)),
                    ("drift", curve.drift.mean(1)),
                    ("identity", curve.identity.mean(1)),
                )
            }
            for curve in self.curves
        ]
        return {
            "values": self.values.tolist(),
            "choice": self.choice.tolist(),
            "reasons": self.reasons,
            "curves": curves,
        }

    def describe(self) -> str:
        """One line for people."""
        said = {
            "reached": "as far as it helps",
            "budget": "held back to keep the person",
            "end": "still rising at the largest strength tried: the edit may be too weak",
            "none": "left alone: nothing it does comes nearer to the text (perhaps it is so already)",
        }
        counts = Counter(self.reasons)
        low, high = float(self.values.min()), float(self.values.max())
        parts = [f"{counts[r]} {said[r]}" for r in said if counts[r]]
        return f"automatic strength {low:.3g} to {high:.3g} ({'; '.join(parts)})"


def measure(
    edit: Edit,
    generator: Generator,
    clip: Clip,
    latents: Latents,
    wanted: Tensor,
    *,
    identity: Recogniser | None = None,
    config: StrengthConfig | None = None,
) -> Curve:
    """Renders the edit at a ladder of strengths and measures gain, drift and identity.

    wanted: the text direction Δt [D], unit length.
    """
    settings = config or StrengthConfig()
    up_to = min(settings.up_to, generator.resolution)
    own = edit.strength or 1.0
    ladder = own * settings.largest * torch.arange(settings.steps + 1) / settings.steps
    with torch.no_grad():
        rows = torch.cat([codes.tensor for codes in edit.sweep(latents, ladder.tolist())])  # [K·N, s]
        seen, people = [], []
        for part in rows.split(settings.batch):
            images = generator.render(Latents("s", part), up_to=up_to)
            seen.append(clip.embed_images(images))
            if identity is not None:
                people.append(identity.embed(images))
        moved = torch.cat(seen).unflatten(0, (len(ladder), -1))
        moved = moved - moved[:1]
        gain = moved @ wanted.to(moved)
        drift = (moved.square().sum(-1) - gain.square()).clamp_min(0).sqrt()
        same = torch.ones_like(gain)
        if identity is not None:
            person = torch.cat(people).unflatten(0, (len(ladder), -1))
            same = (person * person[:1]).sum(-1)
    return Curve(ladder, gain.cpu(), drift.cpu(), same.cpu())


def choose_strength(curves: Curve | Sequence[Curve], config: StrengthConfig | None = None) -> FoundStrength:
    """For each image the knee of its curve: where gain / best gain - thrift · strength / largest strength is largest.

    Strengths beyond the identity budget do not count.
    Of several edits, among those with `rival` of the best one's gain, the one that drifts least.
    """
    settings = config or StrengthConfig()
    tried = (curves,) if isinstance(curves, Curve) else tuple(curves)
    found = [_rung(curve, settings) for curve in tried]
    gains, drifts, values = (
        torch.stack([table.gather(0, rung[None])[0] for table, (rung, _) in zip(tables, found)])
        for tables in (
            [curve.gain for curve in tried],
            [curve.drift for curve in tried],
            [curve.strengths[:, None].expand_as(curve.gain) for curve in tried],
        )
    )
    good = gains >= settings.rival * gains.amax(0)
    choice = drifts.masked_fill(~good, torch.inf).argmin(0)
    reasons = tuple(found[c][1][image] for image, c in enumerate(choice.tolist()))
    return FoundStrength(values.gather(0, choice[None])[0], choice, reasons, tried)


def _rung(curve: Curve, settings: StrengthConfig) -> tuple[Tensor, list[str]]:
    """Which of the strengths each image gets [N], and why."""
    # A budget once overdrawn stays so: identity may come back by chance, not by merit.
    allowed = (curve.identity >= 1 - settings.budget).cumprod(0).bool()
    gain = curve.gain.masked_fill(~allowed, -torch.inf)  # row 0 is always allowed and has gain 0
    best = gain.amax(0)
    cost = torch.linspace(0, THRIFT if settings.thrift is None else settings.thrift, len(gain))[:, None]
    rung = (gain / best.clamp_min(1e-12) - cost).argmax(0)
    reasons = []
    for image, (top, at) in enumerate(zip(best.tolist(), rung.tolist())):
        if top < settings.least:
            rung[image] = 0
            reasons.append("none" if bool(allowed[:, image].all()) else "budget")
        elif not bool(allowed[-1, image]) and float(curve.gain[:, image].max()) > top + settings.least:
            reasons.append("budget")
        else:
            reasons.append("end" if at == len(curve.strengths) - 1 else "reached")
    return rung, reasons


def find_strength(
    edits: Edit | Sequence[Edit],
    generator: Generator,
    clip: Clip,
    latents: Latents,
    target: str,
    *,
    neutral: str | Sequence[str],
    identity: Recogniser | None = None,
    config: StrengthConfig | None = None,
    on_step: OnStep | None = None,
) -> FoundStrength:
    """The strength of an edit for each image; of several edits (one sentence, more or fewer channels) also which one.

    Raises `PromptError` for equal or empty sentences, `EditError` if no edits are given.
    """
    tried = [edits] if isinstance(edits, Edit) else list(edits)
    if not tried:
        raise EditError("got no edits; give at least one to find the strength of")
    wanted = clip.text_direction(target, neutral)
    curves = []
    for i, edit in enumerate(tried):
        curves.append(measure(edit, generator, clip, latents, wanted, identity=identity, config=config))
        if on_step:
            on_step(Step("finding the strength", i + 1, len(tried)))
    return choose_strength(curves, config)
