"""What the commands say while they work: lines on stderr, progress, and pictures of how far they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylograph.jobs import PictureJob
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
