"""Jobs: what the command line, the web studio and batches ask for, as plain data.

The fields' descriptions are the help texts of the command line; a picture carries its job in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from tyro.conf import Positional

from stylograph.edit.config import DirectionConfig, MapperTraining, OptimizeConfig, StrengthConfig
from stylograph.errors import StylographError, one_of
from stylograph.inversion.config import InvertConfig
from stylograph.nada.config import MINING, AdaptConfig


@dataclass(frozen=True, kw_only=True)
class PictureJob:
    """Which pictures, from which generator, and where to compute."""

    model: str = "avatars"
    """Generator: a name from `stylograph models`, a file, a URL or a hub id."""
    seed: tuple[int, ...] = (1, 2, 3, 4)
    """One picture per seed."""
    image: tuple[Path, ...] = ()
    """Pictures of your own instead of seeds: files, folders, or inversions (`stylograph invert` writes them). They are
    aligned and inverted first."""
    truncation: float = 0.7
    """Truncation psi: 1 is the full variety, smaller is nearer to the average picture."""
    label: int | None = None
    """Class of a conditional generator."""
    invert: InvertConfig = field(default_factory=InvertConfig)
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the generator's activations."""
    offline: bool = False
    """Never use the network."""


@dataclass(frozen=True, kw_only=True)
class InvertJob(PictureJob):
    """Find the codes a generator draws pictures of your own from."""

    image: Positional[tuple[Path, ...]] = field(default=(), kw_only=False)
    """Pictures: files, or folders of them."""
    identity: str | None = None
    """Recogniser for the identity term: "avatars" (the default there), "arcface" or such a file, or "none"."""
    clip: str | None = None
    """CLIP model whose layers tell whether pictures look alike; by default as for edits."""


@dataclass(frozen=True, kw_only=True)
class SampleJob(PictureJob):
    """Draw pictures from a generator."""

    seed: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """One picture per seed."""
    columns: int = 8
    """Pictures per row."""


@dataclass(frozen=True)
class SentenceJob(PictureJob):
    """Pictures, and a sentence about them."""

    target: Positional[str] = ""
    """What the pictures should show, e.g. "a person wearing sunglasses"."""
    neutral: tuple[str, ...] = ("a person",)
    """The same sentence without the change; of several the average is taken."""
    clip: str | None = None
    """CLIP model: a hub id or a folder; by default the avatars' own for avatars, else openai/clip-vit-base-patch32."""
    direction: DirectionConfig = field(default_factory=DirectionConfig)


@dataclass(frozen=True)
class EditJob(SentenceJob):
    """Edit pictures of a generator by one sentence, or by saved edits, or both."""

    method: Literal["direction", "optimize", "mapper"] = "direction"
    """direction: one change for all pictures (seconds). optimize: goes on from there on each picture by itself. mapper:
    trains a network for the sentence, a minute or two, once."""
    edit: tuple[Path, ...] = ()
    """Saved edits to apply as well (--save-edit writes them), or StyleCLIP's published mappers (.pt)."""
    strength: float | Literal["auto"] = "auto"
    """How far to go (alpha); negative does the opposite, 0 nothing. auto looks for it, picture by picture."""
    identity: str | None = None
    """Recogniser that guards the person: "avatars" (the default there), "arcface" or such a file, or "none"."""
    paste: Literal["change", "whole"] = "change"
    """What --pasted puts back into a picture of your own: "change", only what the edit changed, so that everything else
    keeps its detail; "whole", the whole edited square."""
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    mapper: MapperTraining = field(default_factory=MapperTraining)
    auto: StrengthConfig = field(default_factory=StrengthConfig)


@dataclass(frozen=True, kw_only=True)
class SweepJob(EditJob):
    """One edit at many strengths: a row per picture, or an animation (.gif, .webp, .mp4)."""

    strengths: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    """Strengths, as multiples of the one an edit would use."""
    frames: int = 0
    """Draw an animation of so many frames from the first of the strengths to the last, and back; 0 draws a strip."""


