"""What a job asks for, made: its edit, or the generator it leads to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stylograph.errors import PromptError
from stylograph.jobs import to_record
from stylograph.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from stylograph.edit.base import Edit
    from stylograph.edit.strength import FoundStrength
    from stylograph.generator import Generator
    from stylograph.nada.estimate import Estimate
    from stylograph.nada.target import Target
    from stylograph.types import Latents


@dataclass(frozen=True)
class Part:
    """Pictures that one generator draws, and their edit."""

    latents: Latents
    edit: Edit
    """With the strength that is typical of all the job's pictures."""
    edited: Latents
    """Every picture with its own strength."""


@dataclass(frozen=True)
class Made:
    """What a job's edit is, and what it makes of the job's pictures."""

    edit: Edit
    """With the strength that is typical of these pictures."""
    parts: list[Part]
    """In the order of the pictures."""
    amount: str
    """That strength, in words."""
    remarks: list[str]


def make(world: World) -> Made:
    """The edit a job asks for: its sentence's, plus the saved ones."""
    from stylograph.edit.strength import FoundStrength

    job = world.job
    saved = _saved(world)
    if not job.target.strip():
        if saved is None:
            raise PromptError(
                "got an empty sentence and no saved edit; describe the picture you want, e.g. 'a person with blond "
                "hair', or give --edit FILE"
            )
        edit = saved if job.strength == "auto" else saved.with_strength(job.strength)
        parts = [Part(group, edit, edit(group)) for group in world.groups]
        return Made(edit, parts, f"strength {edit.strength:.3g}", [saved.describe()])
    _ = world.groups, world.identity  # mistakes in these are told before the work, not after it
    found = METHODS[job.method](world)
    candidates = [found(group) for group in world.groups]
    remarks = []
    if job.strength == "auto":
        strengths = [_strength(world, edits, group) for edits, group in zip(candidates, world.groups)]
        together = FoundStrength.joined(strengths)
        favourite, strength = together.typical
        edits = [_typical(tried[favourite], strength, together) for tried in candidates]
        edited = [s.apply(tried, group) for s, tried, group in zip(strengths, candidates, world.groups)]
        amount = f"strength {float(together.values.min()):.2g} to {float(together.values.max()):.2g}"
        remarks.append(together.describe())
    else:
        edits = [tried[0].with_strength(job.strength) for tried in candidates]
        edited = [edit(group) for edit, group in zip(edits, world.groups)]
        amount = f"strength {edits[0].strength:.3g}"
    edit = _together(world, edits)
    remarks.insert(0, edit.describe())
    if saved is not None:
        for i, group in enumerate(world.groups):
            moved = saved(group)
            still = group.generator.styles(group) if group.generator else group
            edited[i] = edited[i].with_tensor(edited[i].tensor + moved.tensor - still.tensor)
        edit, edits = edit + saved, [own + _beside(own, saved, world, g) for own, g in zip(edits, world.groups)]
        remarks.append(f"and {saved.describe()}")
    parts = [Part(*row) for row in zip(world.groups, edits, edited)]
    return Made(edit, parts, amount, remarks)


def _beside(edit: Edit, saved: Edit, world: World, group: Latents) -> Edit:
    """The saved edit for the generator the other one is for: the job's, or that one tuned to a picture."""
    return saved if saved.generator_digest == edit.generator_digest else saved.on(world.drawing(group))


def _typical(edit: Edit, strength: float, found: FoundStrength) -> Edit:
    """An edit with the strength that is typical of it, and what is known about that."""
    edit = edit.with_strength(strength or edit.strength)
    return replace(edit, provenance={**edit.provenance, "automatic strength": found.record()})


def _together(world: World, edits: Sequence[Edit]) -> Edit:
    """The edits of all groups as one that can be saved: they are the same, or have a row for each of their images."""
    import torch

    from stylograph.edit.base import Shift

    first = edits[0]
    if not isinstance(first, Shift) or all(edit.generator_digest == world.generator.digest for edit in edits):
        return first
    rows = torch.cat([edit.delta for edit in edits if isinstance(edit, Shift)])
    return replace(first, delta=rows, generator=world.generator, generator_digest=world.generator.digest)


def _strength(world: World, candidates: list[Edit], group: Latents) -> FoundStrength:
    from stylograph.edit.config import THRIFT_OF_OWN
    from stylograph.edit.strength import find_strength

    config = world.job.auto
    if world.job.image and config.thrift is None:
        config = replace(config, thrift=THRIFT_OF_OWN)
    return find_strength(
        candidates,
        world.drawing(group),
        world.clip,
        group,
        world.job.target,
        neutral=world.job.neutral,
        identity=world.identity,
        config=config,
        on_step=world.on_step,
    )


def _saved(world: World) -> Edit | None:
    from stylograph.edit.base import load_edit
    from stylograph.edit.mapper import load_mapper

    # What ends in .pt is a mapper as StyleCLIP published them.
    edits = [(load_mapper if path.suffix == ".pt" else load_edit)(path, world.generator) for path in world.job.edit]
    if world.job.direction.lock:
        edits = [edit.without(*world.job.direction.lock) for edit in edits]
    if not edits:
        return None
    total = edits[0]
    for edit in edits[1:]:
        total = total + edit
    return total


