"""Latent-mapper mining (StyleGAN-NADA, section 4.4): lead latents to where an adapted generator shows its new domain.

Across a wide gap some latents of the child still draw the parent's world. A latent mapper, trained on the child,
moves every sampled latent towards the part that does not; it travels in the generator's file.
"""

from __future__ import annotations

from pathlib import Path

from stylograph.edit.base import Mapped
from stylograph.edit.config import MapperTraining
from stylograph.edit.mapper import train_mapper
from stylograph.errors import AdaptError
from stylograph.generator import Generator
from stylograph.nada.config import MINING
from stylograph.nada.target import Target
from stylograph.types import OnStep


def mine(
    generator: Generator,
    target: Target,
    *,
    config: MapperTraining = MINING,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Generator:
    """The generator with a latent mapper that its samples go through from now on (`sample(..., mined=False)` does without).

    path: checkpoint of the mapper's training, see `train_mapper`.
    Raises `AdaptError` for a generator that has a mapper, or settings of another space than W+.
    """
    if generator.mapper is not None:
        raise AdaptError("got a generator that has a latent mapper already; mine the one it was made from")
    check_mining(config)
    rows = target.points if config.clip_loss == "similarity" else target.directions
    edit = train_mapper(generator, target.clip, target.shares @ rows, config=config, path=path, on_step=on_step)
    assert isinstance(edit, Mapped)
    mining = {key: value for key, value in edit.provenance.items() if key != "target"}
    mined = Generator(
        generator.net,
        mapper=edit.net,
        provenance={
            **generator.provenance,
            "mining": mining,
            "ancestors": list(generator.lineage),
        },
        notes=generator.notes,
    )
    return mined.to(dtype=generator.dtype)


def check_mining(config: MapperTraining) -> None:
    """Raises `AdaptError` for settings of a mapper that cannot be mined with."""
    if config.space != "w+":
        raise AdaptError(f"got a mapper in {config.space!r}; mining needs one in 'w+'")
