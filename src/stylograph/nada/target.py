"""What the child should look like, in CLIP's space: from sentences, from pictures, or from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylograph.embed import Clip
from stylograph.errors import AdaptError
from stylograph.generator import Generator
from stylograph.losses import directional_loss, mean_direction, unit_mean

SOURCE_IMAGES = 64
"""Generated pictures whose mean embedding stands for the source domain (the reference code: 16)."""
FIRST_SOURCE_SEED = 7_000_000


@dataclass(frozen=True, eq=False)
class Target:
    """Where the child's pictures should go; one row for the sentence and one for the pictures, if there are both."""

    clip: Clip
    points: Tensor
    """[K, D], where the target is."""
    directions: Tensor
    """[K, D], which way it is from the source; each model's part is a unit vector."""
    shares: Tensor
    """[K], how much each row counts; sums to 1."""
    length: float
    """How far it is from source to target along the direction."""
    record: dict[str, Any]
    """How it was made, JSON-ready."""

    def tensors(self) -> dict[str, Tensor]:
        """What a training depends on."""
        return {"points": self.points, "directions": self.directions}

    def directional(self, new: Tensor, old: Tensor) -> Tensor:
        """Directional CLIP loss of every row, [N]: the weighted mean over models, text and pictures (eq. 3)."""
        total = new.new_zeros(len(new))
        parts = zip(self.clip.weights, *map(self.clip.split, (new, old, self.directions)), strict=True)
        for weight, part_new, part_old, wanted in parts:
            for share, row in zip(self.shares, wanted, strict=True):
                total = total + weight * share * directional_loss(part_new, part_old, row)
        return total

    def distance(self, new: Tensor) -> Tensor:
        """Global CLIP loss of every row, [N]: 1 - cos to the target (eq. 1)."""
        return 1 - new @ (self.shares @ self.points)

    def gain(self, new: Tensor, old: Tensor) -> Tensor:
        """How far every row has gone along the direction, [N]; 1 is as far as from source to target."""
        return (new - old) @ (self.shares @ self.directions) / self.length


@torch.no_grad()
def aim(
    generator: Generator,
    clip: Clip,
    target: str | None,
    source: str | None,
    *,
    target_images: Tensor | None = None,
    source_images: Tensor | None = None,
    image_share: float = 0.5,
) -> Target:
    """The target of an adaptation.

    target, source: what the child and what the parent draws; the direction is the mean difference over CLIP's prompt
        templates, normalised once.
    target_images: pictures of the target domain [M, 3, H, W] in [-1, 1]; the direction runs from the mean embedding of
        `source_images`, or of 64 pictures of the generator, to theirs (paper, section 4.3).
    image_share: with a sentence and pictures, the share of the pictures.
    Raises `PromptError` for sentences no direction comes from, `AdaptError` if there is no target at all.
    """
    rows: list[tuple[Tensor, Tensor, Tensor, float]] = []
    if target is not None and target.strip():
        if source is None or not source.strip():
            raise AdaptError(
                "got a target sentence without a source; say what the generator draws now, e.g. 'a person'"
            )
        clip.text_direction(target, source)  # complains about sentences that are the same, empty or unknown
        new, old = (clip.embed_templates(sentence) for sentence in (target, source))
        share = 1 - image_share if target_images is not None else 1.0
        rows.append((clip.embed_text(target)[0], _way(clip, new, old), new.mean(0) - old.mean(0), share))
    if target_images is not None:
        new = torch.cat([clip.embed_images(part) for part in target_images.split(8)])
        if source_images is None:
            latents = generator.sample(SOURCE_IMAGES, seed=FIRST_SOURCE_SEED, truncation=1.0)
            parts = (generator.render(latents[i : i + 8]).clamp(-1, 1) for i in range(0, SOURCE_IMAGES, 8))
        else:
            parts = iter(source_images.split(8))
        old = torch.cat([clip.embed_images(part) for part in parts])
        share = image_share if rows else 1.0
        rows.append((_point(clip, new), _way(clip, new, old), new.mean(0) - old.mean(0), share))
    if not rows:
        raise AdaptError("got no target; describe it in a sentence, or give pictures of it")
    points, directions, moves = (torch.stack(parts) for parts in zip(*(row[:3] for row in rows), strict=True))
    shares = [row[3] for row in rows]
    weights = torch.tensor(shares, device=points.device)
    length = float((weights @ moves) @ (weights @ directions))
    images = None if target_images is None else len(target_images)
    record = {"target": target, "source": source, "target_images": images, "shares": shares, "clip": clip.name}
    return Target(clip, points, directions, weights, length, record)


def _way(clip: Clip, new: Tensor, old: Tensor) -> Tensor:
    """The direction of every model by itself, side by side."""
    return torch.cat([mean_direction(a, b) for a, b in zip(clip.split(new), clip.split(old), strict=True)])


def _point(clip: Clip, rows: Tensor) -> Tensor:
    """The mean of pictures, with every model's part as long as a single embedding's."""
    parts = zip(clip.split(rows), clip.weights, strict=True)
    return torch.cat([unit_mean(part) * weight**0.5 for part, weight in parts])