@dataclass(frozen=True, kw_only=True)
class GridJob(SentenceJob):
    """A grid of strength (alpha, left to right) against channels moved (beta, top to bottom), as in the paper."""

    seed: tuple[int, ...] = (1,)
    """The picture; of several, one grid each."""
    alphas: tuple[float, ...] = (-0.5, 0.0, 0.25, 0.5, 1.0, 1.5)
    """Strengths, as multiples of each row's own (a shift of eight standard deviations)."""
    counts: tuple[int, ...] = (10, 30, 60, 120, 300)
    """Channels moved; fewer is a higher beta."""


@dataclass(frozen=True, kw_only=True)
class ImagineJob(EditJob):
    """Draw pictures from a sentence alone: its edit, applied near the average picture."""

    truncation: float = 0.3
    """How far from the average picture to start: 0 is the average itself, the same for every seed."""
    identity: str | None = "none"
    """Nobody's identity has to be kept."""


@dataclass(frozen=True, kw_only=True)
class AdaptJob(PictureJob):
    """Move a generator to another domain; the pictures show parent and child."""

    target: Positional[str] = field(default="", kw_only=False)
    """What the child shall draw, e.g. "a robot"."""
    seed: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """One picture per seed."""
    source: str = "a person"
    """What the parent draws."""
    target_images: tuple[Path, ...] = ()
    """Pictures of the target domain, files or folders, instead of the sentence or together with it; one to ten will do."""
    source_images: tuple[Path, ...] = ()
    """Pictures of the source domain; by default the parent's own."""
    clip: tuple[str, ...] = ()
    """CLIP models: hub ids or folders; by default avatars-robust for avatars, else openai/clip-vit-base-patch32 and -patch16."""
    clip_weights: tuple[float, ...] = ()
    """Share of each model; equal by default."""
    identity: str | None = None
    """Recogniser that says how much of the parent's people is left, and guards them if --adapt.lambda-identity says so:
    "avatars" (the default there), "arcface" or such a file, or "none"."""
    mine: bool = False
    """Also train a latent mapper for the child, for gaps that training alone leaves half-way."""
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    mapper: MapperTraining = MINING
    """How that latent mapper is trained."""


@dataclass(frozen=True, kw_only=True)
class BlendJob(PictureJob):
    """Mix two generators of one family."""

    other: Positional[str] = field(default="", kw_only=False)
    """The other generator, e.g. what `stylograph adapt` wrote."""
    seed: tuple[int, ...] = (1, 2, 3, 4)
    """One picture per seed."""
    amounts: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """How much of the other: 0 is the model, 1 the other, beyond goes further. A column each."""
    start: int | None = None
    """Take the other only from this resolution on (layer swapping): coarse shape of the model, texture of the other."""
    stop: int | None = None
    """Take the other only below this resolution: coarse shape of the other, texture of the model."""


JOBS: dict[str, type[PictureJob]] = {
    job.__name__: job for job in (SampleJob, InvertJob, EditJob, SweepJob, GridJob, ImagineJob, AdaptJob, BlendJob)
}

PATHS = ("edit", "image", "target_images", "source_images")
"""Fields that hold paths."""
T = TypeVar("T")


def to_record(value: Any) -> Any:
    """A job as JSON-ready data; settings at their defaults' types, paths as text."""
    if is_dataclass(value):
        return {f.name: to_record(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_record(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def job_from_record(record: Mapping[str, Any]) -> PictureJob:
    """The job that a picture's metadata describe. Raises `StylographError` if they do not describe one."""
    name = str(record.get("kind"))
    if name not in JOBS:
        raise StylographError(one_of(name, JOBS, "job"))
    try:
        return _restore(JOBS[name], {key: value for key, value in record.items() if key != "kind"})
    except (TypeError, KeyError, AttributeError) as error:
        raise StylographError(f"got a job this version cannot read ({error}); it was written by another one") from None


def _restore(cls: type[T], record: Mapping[str, Any]) -> T:
    hints = get_type_hints(cls)
    unknown = sorted(set(record) - set(hints))
    if unknown:
        raise TypeError(f"unknown settings: {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            values[name] = _restore(hints[name], value)
        elif isinstance(value, list):
            values[name] = tuple(Path(v) if name in PATHS else v for v in value)
        else:
            values[name] = value
    return cls(**values)
