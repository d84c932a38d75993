"""Latent mapper (StyleCLIP, section 5.1): small networks that read a latent code and say how to change it.

One network per group of W+ vectors (coarse, medium, fine; or one for all), or one per style vector of StyleSpace.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.nets.modulation import SQRT2
from stylograph.nets.stylegan2 import Dense, normalize_2nd_moment

SPACES = ("w+", "s")
NORMS = ("features", "layers")


@dataclass(frozen=True)
class Group:
    """What one network drives."""

    name: str
    """"coarse", "medium", "fine" or "single"; for a mapper in S the layer's name."""
    start: int
    stop: int
    """W+ vectors, or StyleSpace channels, from `start` up to (not including) `stop`."""


@dataclass(frozen=True)
class MapperConfig:
    """Shape of a latent mapper; raises `ValueError` if it makes no sense."""

    space: str
    """"w+" or "s"."""
    groups: tuple[Group, ...]
    """In order, without overlap. What no group covers stays as it is."""
    length: int
    """W+ vectors, or StyleSpace channels, of the generator."""
    width: int = 0
    """Length of a W+ vector; 0 for a mapper in S, where a group is as wide as its layer."""
    depth: int = 4
    """Fully connected layers of each network."""
    lr_multiplier: float = 0.01
    """Run-time factor of weights and biases."""
    norm: str = "features"
    """How an input is normalised: "features", over the entries of each vector; or "layers", over the vectors of the
    group, entry by entry, which is what the published mappers were trained with."""
    gain: float = 0.1
    """The change is gain·M(code)."""

    def __post_init__(self) -> None:
        edges = [0, *(edge for group in self.groups for edge in (group.start, group.stop)), self.length]
        names = [group.name for group in self.groups]
        if self.space not in SPACES or self.norm not in NORMS:
            raise ValueError(f"a mapper in space {self.space!r} with norm {self.norm!r}")
        if (
            not names
            or len(set(names)) < len(names)
            or any(not name.replace(".", "_").isidentifier() for name in names)
        ):
            raise ValueError(f"a mapper with groups {names}")
        if edges != sorted(edges) or any(group.start == group.stop for group in self.groups):
            raise ValueError(f"groups that overlap or reach outside 0...{self.length}")
        if self.depth < 1 or (self.width < 1) == (self.space == "w+") or (self.space == "s" and self.norm == "layers"):
            raise ValueError(
                f"a mapper in {self.space!r} of width {self.width}, depth {self.depth}, norm {self.norm!r}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MapperConfig:
        """The config of a file's metadata (unknown fields are an error)."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown config fields: {', '.join(sorted(unknown))}")
        groups = tuple(Group(str(g["name"]), int(g["start"]), int(g["stop"])) for g in values["groups"])
        return cls(**{**values, "groups": groups})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}


class GroupMapper(nn.Module):
    """[..., width] -> [..., width]: normalisation, then fully connected layers, each with a leaky ReLU."""

    def __init__(self, width: int, config: MapperConfig) -> None:
        super().__init__()
        self.norm = config.norm
        self.layers = nn.ModuleList(
            Dense(width, width, lr_multiplier=config.lr_multiplier) for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "layers":
            x = normalize_2nd_moment(x.transpose(1, 2)).transpose(1, 2)
        else:
            x = normalize_2nd_moment(x)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * SQRT2
        return x


class LatentMapper(nn.Module):
    """Latent codes -> the change of them; tensors are named `<group>.layers.<i>.weight` and `.bias`."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        for group in config.groups:
            self.add_module(module_name(group), GroupMapper(config.width or group.stop - group.start, config))

    def residual(self, codes: Tensor) -> Tensor:
        """gain·M(codes): W+ codes [N, length, width], or S codes [N, length] -> the same shape, zero outside the groups."""
        parts, end = [], 0
        for group in self.config.groups:
            parts.append(torch.zeros_like(codes[:, end : group.start]))
            module = self.get_submodule(module_name(group))
            parts.append(self.config.gain * module(codes[:, group.start : group.stop]))
            end = group.stop
        parts.append(torch.zeros_like(codes[:, end:]))
        return torch.cat(parts, dim=1)


def module_name(group: Group) -> str:
    """Where a group's network sits: "b8.conv1" becomes "b8_conv1", as module names have no dots."""
    return group.name.replace(".", "_")
