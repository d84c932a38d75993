"""How often an edit does what its sentence says, and what else it changes: every method, fixed and automatic strength.

    python -m benchmarks.edits [--methods direction mapper ...] [--seeds 32]

On the embedded avatars, scored by the shipped judge (`stylograph.metrics`), which no method sees. *Success*: share of
pictures that did not show the attribute before (by the judge, as far as it can be seen) and show it afterwards. *Leak*:
share of the other attributes that changed. *Identity*: mean cosine of the recogniser's embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stylograph.metrics import Judge, leakage, success, visible


@dataclass(frozen=True)
class Task:
    """A sentence, what the judge has to see afterwards, and what changes with it by nature."""

    target: str
    attribute: str
    values: tuple[str, ...]
    exempt: tuple[str, ...] = ()


TASKS = (
    Task("a person wearing sunglasses", "eyes", ("sunglasses",)),
    Task("a person wearing glasses", "eyes", ("glasses",)),
    Task("a sleeping person", "eyes", ("sleep",)),
    Task("a person with a big smile", "mouth", ("bigSmile",)),
    Task("a person with a pacifier", "mouth", ("pacifier",)),
    Task("a surprised person", "mouth", ("surprise",)),
    Task("a person with blue hair", "hair_colour", ("blue",)),
    Task("a person with blond hair", "hair_colour", ("blond",)),
    Task("a bald person", "hair_style", ("bald",)),
    Task("a person with long hair", "hair_style", ("long", "extraLong")),
    Task("a person wearing a beanie", "hair_style", ("beanie",)),
    Task("a person with a full beard", "facial_hair", ("beardMustache",), ("mouth",)),
    Task("a person with dark skin", "skin", ("dark",)),
    Task("a person in a green shirt", "clothes_colour", ("green",)),
    Task("a person on a pink background", "background", ("pink",)),
)
NEUTRAL = "a person"


def score(judge: Judge, task: Task, before: Tensor, after: Tensor) -> dict[str, float]:
    """Success, leak, and how many pictures counted for success."""
    told = [judge.probabilities(images) for images in (before, after)]
    wanted = [judge.value(task.attribute, value) for value in task.values]
    eligible = visible(told[0], judge.hidden)[task.attribute] & ~success(told[0], task.attribute, wanted)
    reached = success(told[1], task.attribute, wanted) & visible(told[1], judge.hidden)[task.attribute]
    leak = leakage(*told, hidden=judge.hidden, exempt=(task.attribute, *task.exempt))
    count = int(eligible.sum())
    return {
        "success": float((reached & eligible).sum()) / max(1, count),
        "leak": leak.share,
        "coverage": leak.coverage,
        "counted": count,
    }
