"""Is it the same picture? What inversion makes small, and how its result is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stylograph.edit.base import Recogniser
from stylograph.generator import Generator
from stylograph.images import resize

STRANGERS = 16
"""Random pictures that say what "not alike at all" is."""
COMPARED_UP_TO = 256
"""Side of the pictures a distance is measured on, at most."""
VERDICTS = ((0.85, "very close"), (0.75, "close"), (0.6, "recognisable"), (-1e9, "poor"))
"""Least closeness -> what to call it."""


class Distance(Protocol):
    """A perceptual distance; see `perceptual.Perceptual`."""

    name: str

    def see(self, images: Tensor) -> list[Tensor]: ...

    def distance(self, images: Tensor, seen: list[Tensor]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Original:
    """N pictures to be drawn again, and what the networks see in them."""

    images: Tensor
    """[N, 3, S, S] in [-1, 1], S the resolution that is compared at."""
    seen: list[Tensor]
    person: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice | list[int]) -> Original:
        person = None if self.person is None else self.person[rows]
        return Original(self.images[rows], [part[rows] for part in self.seen], person)


@dataclass(frozen=True)
class Figures:
    """How like its original one picture is."""

    mse: float
    """Mean square error, pixels in [-1, 1]."""
    perceptual: float
    """Distance of what the perceptual networks see; 0 for equal pictures."""
    closeness: float
    """1 - root mean square error / that of the generator's random pictures: 1 the same, 0 a stranger. Of pixels, because
    what the networks see is what inversion makes small, and they are more easily pleased than people."""
    identity: float | None
    """Cosine of the recogniser's vectors, if there is one."""

    @property
    def verdict(self) -> str:
        return next(word for least, word in VERDICTS if self.closeness >= least)

    def describe(self) -> str:
        """One line for people."""
        person = "" if self.identity is None else f", identity {self.identity:.2f}"
        return f"{self.verdict} (closeness {self.closeness:.2f}, mean square error {self.mse:.4f}{person})"


@dataclass(frozen=True, eq=False)
class Strangers:
    """Random pictures of a generator, as far as it takes to compare others with all of them."""

    mean: Tensor
    """[3, R, R]"""
    square: Tensor
    """Mean of all their squared pixels."""

    @classmethod
    @torch.no_grad()
    def of(cls, generator: Generator) -> Strangers:
        """`STRANGERS` pictures at truncation 0.7, drawn one by one."""
        latents = generator.sample(STRANGERS, seed=0, truncation=0.7)
        drawn = (generator.render(latents[i])[0].clamp(-1, 1) for i in range(STRANGERS))
        mean = square = torch.zeros((), device=generator.device)
        for picture in drawn:
            mean, square = mean + picture / STRANGERS, square + picture.square().mean() / STRANGERS
        return cls(mean, square)

    def error(self, images: Tensor) -> Tensor:
        """Mean square error [N] of the strangers, taken for images [N, 3, R, R]."""
        return self.square - 2 * (images * self.mean).mean((1, 2, 3)) + images.square().mean((1, 2, 3))


class Likeness:
    """MSE + λ_P · perceptual distance + λ_ID · (1 - cosine of identity).

    perceptual, identity: the networks; no identity network leaves its term out.
    """

    def __init__(
        self,
        distance: Distance,
        identity: Recogniser | None = None,
        *,
        lambda_perceptual: float = 0.4,
        lambda_identity: float = 0.1,
    ) -> None:
        self.distance, self.identity = distance, identity
        self.lambda_perceptual, self.lambda_identity = lambda_perceptual, lambda_identity

    @torch.no_grad()
    def of(self, images: Tensor, generator: Generator, *, up_to: int | None = None) -> Original:
        """Images [N, 3, H, W] in [-1, 1] as originals to compare a generator's pictures with."""
        size = min(up_to or generator.resolution, generator.resolution)
        images = resize(images.to(generator.device).float(), size)
        person = None if self.identity is None else self.identity.embed(images)
        return Original(images, self.distance.see(_small(images)), person)

    def loss(self, images: Tensor, original: Original) -> Tensor:
        """The loss [N] of images against their originals; differentiable."""
        loss = (images - original.images).square().mean((1, 2, 3))
        loss = loss + self.lambda_perceptual * self.distance.distance(_small(images), original.seen)
        if self.identity is not None and original.person is not None:
            loss = loss + self.lambda_identity * (1 - (self.identity.embed(images) * original.person).sum(1))
        return loss

    @torch.no_grad()
    def figures(self, images: Tensor, original: Original, strangers: Strangers) -> list[Figures]:
        """How like their originals images [N, 3, S, S] are, one by one."""
        images = images.clamp(-1, 1)
        mse = (images - original.images).square().mean((1, 2, 3))
        seen = self.distance.distance(_small(images), original.seen)
        same = None
        if self.identity is not None and original.person is not None:
            same = (self.identity.embed(images) * original.person).sum(1)
        strange = strangers.error(original.images)
        return [
            Figures(
                float(mse[i]),
                float(seen[i]),
                float(1 - (mse[i] / strange[i]).sqrt()),
                None if same is None else float(same[i]),
            )
            for i in range(len(original))
        ]


def _small(images: Tensor) -> Tensor:
    return resize(images, min(COMPARED_UP_TO, images.shape[-1]))