def directions(world: World, counts: Sequence[int] | None = None, *, rivals: bool = False) -> list[Edit]:
    """The sentence's global direction with several numbers of channels, or with the one the job asks for.

    rivals: by every way the job's settings leave open, for an automatic strength to choose among.
    """
    from stylograph.edit.directions import COUNTS, find_directions
    from stylograph.edit.table import table_path

    job, config = world.job, world.job.direction
    if config.table is None and config.method != "gradient":
        kind = "finite" if config.method == "finite" else "universal"
        both = f"{world.generator.digest[:8]}-{world.clip.digest[:8]}"
        place = table_path(job.model, world.clip, kind, digest=both)
        place.parent.mkdir(parents=True, exist_ok=True)
        config = replace(config, table=place)
    rivals = rivals and config.beta is None and config.count is None
    several = COUNTS if rivals else counts
    tried = [(config, several)]
    if rivals and config.method in ("auto", "universal") and config.torgb is None:
        tried.append((replace(config, torgb=False), several and several[:1]))
    quick = world.generator.resolution <= RIVALS_UP_TO or world.generator.device.type != "cpu"
    if rivals and config.method == "auto" and quick:
        tried.append((replace(config, method="gradient"), None))
    edits: list[Edit] = []
    for settings, numbers in tried:
        edits += find_directions(
            world.generator,
            world.clip,
            job.target,
            neutral=job.neutral,
            config=settings,
            counts=numbers,
            on_step=world.on_step,
        )
    return edits


RIVALS_UP_TO = 128
"""Resolution up to which back-propagation for every sentence is a matter of seconds on a CPU."""


Candidates = Callable[["Latents"], "list[Edit]"]
"""The edits to choose from, for a group of pictures."""


def _directed(world: World) -> Candidates:
    found = directions(world, rivals=world.job.strength == "auto")
    return lambda group: found


def _optimized(world: World) -> Candidates:
    # From the global direction's edit, see `edit.optimize`.
    candidates = directions(world, rivals=True) if world.job.optimize.space == "s" else []
    return lambda group: [_optimize(world, candidates, group)]


def _optimize(world: World, candidates: list[Edit], group: Latents) -> Edit:
    from stylograph.edit.optimize import optimize

    job, start = world.job, None
    if candidates:
        start = _strength(world, candidates, group).apply(candidates, group)
    edit = optimize(
        world.drawing(group),
        world.clip,
        group,
        job.target,
        neutral=job.neutral,
        start=start,
        identity=world.identity,
        config=job.optimize,
        on_step=world.on_step,
    )
    images = f"seeds {', '.join(map(str, job.seed))} of {job.model}, truncation {job.truncation}"
    if job.image:
        images = ", ".join(path.name for path in job.image)
    edit = replace(edit, provenance={**edit.provenance, "images": images})
    return edit.without(*job.direction.lock) if job.direction.lock else edit


def _mapped(world: World) -> Candidates:
    from stylograph.edit.mapper import train_mapper
    from stylograph.weights.download import cache_folder

    job = world.job
    task = [job.target, job.neutral, world.generator.digest, world.clip.digest, to_record(job.mapper), job.identity]
    name = hashlib.sha256(json.dumps(task).encode()).hexdigest()[:24]
    folder = cache_folder() / "mappers"
    folder.mkdir(parents=True, exist_ok=True)
    edit = train_mapper(  # trained once per sentence; an interrupted training goes on
        world.generator,
        world.clip,
        job.target,
        neutral=job.neutral,
        config=job.mapper,
        identity=world.identity,
        path=folder / f"{name}.safetensors",
        on_step=world.on_step,
    )
    chosen = [edit.without(*job.direction.lock) if job.direction.lock else edit]
    return lambda group: chosen


METHODS: dict[str, Callable[[World], Candidates]] = {
    "direction": _directed,
    "optimize": _optimized,
    "mapper": _mapped,
}


# -------------------------------------------------------------------- domains


def target_of(world: World) -> Target:
    """Where an adaptation shall go."""
    from stylograph.images import read_images
    from stylograph.nada.target import aim

    job, size = world.job, world.generator.resolution
    given = [read_images(paths, size) if paths else None for paths in (job.target_images, job.source_images)]
    return aim(
        world.generator,
        world.clip,
        job.target or None,
        job.source,
        target_images=given[0],
        source_images=given[1],
        image_share=job.adapt.image_share,
    )


def estimated(world: World) -> Estimate:
    """What the adaptation would take."""
    from stylograph.nada.estimate import estimate

    return estimate(world.generator, target_of(world), world.job.adapt, identity=world.identity)


def adapted(world: World) -> Generator:
    """The child an adaptation asks for, with its latent mapper if it shall have one."""
    from stylograph.nada.adapt import adapt_to
    from stylograph.nada.mining import check_mining, mine

    job, path = world.job, world.checkpoint
    _ = world.groups  # a mistake in the seeds or pictures is told before the work, not after it
    identity = world.identity
    if job.mine:
        check_mining(job.mapper)
    target = target_of(world)
    child = adapt_to(world.generator, target, identity=identity, config=job.adapt, path=path, on_step=world.on_step)
    if not job.mine:
        return child
    beside = None if path is None else mapper_checkpoint(path)
    return mine(child, target, config=job.mapper, path=beside, on_step=world.on_step)


def mapper_checkpoint(checkpoint: Path) -> Path:
    """Where the training of a latent mapper is kept, beside the checkpoint of the child it is for."""
    return checkpoint.with_name(f"{checkpoint.stem}.mapper{checkpoint.suffix}")
