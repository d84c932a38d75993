"""From an aligned picture to a code: a look by the encoder, a search from there, and tuning of the generator around it.

Each stage is judged; a picture that is close enough is not worked on any further.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stylograph.edit.base import Recogniser
from stylograph.embed import Clip
from stylograph.encoder import Encoder
from stylograph.errors import ImageError, InvertError, one_of
from stylograph.generator import Generator
from stylograph.images import resize
from stylograph.inversion.config import InvertConfig
from stylograph.inversion.delta import Delta
from stylograph.inversion.inversion import Inversion, StageReport
from stylograph.inversion.likeness import Distance, Likeness, Original, Strangers
from stylograph.inversion.perceptual import Perceptual
from stylograph.inversion.search import search
from stylograph.inversion.tuning import tune
from stylograph.types import Latents, OnStep, Step

BATCH = 16
"""Pictures encoded or drawn at once."""


def invert(
    generator: Generator,
    images: Tensor,
    distance: Distance | Clip,
    *,
    encoder: Encoder | None = None,
    identity: Recogniser | None = None,
    config: InvertConfig | None = None,
    sources: Sequence[Mapping[str, Any]] | None = None,
    on_step: OnStep | None = None,
) -> list[Inversion]:
    """Pictures as codes of a generator, one `Inversion` each.

    images: [N, 3, H, W] in [-1, 1], aligned as the generator's own pictures are.
    distance: what tells whether pictures look alike: a CLIP, by what its layers see, or another distance (`perceptual`).
    encoder: gives the first codes; without one the search begins at random ones.
    identity: recogniser for the identity term and figure.
    sources: what to remember of every picture.
    Raises `InvertError` for settings that make no sense, `ImageError` for tensors that are no pictures.
    """
    settings = config or InvertConfig()
    stages = _stages(settings, encoder)
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ImageError(f"got pictures of shape {list(images.shape)}; expected [N, 3, H, W] in [-1, 1]")
    if sources is not None and len(sources) != len(images):
        raise InvertError(f"got {len(sources)} sources for {len(images)} pictures; expected one each")
    likeness = Likeness(
        Perceptual(distance) if isinstance(distance, Clip) else distance,
        identity,
        lambda_perceptual=settings.lambda_perceptual,
        lambda_identity=settings.lambda_identity,
    )
    task = _Task(generator, likeness, Strangers.of(generator), encoder, settings, on_step)
    aligned = resize(images.float(), generator.resolution).split(1)
    pictures = [_Picture(image, likeness.of(image, generator)) for image in aligned]
    for name in stages:
        left = [p for p in pictures if not p.reports or p.reports[-1].figures.closeness < settings.enough]
        if left:
            WORK[name](task, left)
    return [
        Inversion(
            codes=picture.codes.cpu(),
            generator_digest=generator.digest,
            aligned=((picture.image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu(),
            stages=tuple(picture.reports),
            delta=picture.delta,
            source=dict(sources[i]) if sources else {},
        )
        for i, picture in enumerate(pictures)
    ]


@dataclass
class _Picture:
    """One picture on its way."""

    image: Tensor
    original: Original
    codes: Tensor = field(default_factory=lambda: torch.zeros(0))
    delta: Delta | None = None
    reports: list[StageReport] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    generator: Generator
    likeness: Likeness
    strangers: Strangers
    encoder: Encoder | None
    settings: InvertConfig
    on_step: OnStep | None

    def report(self, name: str, pictures: Sequence[_Picture], seconds: float) -> None:
        """Judges what a stage came to, and remembers it."""
        for picture in pictures:
            drawing = self.generator if picture.delta is None else picture.delta.apply(self.generator)
            with torch.no_grad():
                drawn = drawing.render(Latents("w+", picture.codes, drawing))
            (figures,) = self.likeness.figures(drawn, picture.original, self.strangers)
            picture.reports.append(StageReport(name, figures, seconds / len(pictures)))


def _encode(task: _Task, pictures: list[_Picture]) -> None:
    assert task.encoder is not None
    began = time.monotonic()
    for first in range(0, len(pictures), BATCH):
        here = pictures[first : first + BATCH]
        with torch.no_grad():
            codes = task.encoder.latents(torch.cat([p.image for p in here]), task.generator).tensor
        for picture, code in zip(here, codes.split(1)):
            picture.codes = code
        if task.on_step:
            task.on_step(Step("encoding", first + len(here), len(pictures)))
    task.report("encoder", pictures, time.monotonic() - began)


def _search(task: _Task, pictures: list[_Picture]) -> None:
    began = time.monotonic()
    start = None
    if pictures[0].reports:
        start = Latents("w+", torch.cat([p.codes for p in pictures]), task.generator)
    images = torch.cat([p.image for p in pictures])
    found = search(
        task.generator, images, task.likeness, start=start, config=task.settings.search, on_step=task.on_step
    )
    for picture, code in zip(pictures, found.tensor.split(1)):
        picture.codes = code
    task.report("search", pictures, time.monotonic() - began)


def _tune(task: _Task, pictures: list[_Picture]) -> None:
    for picture in pictures:
        began = time.monotonic()
        picture.delta, _ = tune(
            task.generator,
            picture.image,
            Latents("w+", picture.codes, task.generator),
            task.likeness,
            config=task.settings.tune,
            on_step=task.on_step,
        )
        task.report("tune", [picture], time.monotonic() - began)


WORK: dict[str, Callable[[_Task, list[_Picture]], None]] = {"encoder": _encode, "search": _search, "tune": _tune}


def _stages(config: InvertConfig, encoder: Encoder | None) -> Sequence[str]:
    """The stages to do. Raises `InvertError` for unknown ones, and if none is left that finds a code."""
    for name in config.stages:
        if name not in WORK:
            raise InvertError(one_of(str(name), WORK, "stage"))
    wanted = config.stages or ("search" if encoder is None else "encoder", "tune")
    chosen = [name for name in WORK if name in wanted and (name != "encoder" or encoder is not None)]
    if not chosen or chosen[0] == "tune":
        raise InvertError(
            f"got stages {', '.join(config.stages)}{'' if encoder else ' and no encoder'}; expected one that "
            "finds a code first: search, or encoder with --invert.encoder"
        )
    return chosen
