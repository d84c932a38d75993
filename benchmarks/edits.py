"""How often an edit does what its sentence says, and what else it changes: every method, fixed and automatic strength.

    python -m benchmarks.edits [--methods direction mapper] [--seeds 32]

On the embedded avatars, through the pipeline that the command line uses, scored by the shipped judge
(`stylograph.metrics`), which no method sees. *Success*: share of the pictures that show the attribute afterwards, among
those that did not before (by the judge, as far as it can be seen). *Leak*: share of the other attributes that changed.
The settings of the automatic strength were chosen on the sentences of TASKS with seeds 1 to 24; seeds here are others,
and the sentences of HELD_OUT were not looked at then.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.measure import report
from stylograph import EditJob
from stylograph.edit.config import DirectionConfig
from stylograph.making import METHODS, make
from stylograph.metrics import Judge, leakage, success, visible
from stylograph.types import Latents
from stylograph.world import World


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
HELD_OUT = (
    Task("a person with red hair", "hair_colour", ("red",)),
    Task("a person with gray hair", "hair_colour", ("gray",)),
    Task("a sad person", "mouth", ("frown",)),
    Task("a person wearing a cap", "hair_style", ("cap",)),
    Task("a person with a mohawk", "hair_style", ("mohawk",)),
    Task("a person with pale skin", "skin", ("pale",)),
    Task("a person in a purple shirt", "clothes_colour", ("purple",)),
    Task("a person on a green background", "background", ("green",)),
)
NEUTRAL = "a person"
FIRST_SEED = 200
WAYS: dict[str, dict[str, Any]] = {
    "universal": {"method": "direction", "direction": DirectionConfig(method="universal")},
    "gradient": {"method": "direction", "direction": DirectionConfig(method="gradient")},
    "direction": {"method": "direction"},
    "optimize": {"method": "optimize"},
    "mapper": {"method": "mapper"},
}
"""Ways to edit: what `EditJob` is told. "direction" is the default command; its fixed strength is universal's."""


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


@dataclass(frozen=True)
class Options:
    methods: tuple[str, ...] = ("universal", "gradient", "direction", "optimize", "mapper")
    strengths: tuple[str, ...] = ("fixed", "auto")
    seeds: int = 32
    tasks: int = 15
    """So many of TASKS, and as many of HELD_OUT as there are if it is all of them."""
    name: str = "edits"
    """File in benchmarks/results."""
    picture: Path | None = None
    """Write originals over the edits of every sentence at automatic strength to this folder."""


def edited(way: str, strength: str, task: Task, seeds: tuple[int, ...]) -> tuple[World, list[Latents]]:
    """The world and the edited codes; "fixed" is each edit at its own strength, the same for all pictures."""
    if strength == "auto":
        world = World(EditJob(task.target, seed=seeds, **WAYS[way]), None)
        return world, [part.edited for part in make(world).parts]
    world = World(EditJob(task.target, seed=seeds, strength=1.0, **WAYS[way]), None)
    found = METHODS[world.job.method](world)
    return world, [found(group)[0](group) for group in world.groups]


def main(options: Options) -> None:
    judge = Judge.from_pretrained("avatars")
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + options.seeds))
    tasks = TASKS[: options.tasks] + (HELD_OUT if options.tasks >= len(TASKS) else ())
    rows: list[dict[str, Any]] = []
    for way in options.methods:
        for strength in options.strengths:
            found = [_row(judge, way, strength, task, seeds, options) for task in tasks]
            groups = {"tuned sentences": found[: len(TASKS)], "held out": found[len(TASKS) :]}
            for group, part in groups.items():
                if part:
                    keys = ("success", "leak", "coverage", "identity", "seconds")
                    mean = {key: sum(row[key] for row in part) / len(part) for key in keys}
                    rows.append({"way": way, "strength": strength, "sentence": f"mean of {len(part)} {group}", **mean})
                    print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            rows += found
    report(options.name, rows, seeds=list(seeds), neutral=NEUTRAL)


def _row(judge: Judge, way: str, strength: str, task: Task, seeds: tuple[int, ...], options: Options) -> dict[str, Any]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world, codes = edited(way, strength, task, seeds)
    seconds = time.perf_counter() - start
    before, after = world.render(world.groups), world.render(codes)
    assert world.identity is not None
    with torch.no_grad():
        identity = float((world.identity.embed(before) * world.identity.embed(after)).sum(-1).mean())
    if options.picture is not None and strength == "auto":
        from stylograph.render import save_picture, sheet

        name = f"{way}-{task.target.replace(' ', '-')}.png"
        save_picture(sheet([before[:12], after[:12]], captions=[NEUTRAL, task.target]), options.picture / name)
    facts = {"way": way, "strength": strength, "sentence": task.target}
    return {**facts, **score(judge, task, before, after), "identity": identity, "seconds": seconds}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
