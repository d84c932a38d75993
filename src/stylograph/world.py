"""What a job names, made real: its models, its latents, and the edit it asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stylograph.errors import PromptError, StylographError
from stylograph.jobs import AdaptJob, to_record

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from stylograph.edit.base import Edit, Recogniser
    from stylograph.edit.strength import FoundStrength
    from stylograph.embed import Clip
    from stylograph.generator import Generator
    from stylograph.nada.estimate import Estimate
    from stylograph.nada.target import Target
    from stylograph.types import Latents, OnStep


class World:
    """The models a job names, each loaded when first needed."""

    def __init__(self, job: Any, on_step: OnStep | None, checkpoint: Path | None = None) -> None:
        self.job, self.on_step, self.checkpoint = job, on_step, checkpoint
        if not job.seed:
            raise StylographError("got no seeds; give at least one, e.g. --seed 1 2 3 4")

    @cached_property
    def generator(self) -> Generator:
        return self._load(self.job.model)

    @cached_property
    def other(self) -> Generator:
        """The second generator of a blend."""
        return self._load(self.job.other)

    def _load(self, model: str) -> Generator:
        import torch

        from stylograph.generator import Generator

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.job.precision]
        return Generator.from_pretrained(
            model,
            device=pick_device(self.job.device),
            dtype=dtype,
            offline=self.job.offline,
            on_step=self._downloading,
        )

    @cached_property
    def clip(self) -> Clip:
        from stylograph.embed import Clip

        adapting = isinstance(self.job, AdaptJob)
        source = self.job.clip or CLIPS["avatars" if self.generator.root == "avatars" else "photographs"][adapting]
        weights = (self.job.clip_weights or None) if adapting else None
        return Clip.from_pretrained(source, weights=weights, device=self.generator.device, offline=self.job.offline)

    @cached_property
    def identity(self) -> Recogniser | None:
        from stylograph.identity import Identity

        source = self.job.identity or ("avatars" if self.generator.root == "avatars" else "none")
        if source == "none":
            return None
        return Identity.from_pretrained(source, device=self.generator.device, offline=self.job.offline)

    @cached_property
    def latents(self) -> Latents:
        job = self.job
        return self.generator.sample(len(job.seed), seed=job.seed, truncation=job.truncation, label=job.label)

    def render(self, latents: Latents, generator: Generator | None = None) -> Tensor:
        """Images of any number of latents, by the generator they came from or another, on the CPU."""
        import torch

        from stylograph.types import Step

        drawing: Any = generator or latents.generator or self.generator
        parts = []
        with torch.no_grad():
            for start in range(0, len(latents), RENDER_BATCH):
                parts.append(drawing.render(latents[start : start + RENDER_BATCH]).cpu())
                if self.on_step:
                    self.on_step(Step("rendering", min(start + RENDER_BATCH, len(latents)), len(latents)))
        return torch.cat(parts)

    def provenance(self, **more: Any) -> dict[str, Any]:
        """The job and what it was done with: enough for `rerun`."""
        import torch

        from stylograph import __version__

        models = {"generator": self.generator.digest}
        if "clip" in self.__dict__:
            models["clip"] = self.clip.digest
        versions = {"stylograph": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
        job = {"kind": type(self.job).__name__, **to_record(self.job)}
        return {"job": job, "models": models, "versions": versions, **more}

    def _downloading(self, done: int, total: int | None) -> None:
        from stylograph.types import Step

        if self.on_step:
            self.on_step(Step("downloading", done, total))


RENDER_BATCH = 8
CLIPS: dict[str, tuple[Any, Any]] = {
    "avatars": ("avatars", ["avatars-robust"]),
    "photographs": ("openai/clip-vit-base-patch32", ["openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16"]),
}
"""World -> CLIP models used unless a job names others, for edits and for adaptation."""


def pick_device(name: str) -> str:
    """ "auto" -> the best device this machine has; anything else is checked. Entry points call this once."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in available.items() if present)
    if not available.get(name.split(":")[0], False):
        present = ", ".join(device for device, there in available.items() if there)
        raise StylographError(f"got device {name!r}; this machine has: {present}")
    return name


@dataclass(frozen=True)
class Made:
    """What a job's edit is, and what it makes of the job's latents."""

    edit: Edit
    """With the strength that is typical of these pictures."""
    edited: Latents
    """Every picture with its own strength."""
    amount: str
    """That strength, in words."""
    remarks: list[str]


