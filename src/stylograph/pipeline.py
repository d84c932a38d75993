"""The one function that does a job, for the command line, the web studio and batches alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import EditError, PromptError, StylographError
from stylograph.jobs import (
    AdaptJob,
    BlendJob,
    EditJob,
    GridJob,
    ImagineJob,
    PictureJob,
    SampleJob,
    SweepJob,
    job_from_record,
)
from stylograph.world import World, adapted, directions, make

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from stylograph.edit.base import Edit
    from stylograph.generator import Generator
    from stylograph.types import OnStep


@dataclass(frozen=True)
class Result:
    """What a job made: rows of images [N, 3, H, W], or frames of an animation, and what is worth saying about it."""

    rows: list[Tensor]
    captions: list[str]
    headings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    edit: Edit | None = None
    generator: Generator | None = None
    """What an adaptation made."""
    provenance: dict[str, Any] = field(default_factory=dict)
    frames: list[Image] = field(default_factory=list)

    def picture(self) -> Image:
        from stylograph.render import sheet

        return sheet(self.rows, captions=self.captions, headings=self.headings)

    def save(self, path: str | Path) -> Path:
        """Writes the picture or the animation, with the job in its metadata."""
        from stylograph.render import save_animation, save_picture

        if self.frames:
            return save_animation(self.frames, Path(path), metadata=self.provenance)
        return save_picture(self.picture(), Path(path), metadata=self.provenance)


def run(job: PictureJob, *, on_step: OnStep | None = None, checkpoint: str | Path | None = None) -> Result:
    """Does a job. Raises `StylographError` subclasses for anything the user can mend.

    checkpoint: where an adaptation keeps its state, to go on from if it is there. It is
        not deleted: wait until the result is safe.
    """
    for kind, work in WORK.items():
        if isinstance(job, kind):
            return work(World(job, on_step, None if checkpoint is None else Path(checkpoint)))
    raise TypeError(f"got a {type(job).__name__}; expected one of {', '.join(kind.__name__ for kind in WORK)}")


# -------------------------------------------------------------------- jobs


def _sample(world: World) -> Result:
    rows = list(world.render(world.latents).split(max(1, world.job.columns)))
    return Result(rows, [], provenance=world.provenance())


def _edit(world: World) -> Result:
    job, made = world.job, make(world)
    before = world.render(world.latents)
    after = world.render(made.edited)
    remarks = list(made.remarks)
    if job.target.strip():
        clip, wanted = world.clip, world.clip.text_direction(job.target, job.neutral)
        gain = float(((clip.embed_images(after) - clip.embed_images(before)) @ wanted).mean())
        remarks.append(f"similarity to the text direction rose by {gain:+.3f} on average")
    names = [f"+ {path.stem}" for path in job.edit]
    asked = " ".join([f"{job.target}  ({job.method}, {made.amount})" if job.target else "", *names])
    return Result(
        [before, after],
        [", ".join(job.neutral), asked.strip()],
        remarks=remarks,
        edit=made.edit,
        provenance=world.provenance(**_edit_files(job)),
    )


def _sweep(world: World) -> Result:
    job, made = world.job, make(world)
    edit, own = made.edit, made.edit.strength
    provenance = world.provenance(**_edit_files(job))
    caption = job.target or ", ".join(path.stem for path in job.edit)
    if job.frames:
        return Result(
            [], [], remarks=made.remarks, edit=edit, provenance=provenance, frames=_frames(world, edit, caption)
        )
    codes = edit.sweep(world.latents, [own * factor for factor in job.strengths])
    columns = [world.render(code) for code in codes]
    import torch

    rows = list(torch.stack(columns, dim=1))
    headings = [f"{own * factor:.2g}" for factor in job.strengths]
    return Result(
        rows, [], headings, [*made.remarks, f"strengths are multiples of {own:.3g}"], edit, provenance=provenance
    )


def _frames(world: World, edit: Edit, caption: str) -> list[Image]:
    """There and back again between the first and the last strength, which is a smooth loop."""
    from stylograph.render import sheet
    from stylograph.types import Step

    job, n = world.job, world.job.frames
    low, high = job.strengths[0], job.strengths[-1]
    amounts = [edit.strength * (low + (high - low) * i / max(1, n - 1)) for i in range(n)]
    made = []
    for i, codes in enumerate(edit.sweep(world.latents, amounts)):
        made.append(sheet([world.generator.render(codes)], captions=[f"{caption}  {amounts[i]:+.2f}"]))
        if world.on_step:
            world.on_step(Step("drawing frames", i + 1, n))
    return [*made, *made[-2:0:-1]]


def _grid(world: World) -> Result:
    import torch

    job = world.job
    if not job.target.strip():
        raise PromptError("got an empty sentence; a grid needs one, e.g. stylograph grid 'a person with blond hair'")
    if job.direction.beta is not None or job.direction.count is not None:
        raise EditError("got --beta or --count for a grid; expected --counts: every row has its own number of channels")
    edits = directions(world, job.counts)
    rows, captions = [], []
    for edit in edits:
        strengths = [edit.strength * alpha for alpha in job.alphas]
        images = torch.stack([world.render(codes) for codes in edit.sweep(world.latents, strengths)], dim=1)
        for seed, row in zip(job.seed, images):
            rows.append(row)
            own = f"alpha 1 = strength {edit.strength:.2g}" + (f", seed {seed}" if len(job.seed) > 1 else "")
            captions.append(f"beta {edit.provenance['beta']:.2f}: {edit.provenance['channels']} channels; {own}")
    headings = [f"alpha {alpha:g}" for alpha in job.alphas]
    return Result(
        rows,
        captions,
        headings,
        [f"{len(edits)} rows of channels, {len(headings)} strengths"],
        provenance=world.provenance(),
    )


def _imagine(world: World) -> Result:
    made = make(world)
    provenance = world.provenance(**_edit_files(world.job))
    return Result([world.render(made.edited)], [world.job.target], [], made.remarks, made.edit, provenance=provenance)


def _adapt(world: World) -> Result:
    child = adapted(world)
    before = world.render(world.latents)
    latents = child.sample(
        len(world.job.seed), seed=world.job.seed, truncation=world.job.truncation, label=world.job.label
    )
    after = world.render(latents)
    told = child.provenance["adaptation"]
    best = told["best"]
    remarks = [
        f"best of {len(told['looks']) - 1} looks: step {best['step']:.0f} ({told['ended']}); gain {best['gain']:.2f} "
        f"(1 is as far as the target), diversity {best['diversity']:.2f} of the parent's"
    ]
    if child.mapper is not None:
        remarks.append(f"samples go through a latent mapper, trained for {child.provenance['mining']['steps']} steps")
    asked = world.job.target or f"{told['target_images']} pictures"
    provenance = world.provenance(child=child.digest)
    return Result([before, after], [world.job.source, asked], [], remarks, generator=child, provenance=provenance)


def _blend(world: World) -> Result:
    import torch

    from stylograph.nada.blend import blend, within

    job = world.job
    mixtures = [
        blend(world.generator, world.other, within(world.generator, amount, start=job.start, stop=job.stop))
        for amount in job.amounts
    ]
    if not mixtures:
        raise StylographError("got no amounts; expected at least one, e.g. --amounts 0 0.5 1")
    latents = world.generator.sample(
        len(job.seed), seed=job.seed, truncation=job.truncation, label=job.label, mined=False
    )
    columns = [world.render(latents, mixture) for mixture in mixtures]
    headings = [f"{amount:g}" for amount in job.amounts]
    only = mixtures[0] if len(mixtures) == 1 else None
    provenance = world.provenance(other=world.other.digest)
    return Result(list(torch.stack(columns, dim=1)), [], headings, generator=only, provenance=provenance)


WORK: dict[type[PictureJob], Callable[[World], Result]] = {
    SweepJob: _sweep,
    GridJob: _grid,
    ImagineJob: _imagine,
    AdaptJob: _adapt,
    BlendJob: _blend,
    EditJob: _edit,
    SampleJob: _sample,
}


def _edit_files(job: EditJob) -> dict[str, Any]:
    """Digests of the saved edits a job used."""
    from stylograph.files import file_digest

    return {"edits": [file_digest(path) for path in job.edit]} if job.edit else {}


# -------------------------------------------------------------------- again


def rerun(picture: str | Path, *, on_step: OnStep | None = None) -> Result:
    """Does the job again that a picture carries. On the same machine the picture comes out the same, byte for byte.

    Raises `ImageError` for a picture without a job, `StylographError` if the job now means other models or edits.
    """
    import torch

    from stylograph.render import read_metadata

    told = read_metadata(Path(picture))
    job = job_from_record(told.get("job", {}))
    threads = told.get("versions", {}).get("threads")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)  # the order of sums depends on it
    result = run(job, on_step=on_step)
    for part in ("models", "edits"):
        if result.provenance.get(part) != told.get(part):
            raise StylographError(
                f"{picture}: got other {part} than it was made with; expected {told.get(part)}, found "
                f"{result.provenance.get(part)}: bring those back, or make a new picture"
            )
    before, now = told.get("versions"), result.provenance["versions"]
    if before != now:
        result.remarks.append(f"note: made with {before}, now {now}: the bytes may differ")
    return result
