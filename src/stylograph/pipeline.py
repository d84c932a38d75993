"""The one function that does a job, for the command line, the web studio and batches alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import EditError, ImageError, PromptError, StylographError
from stylograph.jobs import (
    AdaptJob,
    BlendJob,
    EditJob,
    GridJob,
    ImagineJob,
    InvertJob,
    PictureJob,
    SampleJob,
    SweepJob,
    job_from_record,
)
from stylograph.making import Made, adapted, directions, make
from stylograph.photos import Edited
from stylograph.world import World

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from stylograph.edit.base import Edit
    from stylograph.generator import Generator
    from stylograph.photos import Outcome
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
    outcomes: list[Outcome] = field(default_factory=list)
    """What became of every picture of the job's own."""
    back: list[Edited] = field(default_factory=list)
    """The job's own pictures, for the edit to be put in its place."""
    provenance: dict[str, Any] = field(default_factory=dict)
    frames: list[Image] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many of the job's own pictures had to be left out."""
        return sum(outcome.inversion is None for outcome in self.outcomes)

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
            world = World(job, on_step, None if checkpoint is None else Path(checkpoint))
            result = work(world)
            return replace(result, outcomes=world.outcomes) if job.image else result
    raise TypeError(f"got a {type(job).__name__}; expected one of {', '.join(kind.__name__ for kind in WORK)}")


# -------------------------------------------------------------------- jobs


def _sample(world: World) -> Result:
    rows = list(world.render(world.groups).split(max(1, world.job.columns)))
    return Result(rows, [], remarks=_told(world), provenance=world.provenance())


def _edit(world: World) -> Result:
    job, made = world.job, make(world)
    before = world.render(world.groups)
    after = world.render([part.edited for part in made.parts])
    remarks = [*_told(world), *made.remarks]
    if job.target.strip():
        clip, wanted = world.clip, world.clip.text_direction(job.target, job.neutral)
        gain = float(((clip.embed_images(after) - clip.embed_images(before)) @ wanted).mean())
        remarks.append(f"similarity to the text direction rose by {gain:+.3f} on average")
    if world.identity is not None:
        same = world.identity.embed(after) * world.identity.embed(before)
        remarks.append(f"identity kept: {float(same.sum(1).mean()):.2f} on average (1 is the same person)")
    names = [f"+ {path.stem}" for path in job.edit]
    asked = " ".join([f"{job.target}  ({job.method}, {made.amount})" if job.target else "", *names]).strip()
    rows, captions = [before, after], [", ".join(job.neutral), asked]
    back: list[Edited] = []
    if job.image:
        rows, captions = [_inputs(world), *rows], ["aligned", "inverted", asked]
        whole = [None] * len(after) if job.paste == "whole" else before.split(1)
        back = [Edited(*row) for row in zip(world.inversions, after.split(1), whole, strict=True)]
    return Result(
        rows, captions, remarks=remarks, edit=made.edit, back=back, provenance=world.provenance(**_edit_files(job))
    )


def _told(world: World) -> list[str]:
    """What there is to say about a job's own pictures: how well they came out, what went wrong."""
    if not world.job.image:
        return []
    lines = []
    for outcome in world.outcomes:
        name = outcome.path.name
        if outcome.inversion is None:
            lines.append(f"left out {outcome.error}")
            continue
        advice = outcome.inversion.advice()
        lines += [f"{name}: {outcome.inversion.figures.describe()}", *([f"{name}: {advice}"] if advice else [])]
        lines += [f"{name}: {outcome.remark}"] if outcome.remark else []
    return lines


def _inputs(world: World) -> Tensor:
    """The job's own pictures as they were aligned."""
    import torch

    return torch.cat([inversion.image for inversion in world.inversions])


def _sweep(world: World) -> Result:
    job, made = world.job, make(world)
    edit, own = made.edit, made.edit.strength
    provenance = world.provenance(**_edit_files(job))
    caption = job.target or ", ".join(path.stem for path in job.edit)
    if job.frames:
        return Result(
            [],
            [],
            remarks=[*_told(world), *made.remarks],
            edit=edit,
            provenance=provenance,
            frames=_frames(world, made, caption),
        )
    import torch

    columns = _at_strengths(world, made, [own * factor for factor in job.strengths])
    rows = list(torch.stack(columns, dim=1))
    headings = [f"{own * factor:.2g}" for factor in job.strengths]
    remarks = [*_told(world), *made.remarks, f"strengths are multiples of {own:.3g}"]
    return Result(rows, [], headings, remarks, edit, provenance=provenance)


def _at_strengths(world: World, made: Made, strengths: list[float]) -> list[Tensor]:
    """The job's pictures [N, 3, H, W] at every strength."""
    swept = [part.edit.sweep(part.latents, strengths) for part in made.parts]
    return [world.render(groups) for groups in zip(*swept, strict=True)]


