"""Mapper checkpoints as StyleCLIP publishes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stylograph.errors import WeightsError
from stylograph.weights.tensors import read_state_dict

if TYPE_CHECKING:
    from torch import Tensor

EXPECTED = "a StyleCLIP mapper (.pt)"
DEFAULT_SIZE = 1024
_LEVELS = {"course_mapping": "coarse", "medium_mapping": "medium", "fine_mapping": "fine"}  # (their spelling)
_NAME = re.compile(
    r"(?:(course_mapping|medium_mapping|fine_mapping|mapper_\d+)\.|mapping\.(?=mapping))?mapping\.(\d+)\.(weight|bias)"
)


@dataclass(frozen=True)
class PublishedMapper:
    """The networks of a file, under the names of `nets.mapper`."""

    kind: str
    """"levels", "single" or "s"."""
    networks: dict[str, dict[str, Tensor]]
    """"coarse", "medium", "fine"; or "single"; or the number of each layer in StyleSpace order -> tensors."""
    resolution: int
    """Side of the images of the generator it was trained on."""
    description: str
    """What it was trained for, if the file says so."""

    @property
    def depth(self) -> int:
        return len(next(iter(self.networks.values()))) // 2


def read_mapper(path: str | Path) -> PublishedMapper:
    """Reads a mapper of StyleCLIP (all three kinds); its copy of the generator is not read.

    Raises `WeightsError` for any other file.
    """
    tensors, opts = read_state_dict(path, prefix="mapper.", expected=EXPECTED)
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise WeightsError(f"{path}: got a tensor named mapper.{_shown(name)}; expected {EXPECTED}")
        owner, place, kind = match.groups()
        owner = _LEVELS.get(owner, owner.removeprefix("mapper_")) if owner else "single"
        # Their first entry, number 0, is the normalisation, which has no tensors.
        networks.setdefault(owner, {})[f"layers.{int(place) - 1}.{kind}"] = tensor
    names = set(networks)
    kind = "single" if names == {"single"} else "levels" if names <= set(_LEVELS.values()) else "s"
    layers = [set(network) for network in networks.values()]
    whole = {f"layers.{i}.{part}" for i in range(len(layers[0]) // 2) for part in ("weight", "bias")}
    if any(found != whole for found in layers) or (kind == "s" and not all(name.isdecimal() for name in names)):
        raise WeightsError(f"{path}: got a mapper with tensors missing or of several kinds; expected {EXPECTED}")
    size = opts.get("stylegan_size", DEFAULT_SIZE)
    return PublishedMapper(
        kind, networks, size if type(size) is int else DEFAULT_SIZE, _shown(str(opts.get("description", "")))
    )


def _shown(text: str) -> str:
    """Text out of a foreign file, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:100])
