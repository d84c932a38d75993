"""What the tests of domain adaptation share: sentences, quick settings, pictures, twins."""

from dataclasses import replace

import torch

from stylograph import Generator
from stylograph.nada.config import AdaptConfig
from stylograph.nada.twins import Twins

SOURCE, WANTED = "a person", "a robot"
QUICK = AdaptConfig(
    crops=0.0,
    steps=6,
    lr=0.01,
    batch=2,
    pool=8,
    held_out=4,
    check_every=2,
    select_every=3,
    select_batch=2,
    patience=9,
    thrift=0.0,
)
CONVOLUTIONS = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1", "b32.conv0", "b32.conv1"]


def draw(net, ws):
    """Pictures of W+ codes as a file would hold them, by the plain network."""
    return net(ws, noise="const").clamp(-1, 1)


def twins_of(generator, target, **settings):
    """Twins whose child has already left the parent, so that no gradient is special."""
    config = replace(QUICK, **{"pool": 6, "held_out": 2, **settings}).filled(len(CONVOLUTIONS))
    made = Twins(generator, target, config)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng)
    return made


def pictures(count, seed=0, size=32):
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def grown(parent, seed, *, affine=True):
    """What an adaptation would leave: another generator of the family, without the training."""
    child = Generator.from_checkpoint(parent.checkpoint())
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in child.net.named_parameters():
        if ".conv" in name and (affine or ".affine." not in name):
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng)
    provenance = {"ancestors": [parent.digest, *parent.ancestors], "method": "StyleGAN-NADA"}
    return Generator(child.net, provenance=provenance)