def _frames(world: World, made: Made, caption: str) -> list[Image]:
    """There and back again between the first and the last strength, which is a smooth loop."""
    from stylograph.render import sheet
    from stylograph.types import Step

    job, n = world.job, world.job.frames
    low, high = job.strengths[0], job.strengths[-1]
    amounts = [made.edit.strength * (low + (high - low) * i / max(1, n - 1)) for i in range(n)]
    drawn = []
    for amount in amounts:
        (images,) = _at_strengths(world, made, [amount])
        drawn.append(sheet([images], captions=[f"{caption}  {amount:+.2f}"]))
        if world.on_step:
            world.on_step(Step("drawing frames", len(drawn), n))
    return [*drawn, *drawn[-2:0:-1]]


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
        swept = [edit.sweep(group, strengths) for group in world.groups]
        images = torch.stack([world.render(groups) for groups in zip(*swept, strict=True)], dim=1)
        names = _names(world)
        for name, row in zip(names, images, strict=True):
            rows.append(row)
            own = f"alpha 1 = strength {edit.strength:.2g}" + (f", {name}" if len(names) > 1 else "")
            captions.append(f"beta {edit.provenance['beta']:.2f}: {edit.provenance['channels']} channels; {own}")
    headings = [f"alpha {alpha:g}" for alpha in job.alphas]
    return Result(
        rows,
        captions,
        headings,
        [*_told(world), f"{len(edits)} rows of channels, {len(headings)} strengths"],
        provenance=world.provenance(),
    )


def _names(world: World) -> list[str]:
    """What to call the job's pictures."""
    if world.job.image:
        return [outcome.path.name for outcome in world.outcomes if outcome.inversion is not None]
    return [f"seed {seed}" for seed in world.job.seed]


def _imagine(world: World) -> Result:
    if world.job.image:
        raise ImageError(
            "got pictures to imagine from; expected a sentence alone; use stylograph edit to change pictures"
        )
    made = make(world)
    provenance = world.provenance(**_edit_files(world.job))
    return Result(
        [world.render([part.edited for part in made.parts])],
        [world.job.target],
        [],
        made.remarks,
        made.edit,
        provenance=provenance,
    )


def _adapt(world: World) -> Result:
    child = adapted(world)
    before, after = world.render(world.groups), world.render(world.codes(child))
    told = child.provenance["adaptation"]
    best = told["best"]
    people = f", identity {best['identity']:.2f} of the parent's people" if "identity" in best else ""
    remarks = [
        f"best of {len(told['looks']) - 1} looks: step {best['step']:.0f} ({told['ended']}); gain {best['gain']:.2f} "
        f"(1 is as far as the target), diversity {best['diversity']:.2f} of the parent's{people}"
    ]
    if child.mapper is not None:
        remarks.append(f"samples go through a latent mapper, trained for {child.provenance['mining']['steps']} steps")
    asked = world.job.target or f"{told['target_images']} pictures"
    provenance = world.provenance(child=child.digest)
    return Result([before, after], [world.job.source, asked], [], remarks, generator=child, provenance=provenance)


def _invert(world: World) -> Result:
    told = [f"{n}: {line}" for n, i in zip(_names(world), world.inversions) for line in i.describe().splitlines()]
    told += [f"left out {o.error}" for o in world.outcomes if o.inversion is None]
    verdicts = ", ".join(inversion.figures.verdict for inversion in world.inversions)
    rows, captions = [_inputs(world), world.render(world.groups)], ["aligned", f"inverted: {verdicts}"]
    return Result(rows, captions, remarks=told, provenance=world.provenance())


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
    if job.image:
        columns = [world.render(world.codes(mixture)) for mixture in mixtures]
    else:
        latents = world.generator.sample(
            len(job.seed), seed=job.seed, truncation=job.truncation, label=job.label, mined=False
        )
        columns = [world.render([latents], mixture) for mixture in mixtures]
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
    InvertJob: _invert,
    EditJob: _edit,
    SampleJob: _sample,
}


def _edit_files(job: EditJob) -> dict[str, Any]:
    """Digests of the saved edits a job used."""
    from stylograph.files import file_digest

    return {"edits": [file_digest(path) for path in job.edit]} if job.edit else {}


# -------------------------------------------------------------------- albums


@dataclass(frozen=True)
class Summary:
    """What became of a folder of pictures."""

    done: int
    kept: int
    failed: int
    lines: list[str]
    """What to tell the user."""


def invert_all(job: InvertJob, folder: str | Path, *, on_step: OnStep | None = None) -> Summary:
    """Inverts many pictures into a folder of inversions with a manifest, and goes on where it was interrupted.

    A picture that fails is written down and does not stop the others. Raises `ImageError` if there are no pictures,
    `StylographError` for settings that make no sense.
    """
    from stylograph.photos import Album

    world = World(job, on_step)
    album = Album(Path(folder), world.studio.task)
    pending = album.pending(world.files)
    kept, failed, lines = len(world.files) - len(pending), 0, []
    for outcome in world.studio.invert(pending):
        album.add(outcome)
        if outcome.inversion is None:
            failed += 1
            lines.append(f"left out {outcome.error}")
        else:
            more = f"; {outcome.remark}" if outcome.remark else ""
            lines.append(f"{outcome.path.name}: {outcome.inversion.figures.describe()}{more}")
    done = len(pending) - failed
    lines.append(f"{done} inverted, {kept} were there already, {failed} failed; see {Path(folder) / 'manifest.json'}")
    return Summary(done, kept, failed, lines)


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
    for part in ("models", "edits", "images"):
        if result.provenance.get(part) != told.get(part):
            raise StylographError(
                f"{picture}: got other {part} than it was made with; expected {told.get(part)}, found "
                f"{result.provenance.get(part)}: bring those back, or make a new picture"
            )
    before, now = told.get("versions"), result.provenance["versions"]
    if before != now:
        result.remarks.append(f"note: made with {before}, now {now}: the bytes may differ")
    return result
