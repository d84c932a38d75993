"""What tests of inversion share: a distance that is easy to recompute, an encoder that nearly knows, an inversion."""

import torch

from stylograph.inversion.inversion import Inversion, StageReport
from stylograph.inversion.likeness import Figures
from stylograph.types import Latents


class Pixels:
    """A distance that is easy to recompute."""

    name = "pixels"

    def see(self, images):
        return [images]

    def distance(self, images, seen):
        return (images - seen[0]).abs().mean((1, 2, 3))


class Oracle:
    """An encoder that says the codes it was told, in the order they are asked for."""

    name = "oracle"

    def __init__(self, codes):
        self.codes, self.asked = codes, 0

    def latents(self, images, generator):
        rows = self.codes[self.asked : self.asked + len(images)]
        self.asked += len(images)
        return Latents("w+", rows, generator)


def inversion_of(generator, *, seed=3, closeness=0.8, **more):
    """An inversion as `invert` would make it, of a picture the generator drew."""
    latents = generator.w_plus(generator.sample(1, seed=seed))
    with torch.no_grad():
        image = generator.render(latents)[0].clamp(-1, 1)
    return Inversion(
        codes=latents.tensor,
        generator_digest=generator.digest,
        aligned=((image + 1) * 127.5).round().to(torch.uint8),
        stages=(StageReport("encoder", Figures(0.01, 0.1, closeness, 0.9), 0.5),),
        **more,
    )
