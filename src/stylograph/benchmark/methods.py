"""Ways to edit under test: those of stylograph, two controls, and anybody's function."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stylograph import __version__
from stylograph.benchmark.plugs import PLUG, digest_of, load_plug, source_of
from stylograph.edit.config import DirectionConfig, OptimizeConfig
from stylograph.errors import StylographError, one_of
from stylograph.jobs import EditJob, to_record
from stylograph.making import METHODS as PIPELINE
from stylograph.making import make
from stylograph.types import Latents, OnStep
from stylograph.world import World

if TYPE_CHECKING:
    from stylograph.edit.base import Edit, Recogniser
    from stylograph.embed import Clip
    from stylograph.generator import Generator

OWN = "own"
"""Strength of a method that has no other."""
BATCH = 8


@dataclass(frozen=True, eq=False)
class Case:
    """What a method is given: one sentence and the pictures to edit by it."""

    sentence: str
    """What the pictures shall show, e.g. "a person wearing sunglasses"."""
    neutral: str
    """The same sentence without the change."""
    images: Tensor = field(repr=False)
    """The pictures, [N, 3, H, W] in [-1, 1]."""
    latents: Latents
    """Their codes in W (in W+ for a generator with a latent mapper)."""
    generator: Generator
    clip: Clip
    seeds: tuple[int, ...]
    """Seed of every picture."""
    identity: Recogniser | None = None
    """A recogniser that may guard the person. *Identity* is measured with the same one: say so if a method uses it."""


Function = Callable[[Case], "Tensor | Latents"]
"""A method: edited pictures [N, 3, H, W] in [-1, 1], or codes, which the case's generator renders."""


@dataclass(eq=False)
class Tools:
    """What the methods of the package may use besides."""

    folder: Path
    """For what is made once."""
    on_step: OnStep | None = None
    earlier: float = 0.0
    """Seconds spent before on what this row uses; they count."""

    @contextmanager
    def spending(self, path: Path) -> Iterator[None]:
        """The time within belongs to the file `path`: whoever uses it later bears it, too."""
        note = path.with_suffix(".seconds")
        before = float(note.read_text()) if note.exists() else 0.0
        self.earlier += before
        start = time.perf_counter()
        try:
            yield
        finally:
            if path.exists():
                note.write_text(f"{before + time.perf_counter() - start:.3f}")


@dataclass(frozen=True, eq=False)
class Method:
    """A way to edit, as the benchmark sees it."""

    name: str
    strengths: tuple[str, ...]
    """"fixed": the same for all pictures; "auto": looked for, picture by picture; or `OWN`."""
    settings: Any = field(repr=False)
    """All that determines what it does, JSON-ready."""
    run: Callable[[Case, str, Tools], Any] = field(repr=False)
    says: str = ""
    """What it is, in a line."""
    control: bool = False
    """No edit at all, but a measure for the numbers of the others."""


# -------------------------------------------------------------------- the package's own


def _pipeline(name: str, strengths: tuple[str, ...], **settings: Any) -> Method:
    """What the command line does with these settings of `EditJob`."""

    def run(case: Case, strength: str, tools: Tools) -> Latents:
        world = _world(case, tools, strength="auto" if strength == "auto" else 1.0, **settings)
        if strength == "auto":
            return make(world).parts[0].edited
        return PIPELINE[world.job.method](world)(case.latents)[0](case.latents)

    job = to_record(EditJob("", **settings))
    return Method(name, strengths, {key: job[key] for key in ("direction", "auto")}, run)


def _world(case: Case, tools: Tools, **settings: Any) -> World:
    """The pipeline's world with the case's models and pictures in it."""
    direction = settings.get("direction", DirectionConfig())
    settings["direction"] = replace(direction, table=map_path(case.generator, case.clip, tools.folder))
    world = World(EditJob(case.sentence, neutral=(case.neutral,), seed=case.seeds, **settings), tools.on_step)
    world.generator, world.clip, world.identity = case.generator, case.clip, case.identity
    world.groups = [case.latents]
    return world


