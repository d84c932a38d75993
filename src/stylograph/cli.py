"""The `stylograph` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json as json_module
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.extras import SubcommandApp

from stylograph import __version__
from stylograph.errors import StylographError, StylographWarning
from stylograph.jobs import AdaptJob, BlendJob, EditJob, GridJob, ImagineJob, PictureJob, SampleJob, SweepJob
from stylograph.pipeline import run
from stylograph.world import World, estimated, mapper_checkpoint

if TYPE_CHECKING:
    from stylograph.pipeline import Result
    from stylograph.types import OnStep, Step
    from stylograph.weights import KnownModel

app = SubcommandApp()
Output = Annotated[Path, arg(aliases=["-o"])]
DEFAULT_FRAMES = 24
GENERATORS = (".safetensors", ".pt")
PREVIEW_ROWS = 8


@app.command
def edit(
    job: Annotated[EditJob, arg(name="")],
    output: Output = Path("edit.png"),
    save_edit: Path | None = None,
) -> None:
    """Edit pictures by one sentence: a strip of originals over edits.

    Example: stylograph edit "a person wearing sunglasses" --seed 1 2 3 4 -o out.png

    Args:
        output: Picture to write (.png, .jpg or .webp).
        save_edit: Also write the edit itself, to use again with --edit (.safetensors).
    """
    _draw(job, output, save_edit)


@app.command
def sweep(job: Annotated[SweepJob, arg(name="")], output: Output = Path("sweep.png")) -> None:
    """Draw one edit at many strengths: a row per picture, or a looping animation.

    Example: stylograph sweep "a person with blue hair" --seed 1 2 3 --strengths 0 1 2 -o blue.gif

    Args:
        output: .png and .jpg hold a strip, .gif and .mp4 an animation, .webp either (--frames).
    """
    if output.suffix.lower() in (".gif", ".mp4") and not job.frames:
        job = replace(job, frames=DEFAULT_FRAMES)
    _draw(job, output)


@app.command
def grid(job: Annotated[GridJob, arg(name="")], output: Output = Path("grid.png")) -> None:
    """Draw a grid of strength (alpha) against channels moved (beta), as in the StyleCLIP paper.

    Args:
        output: Picture to write (.png, .jpg or .webp).
    """
    _draw(job, output)


@app.command
def imagine(
    job: Annotated[ImagineJob, arg(name="")],
    output: Output = Path("imagine.png"),
    save_edit: Path | None = None,
) -> None:
    """Draw a picture from a sentence alone.

    Example: stylograph imagine "a person with green hair" -o green.png

    Args:
        output: Picture to write (.png, .jpg or .webp).
        save_edit: Also write the change from the average picture (.safetensors).
    """
    _draw(job, output, save_edit)


@app.command
def adapt(
    job: Annotated[AdaptJob, arg(name="")],
    output: Output = Path("adapted.safetensors"),
    preview: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Move a generator to another domain, by a sentence or a few pictures (StyleGAN-NADA).

    Example: stylograph adapt "a robot" --source "a person" -o robots.safetensors

    The picture beside the output shows what the child draws while it trains, in the end parent over child. Given the
    same command again, an interrupted training goes on.

    Args:
        output: The generator to write (.safetensors or .pt).
        preview: The picture to write; by default the output's name with .png.
        dry_run: Only say what would be trained, how long it takes and how much memory.
    """
    from stylograph.render import check_output

    check_output(output, GENERATORS)
    picture = check_output(preview or output.with_suffix(".png"))
    _spare(picture, preview is None)
    _announce(job.model, job.offline)
    if dry_run:
        _say(estimated(World(job, None)).describe())
        if job.mine:
            _say(f"mining      adds a latent mapper, at most {job.mapper.steps} steps of {job.mapper.batch} pictures")
        return
    half_done = output.with_suffix(".training.safetensors")
    with _progress() as on_step:
        result = run(job, on_step=_previewing(on_step, picture, job.target), checkpoint=half_done)
    assert result.generator is not None
    _wrote(output, result.generator.save(output))
    _finish(result, picture)
    for file in (half_done, mapper_checkpoint(half_done)):
        file.unlink(missing_ok=True)


@app.command
def blend(job: Annotated[BlendJob, arg(name="")], output: Output = Path("blend.png")) -> None:
    """Mix two generators of one family, or take the layers of some resolutions from the other (layer swapping).

    Example: stylograph blend robots.safetensors -o row.png
    Example: stylograph blend robots.safetensors --amounts 0.5 -o half.safetensors

    Args:
        output: A picture of all the mixtures (.png, .jpg, .webp), or the one mixture itself (.safetensors, .pt).
    """
    from stylograph.render import FORMATS, check_output

    check_output(output, (*FORMATS, *GENERATORS))
    if output.suffix.lower() not in GENERATORS:
        _draw(job, output)
        return
    if len(job.amounts) != 1:
        raise StylographError(f"got {len(job.amounts)} amounts for one generator; expected one, e.g. --amounts 0.5")
    with _progress() as on_step:
        mixture = run(job, on_step=on_step).generator
    assert mixture is not None
    _wrote(output, mixture.save(output))


@app.command
def rerun(picture: Positional[Path], output: Annotated[Path | None, arg(aliases=["-o"])] = None) -> None:
    """Make a picture again from the job it carries, and say whether the result is the same.

    Args:
        picture: A PNG, JPEG, WebP or GIF that stylograph wrote.
        output: Where to write it; by default beside the picture, with "-again" in its name.
    """
    from stylograph.pipeline import rerun as again
    from stylograph.render import ANIMATIONS, FORMATS, check_output

    path = output or picture.with_name(f"{picture.stem}-again{picture.suffix}")
    check_output(path, (*FORMATS, *ANIMATIONS))
    with _progress() as on_step:
        result = again(picture, on_step=on_step)
    _finish(result, path)
    same = path.suffix == picture.suffix and path.read_bytes() == picture.read_bytes()
    _say(f"identical to {picture}" if same else f"not the same bytes as {picture}")