def make(world: World) -> Made:
    """The edit a job asks for: its sentence's, plus the saved ones."""
    job = world.job
    saved = _saved(world)
    if not job.target.strip():
        if saved is None:
            raise PromptError(
                "got an empty sentence and no saved edit; describe the picture you want, e.g. 'a person with blond "
                "hair', or give --edit FILE"
            )
        edit = saved if job.strength == "auto" else saved.with_strength(job.strength)
        return Made(edit, edit(world.latents), f"strength {edit.strength:.3g}", [saved.describe()])
    _ = world.latents, world.identity  # mistakes in these are told before the work, not after it
    candidates = METHODS[job.method](world)
    remarks = []
    if job.strength == "auto":
        found = _strength(world, candidates)
        favourite, strength = found.typical
        edit = candidates[favourite].with_strength(strength or candidates[favourite].strength)
        edit = replace(edit, provenance={**edit.provenance, "automatic strength": found.record()})
        edited = found.apply(candidates, world.latents)
        amount = f"strength {float(found.values.min()):.2g} to {float(found.values.max()):.2g}"
        remarks.append(found.describe())
    else:
        edit = candidates[0].with_strength(job.strength)
        edited, amount = edit(world.latents), f"strength {edit.strength:.3g}"
    remarks.insert(0, edit.describe())
    if saved is not None:
        moved = saved(world.latents).tensor - world.generator.styles(world.latents).tensor
        edit, edited = edit + saved, edited.with_tensor(edited.tensor + moved)
        remarks.append(f"and {saved.describe()}")
    return Made(edit, edited, amount, remarks)


def _strength(world: World, candidates: list[Edit]) -> FoundStrength:
    from stylograph.edit.strength import find_strength

    return find_strength(
        candidates,
        world.generator,
        world.clip,
        world.latents,
        world.job.target,
        neutral=world.job.neutral,
        identity=world.identity,
        config=world.job.auto,
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
        place = table_path(job.model, world.clip, "finite" if config.method == "finite" else "universal")
        place.parent.mkdir(parents=True, exist_ok=True)
        config = replace(config, table=place)
    rivals = rivals and config.beta is None and config.count is None
    tried = [(config, COUNTS if rivals else counts)]
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


def _optimized(world: World) -> list[Edit]:
    from stylograph.edit.optimize import optimize

    job, start = world.job, None
    if job.optimize.space == "s":  # from the global direction's edit, see `edit.optimize`
        found = _strength(world, candidates := directions(world, rivals=True))
        start = found.apply(candidates, world.latents)
    edit = optimize(
        world.generator,
        world.clip,
        world.latents,
        job.target,
        neutral=job.neutral,
        start=start,
        identity=world.identity,
        config=job.optimize,
        on_step=world.on_step,
    )
    images = f"seeds {', '.join(map(str, job.seed))} of {job.model}, truncation {job.truncation}"
    edit = replace(edit, provenance={**edit.provenance, "images": images})
    return [edit.without(*job.direction.lock) if job.direction.lock else edit]


def _mapped(world: World) -> list[Edit]:
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
    return [edit.without(*job.direction.lock) if job.direction.lock else edit]


METHODS: dict[str, Callable[[World], list[Edit]]] = {
    "direction": lambda world: directions(world, rivals=world.job.strength == "auto"),
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

    return estimate(world.generator, target_of(world), world.job.adapt)


def adapted(world: World) -> Generator:
    """The child an adaptation asks for, with its latent mapper if it shall have one."""
    from stylograph.nada.adapt import adapt_to
    from stylograph.nada.mining import check_mining, mine

    job, path = world.job, world.checkpoint
    _ = world.latents  # a mistake in the seeds is told before the work, not after it
    if job.mine:
        check_mining(job.mapper)
    target = target_of(world)
    child = adapt_to(world.generator, target, config=job.adapt, path=path, on_step=world.on_step)
    if not job.mine:
        return child
    beside = None if path is None else mapper_checkpoint(path)
    return mine(child, target, config=job.mapper, path=beside, on_step=world.on_step)


def mapper_checkpoint(checkpoint: Path) -> Path:
    """Where the training of a latent mapper is kept, beside the checkpoint of the child it is for."""
    return checkpoint.with_name(f"{checkpoint.stem}.mapper{checkpoint.suffix}")
