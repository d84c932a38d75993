"""What the small CLIP is trained on: matching with many right answers, and directions."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def matching_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the cross entropy to the uniform distribution over the true columns.

    logits, truth: [R, C]; truth 1 counts as right, 0 as wrong, 0.5 takes no part. Rows without a true column are
    left out.
    """
    logits = logits.masked_fill((truth > 0) & (truth < 1), -1e4)
    right = (truth == 1).float()
    count = right.sum(1)
    losses = -(F.log_softmax(logits, 1) * right).sum(1) / count.clamp(min=1)
    return losses[count > 0].mean()


def mean_move(vectors: torch.Tensor, claim: torch.Tensor, known: torch.Tensor) -> torch.Tensor | None:
    """Direction from the pictures that a claim is false of to those it is true of, or None when there are too few.

    vectors: unit [N, D]; claim: [values]; known: labels [N], -100 unknown.
    """
    truth = torch.where(known >= 0, claim[known.clamp(min=0)], 0.5)
    inside, outside = truth == 1, truth == 0
    if inside.sum() < 2 or not outside.any():
        return None
    return F.normalize(vectors[inside].mean(0) - vectors[outside].mean(0), dim=0)


def direction_loss(
    vectors: torch.Tensor, labels: list[torch.Tensor], texts: list[torch.Tensor], neutral: list[torch.Tensor]
) -> torch.Tensor:
    """Cross entropy of choosing, by direction, the text of the attribute value that sets some pictures apart.

    Text directions run from the neutral text to the value's. vectors: unit [N, D]; per group labels [N] (-100
    unknown), texts [values, D], neutral [D].
    """
    moves, answers, start = [], [], 0
    for known, group in zip(labels, texts, strict=True):
        for value, claim in enumerate(torch.eye(len(group))):
            move = mean_move(vectors, claim, known)
            if move is not None:
                moves.append(move)
                answers.append(start + value)
        start += len(group)
    if not moves:
        return vectors.sum() * 0
    meant = torch.cat([group - plain for group, plain in zip(texts, neutral, strict=True)])
    cosines = torch.stack(moves) @ F.normalize(meant, dim=-1, eps=1e-3).T
    return F.cross_entropy(10 * cosines, torch.tensor(answers))