def map_path(generator: Generator, clip: Clip, folder: Path) -> Path:
    """Where the universal map of a generator and a CLIP is kept, if it is not the shipped one."""
    return folder / f"universal-{generator.digest[:12]}-{digest_of(clip)[:12]}.safetensors"


def _learnt(kind: str, case: Case, strength: str, tools: Tools, make_it: Callable[[Path], Edit]) -> Latents:
    """An edit that is costly to make: both strengths are of the same one, and each bears its making."""
    from stylograph.edit.strength import find_strength

    models = [digest_of(m) for m in (case.generator, case.clip, case.identity) if m is not None]
    task = [__version__, case.sentence, case.neutral, models, case.seeds if kind == "optimize" else None, _RECORD]
    path = tools.folder / f"{kind}-{hashlib.sha256(json.dumps(task).encode()).hexdigest()[:24]}.safetensors"
    with tools.spending(path):
        edit = make_it(path)
    if strength == "fixed":
        return edit(case.latents)
    found = find_strength(
        edit,
        case.generator,
        case.clip,
        case.latents,
        case.sentence,
        neutral=case.neutral,
        identity=case.identity,
        on_step=tools.on_step,
    )
    return found.apply([edit], case.latents)


def _mapper(case: Case, strength: str, tools: Tools) -> Latents:
    from stylograph.edit.mapper import train_mapper

    def make_it(path: Path) -> Edit:
        return train_mapper(
            case.generator,
            case.clip,
            case.sentence,
            neutral=case.neutral,
            identity=case.identity,
            path=path,
            on_step=tools.on_step,
        )

    return _learnt("mapper", case, strength, tools, make_it)


def _optimize(case: Case, strength: str, tools: Tools) -> Latents:
    from stylograph.edit.base import load_edit

    def make_it(path: Path) -> Edit:
        if path.exists():
            return load_edit(path, case.generator)
        world = _world(case, tools, method="optimize")
        (edit,) = PIPELINE["optimize"](world)(case.latents)
        edit.save(path)
        return edit

    return _learnt("optimize", case, strength, tools, make_it)


PAPER = OptimizeConfig(space="w+", steps=300, lr=0.1, l2=0.008, identity=0.005, patience=0)
"""Section 4 of StyleCLIP with the defaults of its reference code's command line."""


def _paper(case: Case, strength: str, tools: Tools) -> Latents:
    """W+ from the picture itself, the plain distance to the sentence, one λ for all sentences and pictures."""
    from stylograph.edit.optimize import optimize

    edit = optimize(
        case.generator,
        case.clip,
        case.latents,
        case.sentence,
        identity=case.identity,
        config=PAPER,
        on_step=tools.on_step,
    )
    return edit(case.latents)


def _shift(case: Case, strength: str, tools: Tools) -> Tensor:
    """Every picture moved by one pixel to the right: nobody would call that an edit."""
    return torch.cat([case.images[..., :1], case.images[..., :-1]], dim=-1)


def _stranger(case: Case, strength: str, tools: Tools) -> Tensor:
    """Every picture replaced by the next one's: another person, whatever was asked for."""
    return case.images.roll(1, dims=0)