@app.command
def sample(job: Annotated[SampleJob, arg(name="")], output: Output = Path("sample.png")) -> None:
    """Draw pictures from a generator.

    Args:
        output: Picture to write (.png, .jpg or .webp).
    """
    _draw(job, output)


@app.command
def info(file: Positional[Path], json: bool = False) -> None:
    """Say what a checkpoint is: format, architecture, size, digest, provenance. Executes nothing in it.

    Args:
        file: A .pt, .pkl or .safetensors file.
        json: Print JSON.
    """
    from stylograph.weights import describe

    facts = describe(file)
    if json:
        print(json_module.dumps(facts, indent=2, default=str))
        return
    for key, value in facts.items():
        for name, item in value.items() if key == "config" else [(key, value)]:
            if item not in (None, (), [], {}):
                print(f"{name:<18} {item}")


@app.command
def convert(
    source: Positional[str], target: Positional[Path], format: str | None = None, offline: bool = False
) -> None:
    """Convert a checkpoint to .safetensors or to rosinality's .pt.

    Args:
        source: A file, a name from `stylograph models`, a URL or a hub id.
        target: The file to write; its ending says the format.
        format: "safetensors" or "rosinality", to override the ending.
        offline: Never use the network.
    """
    from stylograph.weights import locate, read, write

    with _progress() as on_step:
        path = locate(source, offline=offline, on_step=_bytes(on_step))
    _wrote(target, write(read(path), target, format=format))


@app.command
def models(json: bool = False) -> None:
    """List the checkpoints known by name, with licence and origin.

    Args:
        json: Print JSON.
    """
    from dataclasses import asdict

    from stylograph.weights import REGISTRY

    if json:
        print(json_module.dumps({name: asdict(model) for name, model in REGISTRY.items()}, indent=2, default=str))
        return
    for model in REGISTRY.values():
        print(_about(model) + "\n")


def _draw(job: PictureJob, output: Path, save_edit: Path | None = None) -> None:
    from stylograph.render import ANIMATIONS, FORMATS, check_output

    check_output(output, ANIMATIONS if getattr(job, "frames", 0) else FORMATS)
    if save_edit is not None:
        check_output(save_edit, (".safetensors",))
    _announce(job.model, job.offline)
    with _progress() as on_step:
        result = run(job, on_step=on_step)
    _finish(result, output, save_edit)


def _finish(result: Result, output: Path, save_edit: Path | None = None) -> None:
    result.save(output)
    for remark in result.remarks:
        _say(remark)
    if save_edit is not None and result.edit is not None:
        result.edit.save(save_edit)
        _say(f"wrote the edit to {save_edit}")
    _say(f"wrote {output}")


def _wrote(output: Path, remarks: list[str]) -> None:
    """Says that a generator was written, and what its format could not hold."""
    for remark in remarks:
        _say(f"note: {remark}")
    _say(f"wrote {output}")


def _spare(picture: Path, unasked: bool) -> None:
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


def _previewing(on_step: OnStep | None, picture: Path, target: str) -> OnStep:
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
        told = ", ".join(f"{name} {step.values[name]:.2f}" for name in ("gain", "diversity") if name in step.values)
        captions.append(f"{target or 'pictures'}, step {step.done}: {told}")
        strip = sheet(rows[-PREVIEW_ROWS:], captions=captions[-PREVIEW_ROWS:])
        save_picture(strip, picture, metadata={"preview": target})
        if on_step is None:
            _say(captions[-1])

    return show


def _announce(source: str, offline: bool) -> None:
    """Shows licence and origin of a known checkpoint before anything is downloaded."""
    from stylograph.weights import plan

    model = plan(source)
    if model is not None and not offline and (model.url or model.hub):
        _say(_about(model))


def _about(model: KnownModel) -> str:
    """What a user should know of a known checkpoint before it is downloaded."""
    place = model.url or (f"hub {model.hub}" if model.hub else "shipped with stylograph")
    size = f", {model.size / 1e6:.0f} MB" if model.size else ""
    doubt = {"seen": "address from public documentation, not tried", "recalled": "address from memory, not tried"}
    verified = f" ({doubt[model.verified]})" if model.verified in doubt else ""
    return (
        f"{model.name:<22} {model.summary}, {model.resolution}x{model.resolution}{size}\n"
        f"{'':<22} licence: {model.licence}\n{'':<22} by:      {model.origin}\n{'':<22} from:    {place}{verified}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _progress() -> Iterator[OnStep | None]:
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


def _bytes(on_step: OnStep | None) -> Any:
    if on_step is None:
        return None
    from stylograph.types import Step

    return lambda done, total: on_step(Step("downloading", done, total))


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, StylographWarning):
        _say(f"warning: {message}")


def main(argv: list[str] | None = None) -> None:
    """Entry point: exit code 0, 1 for an error that was explained, 2 for wrong usage, 130 when interrupted."""
    # Large images are large allocations; huge pages spare the kernel most of the work (read by torch at start).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        print(f"stylograph {__version__}")
        return
    warnings.showwarning = _show_warning
    try:
        app.cli(
            prog="stylograph",
            description="Write a sentence, move a StyleGAN.",
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    except StylographError as error:
        _say(f"stylograph: {error}")
        raise SystemExit(1) from None
    except BrokenPipeError:  # `stylograph models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        _say(
            "stylograph: interrupted; the output was not written. Given the same command again, a measurement for a generator, a "
            "mapper's training or an adaptation goes on from its last checkpoint"
        )
        raise SystemExit(130) from None
