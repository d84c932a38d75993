"""The `stylograph` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json as json_module
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.extras import SubcommandApp

from stylograph import __version__
from stylograph.benchmark.config import BenchJob
from stylograph.console import (
    about,
    announce,
    check_pasted,
    guard,
    on_bytes,
    paste,
    previewing,
    progress,
    say,
    spare,
)
from stylograph.errors import OutputError, StylographError, StylographWarning
from stylograph.jobs import AdaptJob, BlendJob, EditJob, GridJob, ImagineJob, InvertJob, PictureJob, SampleJob, SweepJob
from stylograph.making import estimated, mapper_checkpoint
from stylograph.pipeline import run
from stylograph.world import World

if TYPE_CHECKING:
    from stylograph.pipeline import Result

app = SubcommandApp()
Output = Annotated[Path, arg(aliases=["-o"])]
DEFAULT_FRAMES = 24
GENERATORS = (".safetensors", ".pt")


@app.command
def edit(
    job: Annotated[EditJob, arg(name="")],
    output: Output = Path("edit.png"),
    save_edit: Path | None = None,
    pasted: Path | None = None,
) -> None:
    """Edit pictures by one sentence: a strip of originals over edits.

    Example: stylograph edit "a person wearing sunglasses" --seed 1 2 3 4 -o out.png
    Example: stylograph edit "a person wearing sunglasses" --image me.png -o out.png --pasted me-with-sunglasses.png

    Args:
        output: Picture to write (.png, .jpg or .webp).
        save_edit: Also write the edit itself, to use again with --edit (.safetensors).
        pasted: With --image: also write the whole picture with the edit in its place; for several pictures a folder.
    """
    if pasted is not None:
        check_pasted(job, pasted)
    result = _draw(job, output, save_edit, pasted)
    failed = result.failed + (paste(result.back, pasted) if pasted is not None else 0)
    if failed:
        raise SystemExit(1)


@app.command
def invert(job: Annotated[InvertJob, arg(name="")], output: Output = Path("inverted")) -> None:
    """Find the codes a generator draws your own pictures from: aligned, inverted, the generator tuned to each.

    Example: stylograph invert me.png -o me.safetensors
    Example: stylograph invert photos/ -o inverted/

    One picture becomes a file, which --image takes in place of the picture, and a picture beside it (me-inverted.png) that
    shows how good it is. Several become a folder of such files with a manifest; given the same command again, what is done is not done
    again, and a picture that fails does not stop the others.

    Args:
        output: The inversion to write (.safetensors), or a folder.
    """
    from stylograph.pipeline import invert_all
    from stylograph.render import ANIMATIONS, FORMATS, check_output

    _announce(job)
    if output.suffix.lower() in (*FORMATS, *ANIMATIONS, ".pt"):
        raise OutputError(
            f"{output}: got ending {output.suffix!r}; expected .safetensors, or a folder for several pictures"
        )
    if output.suffix.lower() != ".safetensors":
        with progress() as on_step:
            summary = invert_all(job, output, on_step=on_step)
        for line in summary.lines:
            say(line)
        if summary.failed:
            raise SystemExit(1)
        return
    check_output(output, (".safetensors",))
    picture = check_output(output.with_name(f"{output.stem}-inverted.png"))
    guard(job, output, picture)
    spare(picture, True)
    with progress() as on_step:
        result = run(job, on_step=on_step)
    made = [outcome.inversion for outcome in result.outcomes if outcome.inversion is not None]
    if len(made) != 1:
        raise StylographError(f"{output}: got one file for {len(made)} pictures; expected a folder, e.g. -o inverted/")
    made[0].save(output)
    say(f"wrote {output}")
    _finish(result, picture)


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
    guard(job, output, picture)
    spare(picture, preview is None)
    _announce(job)
    if dry_run:
        say(estimated(World(job, None)).describe())
        if job.mine:
            say(f"mining      adds a latent mapper, at most {job.mapper.steps} steps of {job.mapper.batch} pictures")
        return
    half_done = output.with_suffix(".training.safetensors")
    with progress() as on_step:
        result = run(job, on_step=previewing(on_step, picture, job.target), checkpoint=half_done)
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
    with progress() as on_step:
        mixture = run(job, on_step=on_step).generator
    assert mixture is not None
    _wrote(output, mixture.save(output))


@app.command
def bench(job: Annotated[BenchJob, arg(name="")], out: Annotated[Path, arg(aliases=["-o"])] = Path("bench")) -> None:
    """Say how often a sentence does what it says and nothing else: every method, many sentences, many pictures.

    Example: stylograph bench --quick
    Example: stylograph bench --methods direction my_module:my_function

    Writes bench.json, report.md and report.html. Given the same command again, an interrupted benchmark goes on.

    Args:
        out: Folder for rows and reports; what is finished there is not done again.
    """
    from stylograph.benchmark.run import bench as run_bench

    announce(job.generator, job.offline)
    with progress() as on_step:
        found = run_bench(out, **vars(job), on_step=on_step, on_row=lambda _, line: say(line))
    for line in found.lines():
        say(line)
    if found.failed:
        raise SystemExit(1)


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
    with progress() as on_step:
        result = again(picture, on_step=on_step)
    _finish(result, path)
    same = path.suffix == picture.suffix and path.read_bytes() == picture.read_bytes()
    say(f"identical to {picture}" if same else f"not the same bytes as {picture}")


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

    with progress() as on_step:
        path = locate(source, offline=offline, on_step=on_bytes(on_step))
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
        print(about(model) + "\n")


def _draw(job: PictureJob, output: Path, save_edit: Path | None = None, pasted: Path | None = None) -> Result:
    from stylograph.render import ANIMATIONS, FORMATS, check_output

    check_output(output, ANIMATIONS if getattr(job, "frames", 0) else FORMATS)
    if save_edit is not None:
        check_output(save_edit, (".safetensors",))
    guard(job, output, save_edit, pasted)
    _announce(job)
    with progress() as on_step:
        result = run(job, on_step=on_step)
    _finish(result, output, save_edit)
    return result


def _announce(job: PictureJob) -> None:
    """Shows licence and origin of every known model a job names, before anything is downloaded."""
    announce(job.model, job.offline)
    announce(getattr(job, "identity", None), job.offline, "recogniser")
    if job.image:
        announce(job.invert.encoder, job.offline, "encoder")
        announce("yunet" if job.invert.align == "faces" else None, job.offline, "detector")


def _finish(result: Result, output: Path, save_edit: Path | None = None) -> None:
    result.save(output)
    for remark in result.remarks:
        say(remark)
    if save_edit is not None and result.edit is not None:
        result.edit.save(save_edit)
        say(f"wrote the edit to {save_edit}")
    say(f"wrote {output}")


def _wrote(output: Path, remarks: list[str]) -> None:
    """Says that a generator was written, and what its format could not hold."""
    for remark in remarks:
        say(f"note: {remark}")
    say(f"wrote {output}")


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, StylographWarning):
        say(f"warning: {message}")


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
        say(f"stylograph: {error}")
        raise SystemExit(1) from None
    except BrokenPipeError:  # `stylograph models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        say(
            "stylograph: interrupted; the output was not written. Given the same command again, a measurement for a generator, a "
            "mapper's training, an adaptation, a benchmark or a folder of inversions goes on from its last checkpoint"
        )
        raise SystemExit(130) from None
