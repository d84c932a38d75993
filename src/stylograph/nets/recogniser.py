"""A small residual network that looks at aligned heads: attribute judge, identity net and domain judge are three sets of
outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.errors import StylographError, WeightsError
from stylograph.files import load_tensors
from stylograph.images import resize

T = TypeVar("T")


@dataclass(frozen=True)
class RecogniserConfig:
    """Shape of a recogniser; stored beside its weights."""

    outputs: Mapping[str, int]
    """Name -> width of every output vector."""
    size: int = 64
    """Side of the picture it works on; others are resampled by exact area averages."""
    widths: tuple[int, ...] = (48, 96, 144)
    """Channels at size/2, size/4, ... pixels."""
    depth: int = 2
    """Residual blocks per resolution, counting the one that halves it."""
    squeeze: int = 16
    """Channels of the last map, which is flattened and not averaged: heads are aligned, so place has a meaning."""
    hidden: int = 256
    """Width of the layer all outputs share."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RecogniserConfig:
        """The config of a file's record. Raises `ValueError` for fields or values it cannot have."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown or "outputs" not in values:
            raise ValueError(f"got config fields {sorted(values)}; expected {[f.name for f in fields(cls)]}")
        sizes = [v for k, v in values.items() if k not in ("outputs", "widths")]
        sizes += [*values["outputs"].values(), *values.get("widths", ())]
        if any(type(v) is not int or not 0 < v <= 4096 for v in sizes):
            raise ValueError("its sizes are not small positive whole numbers")
        known: dict[str, Any] = {k: tuple(v) if k == "widths" else v for k, v in values.items()}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return asdict(self) | {"outputs": dict(self.outputs), "widths": list(self.widths)}


class Block(nn.Module):
    """Two 3x3 convolutions beside a skip: [N, C, H, W] -> [N, C', H/stride, W/stride]."""

    def __init__(self, width: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.norm0 = nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.stride = stride
        self.skip = nn.Conv2d(width, out, 1, bias=False) if stride > 1 or width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(F.silu(self.norm0(self.conv0(x)))))
        short = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return F.silu(self.skip(short) + y)


class Recogniser(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] -> vectors [N, width] by name (logits or embeddings), differentiable."""

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        self.config = config
        # Four neighbouring pixels become channels: a quarter of the cost of a convolution at full size.
        self.stem = nn.Conv2d(12, config.widths[0], 3, padding=1)
        blocks: list[Block] = [Block(config.widths[0], config.widths[0]) for _ in range(config.depth)]
        for width, out in pairwise(config.widths):
            blocks.append(Block(width, out, stride=2))
            blocks += [Block(out, out) for _ in range(config.depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.squeeze = nn.Conv2d(config.widths[-1], config.squeeze, 1)
        side = config.size >> len(config.widths)
        self.shared = nn.Linear(config.squeeze * side * side, config.hidden)
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden, width) for name, width in config.outputs.items()})

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads float16 or float32 tensors strictly. Raises `RuntimeError` for missing, unknown or misshapen ones."""
        counters = {k: v for k, v in self.state_dict().items() if k.endswith("num_batches_tracked")}
        self.load_state_dict({**counters, **{k: v.float() for k, v in tensors.items()}})

    def features(self, images: Tensor) -> Tensor:
        """The layer all outputs share, [N, hidden], of images [N, 3, H, W] in [-1, 1]; differentiable."""
        x = resize(images, self.config.size).contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.silu(self.stem(F.pixel_unshuffle(x, 2))))
        return F.silu(self.shared(F.silu(self.squeeze(x)).flatten(1)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        shared = self.features(images)
        return {name: head(shared) for name, head in self.heads.items()}


def load_recogniser(
    path: Path, kind: str, *, recipe: str, read: Callable[[RecogniserConfig, dict[str, Any]], T]
) -> tuple[Recogniser, T]:
    """The network of a file and what `read` makes of its config and record.

    kind: as in `load_tensors`. recipe: module that writes such files, for the message.
    read: may raise `KeyError`, `TypeError`, `ValueError` or `AttributeError` for a record that makes no sense.
    Raises `WeightsError` for another file, and one whose record and tensors do not fit.
    """
    tensors, record = load_tensors(path, kind)
    try:
        config = RecogniserConfig.from_dict(record["config"])
        found = read(config, record)
        network = Recogniser(config)
        network.load_weights(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: got a {kind} file that contradicts itself ({' '.join(str(error).split())[:200]}); expected one "
            f"written by {recipe}; write it again"
        ) from error
    return network, found


@torch.no_grad()
def look_at(network: Recogniser, images: Tensor, look: Callable[[Tensor], T]) -> list[T]:
    """What `look` says about images [N, 3, H, W] in [-1, 1] of any size, in batches on the network's device."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise StylographError(f"got images of shape {list(images.shape)}; expected [N, 3, H, W] in [-1, 1]")
    device = next(network.parameters()).device
    return [look(batch.to(device).float()) for batch in images.split(64)]
