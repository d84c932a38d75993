"""What the commands say while they work: lines on stderr, progress, and pictures of how far they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylograph.jobs import EditJob, PictureJob
    from stylograph.photos import Edited
    from stylograph.types import OnStep, Step
    from stylograph.weights import KnownModel

PREVIEW_ROWS = 8


def say(text: str) -> None:
    """A line for people; characters that would command a terminal are written out."""
    print("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text), file=sys.stderr)


@contextmanager
def progress() -> Iterator[OnStep | None]:
    """A progress line per stage on a terminal; nothing when the output goes elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def on_step(step: Step) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = progress.add_task(step.stage, total=step.total)
            progress.update(tasks[step.stage], completed=step.done, total=step.total)

        yield on_step


def on_bytes(on_step: OnStep | None) -> Any:
    if on_step is None:
        return None
    from stylograph.types import Step

    return lambda done, total: on_step(Step("downloading", done, total))


def announce(source: str | None, offline: bool, kind: str = "generator") -> None:
    """Shows licence and origin of a known model of this kind before anything is downloaded."""
    from stylograph.weights import plan

    model = None if source is None else plan(source)
    if model is not None and model.kind == kind and not offline and (model.url or model.hub):
        say(about(model))


def about(model: KnownModel) -> str:
    """What a user should know of a known model before it is downloaded."""
    place = model.url or (f"hub {model.hub}" if model.hub else "shipped with stylograph")
    size = f", {model.size / 1e6:.0f} MB" if model.size else ""
    side = f"{model.resolution}x{model.resolution}"
    what = side if model.kind == "generator" else f"{model.kind}, works on {side}"
    doubt = {"seen": "address from public documentation, not tried", "recalled": "address from memory, not tried"}
    verified = f" ({doubt[model.verified]})" if model.verified in doubt else ""
    return (
        f"{model.name:<22} {model.summary}, {what}{size}\n"
        f"{'':<22} licence: {model.licence}\n{'':<22} by:      {model.origin}\n{'':<22} from:    {place}{verified}"
    )


def guard(job: PictureJob, *outputs: Path | None) -> None:
    """Complains if a file to write is one that is read, or two of them are one."""
    from stylograph.errors import OutputError
    from stylograph.jobs import PATHS

    read = {os.path.realpath(path) for name in PATHS for path in getattr(job, name, ())} | {os.path.realpath(job.model)}
    written = [path for path in outputs if path is not None]
    for path in written:
        if os.path.realpath(path) in read:
            raise OutputError(f"{path}: got a file that is read as the one to write; expected another name")
        if sum(os.path.realpath(path) == os.path.realpath(other) for other in written) > 1:
            raise OutputError(f"{path}: got the same file for two outputs; expected another name for one of them")


def spare(picture: Path, unasked: bool) -> None:
    """Complains if a picture nobody named would take the place of one that stylograph did not write."""
    from stylograph.errors import ImageError, OutputError
    from stylograph.render import read_metadata

    if unasked and picture.exists():
        try:
            read_metadata(picture)
        except ImageError:
            raise OutputError(
                f"{picture}: got a picture there that stylograph did not write; the preview would replace it: name "
                "another output, or the preview itself with --preview"
            ) from None


def previewing(on_step: OnStep | None, picture: Path, target: str) -> OnStep:
    """Passes steps on, and draws what they show: a row per look, the newest ones."""
    rows: list[Any] = []
    captions: list[str] = []

    def show(step: Step) -> None:
        from stylograph.render import save_picture, sheet

        if on_step:
            on_step(step)
        if step.images is None:
            return
        rows.append(step.images)
        told = ", ".join(
            f"{name} {step.values[name]:.2f}" for name in ("gain", "diversity", "identity") if name in step.values
        )
        captions.append(f"{target or 'pictures'}, step {step.done}: {told}")
        strip = sheet(rows[-PREVIEW_ROWS:], captions=captions[-PREVIEW_ROWS:])
        save_picture(strip, picture, metadata={"preview": target})
        if on_step is None:
            say(captions[-1])

    return show


def check_pasted(job: EditJob, place: Path) -> None:
    """Complains before the work starts: there has to be a picture to paste into, and not the one that is read."""
    from stylograph.errors import StylographError
    from stylograph.render import check_output
    from stylograph.world import pictures_of

    if not job.image:
        raise StylographError(
            "got --pasted without pictures of your own; expected --image: seeds have no picture around"
        )
    if place.is_dir():
        if os.path.realpath(place) in (os.path.realpath(path.parent) for path in pictures_of(job)):
            raise StylographError(f"{place}: got the folder the pictures come from; expected another one")
        return
    check_output(place)
    if len(pictures_of(job)) > 1:
        raise StylographError(
            f"{place}: got one file for {len(pictures_of(job))} pictures; expected a folder: make it, and give the command "
            "again"
        )


def paste(back: Sequence[Edited], place: Path) -> int:
    """Writes the whole pictures, those that can be; how many cannot."""
    from stylograph.errors import ImageError, OutputError
    from stylograph.render import FORMATS, save_photo

    failed, taken = 0, set()
    for edited in back:
        name = place
        if place.is_dir():
            ending = edited.path.suffix if edited.path.suffix.lower() in FORMATS else ".png"
            numbers = (f"-{n}" if n else "" for n in count())
            name = next(p for n in numbers if (p := place / f"{edited.path.stem}{n}{ending}") not in taken)
            taken.add(name)
        try:
            if os.path.realpath(name) == os.path.realpath(edited.path):
                raise OutputError(f"{name}: got the picture itself as the file to write; expected another name")
            save_photo(edited.pasted(), name)
            say(f"wrote {name}")
        except (ImageError, OutputError) as error:
            failed += 1
            say(f"not pasted: {error}")
    return failed
