"""Values that travel between the parts: latent codes and progress events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stylograph.errors import LatentsError, one_of

AXES = {"w": 2, "w+": 3, "s": 2}


@dataclass(frozen=True)
class Step:
    """One progress event of a long computation."""

    stage: str
    done: int
    total: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    images: Tensor | None = field(default=None, repr=False)
    """What there is to see so far, [N, 3, H, W] in [-1, 1]; most steps have none."""


OnStep = Callable[[Step], None]


class HasStyles(Protocol):
    """What `Latents` remembers of the generator they came from."""

    @property
    def digest(self) -> str: ...

    @property
    def lineage(self) -> tuple[str, ...]: ...

    def styles(self, latents: Latents) -> Latents: ...


@dataclass(frozen=True, eq=False)
class Latents:
    """Latent codes of N images in one of StyleGAN's spaces; never changed in place.

    space    tensor
    "w"      [N, w_dim]           output of the mapping network
    "w+"     [N, num_ws, w_dim]   one vector per layer
    "s"      [N, sum of channels] StyleSpace: all style vectors one after the other, see `Generator.layers`

    `generator` is the generator they came from, if they came from one: it lets an edit in S take codes in W.
    Raises `LatentsError` for an unknown space, a wrong number of axes, an empty batch or non-finite values.
    """

    space: str
    tensor: Tensor
    generator: HasStyles | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.space not in AXES:
            raise LatentsError(one_of(str(self.space), AXES, "latent space"))
        if not isinstance(self.tensor, Tensor):
            raise LatentsError(f"got {type(self.tensor).__name__} for latents; expected a torch.Tensor")
        if self.tensor.ndim != AXES[self.space] or 0 in self.tensor.shape:
            raise LatentsError(
                f"got a tensor of shape {list(self.tensor.shape)} in space {self.space!r}; expected "
                f"{AXES[self.space]} axes and at least one image, first axis = images"
            )
        if not self.tensor.is_floating_point():
            raise LatentsError(f"got latents of type {self.tensor.dtype}; expected floating point numbers")
        if not bool(torch.isfinite(self.tensor.detach()).all()):
            raise LatentsError("got latents with NaN or infinite values; expected finite numbers")

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Latents:
        """The chosen images, always as a batch: `latents[0]` holds one image."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"got index {index}; these are {len(self)} latents")
            index = [index]
        return self.with_tensor(self.tensor[index])

    def with_tensor(self, tensor: Tensor) -> Latents:
        """The same kind of latents with other numbers."""
        return replace(self, tensor=tensor)

    def blend(self, other: Latents, amount: float) -> Latents:
        """(1 - amount)·self + amount·other; both in the same space and of equal shape."""
        if other.space != self.space or other.tensor.shape[1:] != self.tensor.shape[1:]:
            raise LatentsError(
                f"got latents in {other.space!r} {list(other.tensor.shape)} to blend with {self.space!r} "
                f"{list(self.tensor.shape)}; expected the same space and size"
            )
        return self.with_tensor(torch.lerp(self.tensor, other.tensor, amount))

    def to(self, device: torch.device | str) -> Latents:
        return self.with_tensor(self.tensor.to(device))

    def save(self, path: str | Path) -> Path:
        """Writes a .safetensors file with the space and the generator's digest in its metadata."""
        from stylograph.files import save_tensors

        meta: dict[str, Any] = {"space": self.space, "generator": self.generator.digest if self.generator else None}
        return save_tensors(Path(path), {"latents": self.tensor.detach()}, "latents", meta)

    @classmethod
    def load(cls, path: str | Path, generator: HasStyles | None = None) -> Latents:
        """Reads what `save` wrote; refuses codes of another generator than `generator`, if given, or its ancestors."""
        from stylograph.files import load_tensors

        tensors, meta = load_tensors(Path(path), "latents")
        if "latents" not in tensors or "space" not in meta:
            raise LatentsError(f"{path}: got a file without latents; expected one written by Latents.save")
        made_for = meta.get("generator")
        if generator is not None and made_for not in (None, *generator.lineage):
            raise LatentsError(
                f"{path}: got latents of generator {str(made_for)[:12]}, expected {generator.digest[:12]}; "
                "load them with the generator they were made with"
            )
        return cls(str(meta["space"]), tensors["latents"], generator)