_RECORD = to_record(EditJob(""))
BUILT_IN: dict[str, Method] = {
    method.name: method
    for method in (
        _pipeline("universal", ("fixed", "auto"), direction=DirectionConfig(method="universal")),
        _pipeline("gradient", ("fixed", "auto"), direction=DirectionConfig(method="gradient")),
        _pipeline("direction", ("auto",)),
        Method("optimize", ("fixed", "auto"), {k: _RECORD[k] for k in ("direction", "optimize", "auto")}, _optimize),
        Method("mapper", ("fixed", "auto"), {key: _RECORD[key] for key in ("mapper", "auto")}, _mapper),
        Method("paper", ("fixed",), to_record(PAPER), _paper),
        Method("shift", (OWN,), "by one pixel", _shift, control=True),
        Method("stranger", (OWN,), "the next picture", _stranger, control=True),
    )
}
"""direction is what stylograph edit does by default; at a fixed strength it is universal. paper is slow: 300 steps."""
CONTROLS = tuple(name for name, method in BUILT_IN.items() if method.control)
EXPLAINED = {
    "universal": "global direction from a regression over random pictures, nothing computed per sentence",
    "gradient": "global direction by back-propagation, for every sentence anew",
    "direction": "what stylograph edit does by default: of several global directions the best for each picture",
    "optimize": "latent optimization in StyleSpace, started from the global direction",
    "mapper": "a network trained for the sentence",
    "paper": "latent optimization in W+ as in the paper: plain distance, 300 steps, one λ for everything",
    "shift": "control: the whole picture moved by one pixel. What it leaks is the judge's noise",
    "stranger": "control: the picture of somebody else. What it scores is luck, what it leaks is everything",
}


# -------------------------------------------------------------------- anybody's


def as_method(given: str | Function) -> Method:
    """A name from `BUILT_IN`, "module:function", or a function itself. Raises `StylographError`."""
    if isinstance(given, str):
        if given in BUILT_IN:
            return BUILT_IN[given]
        if PLUG.fullmatch(given) is None:
            raise StylographError(f"{one_of(given, BUILT_IN, 'method')}, or module:function")
        function, settings = load_plug(given)
        name = given.rsplit("/", 1)[-1]
    else:
        function, settings = given, source_of(given)
        name = getattr(given, "__name__", type(given).__name__)
    if not callable(function):
        raise StylographError(f"got {given!r}, a {type(function).__name__}; expected a function of one Case")
    says = (inspect.getdoc(function) or "").split("\n")[0] if inspect.isroutine(function) else ""
    return Method(name, (OWN,), settings, lambda case, strength, tools: function(case), says)


def drawn(result: Any, case: Case) -> Tensor:
    """What a method returned as pictures, float32 in [-1, 1] on the CPU, checked. Raises `StylographError`."""
    if isinstance(result, Latents):
        if len(result) != len(case.images):
            raise StylographError(f"got {len(result)} codes for {len(case.images)} pictures; expected one each")
        return render(case.generator, result)
    if not isinstance(result, Tensor):
        raise StylographError(
            f"got a {type(result).__name__}; expected edited pictures {list(case.images.shape)} in [-1, 1], or Latents"
        )
    if result.shape != case.images.shape:
        raise StylographError(
            f"got pictures of shape {list(result.shape)}; expected {list(case.images.shape)}, one for each of case.images"
        )
    if not result.is_floating_point():
        raise StylographError(f"got pictures of type {result.dtype}; expected floating point numbers in [-1, 1]")
    images = result.detach().cpu().float()
    if not bool(images.isfinite().all()):
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise StylographError(f"got NaN or infinite values in {bad} of {len(images)} pictures; expected finite numbers")
    if float(images.abs().max()) > 16:
        raise StylographError(f"got values up to {float(images.abs().max()):.0f}; expected pictures in [-1, 1]")
    return images.clamp(-1, 1)


@torch.no_grad()
def render(generator: Generator, latents: Latents) -> Tensor:
    """Pictures as a file would hold them, [N, 3, H, W] in [-1, 1] on the CPU."""
    parts = [generator.render(latents[i : i + BATCH]).cpu() for i in range(0, len(latents), BATCH)]
    images = torch.cat(parts).float()
    if not bool(images.isfinite().all()):
        raise StylographError("got codes that the generator draws NaN from; expected finite pictures")
    return images.clamp(-1, 1)


def needs_map(methods: Sequence[Method]) -> bool:
    """Whether any of them uses the universal map of the generator."""
    return any(method.name in ("universal", "direction", "optimize") for method in methods if method.name in BUILT_IN)
