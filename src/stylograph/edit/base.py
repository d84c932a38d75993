"""An `Edit`: a direction in StyleSpace as data, with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.errors import EditError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.types import Latents


@dataclass(frozen=True)
class Channel:
    """One StyleSpace channel an edit moves."""

    layer: str
    index: int
    """Position within the layer's style vector."""
    delta: float
    """Shift at strength 1, in units of S."""


@dataclass(frozen=True, eq=False)
class Edit:
    """s' = s + strength·delta, for the one generator it was made for.

    Call it: `edit(latents, strength)` takes latents in W, W+ or S and gives latents in S.
    """

    delta: Tensor
    """[sum of channels], the shift of a StyleSpace vector at strength 1."""
    layers: tuple[tuple[str, int], ...]
    """Name and number of channels of every layer, in StyleSpace order."""
    generator_digest: str
    strength: float = 1.0
    """The strength used when none is given."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: method, sentences, model, settings, figures."""
    generator: Generator | None = field(default=None, repr=False)

    def __call__(self, latents: Latents, strength: float | None = None) -> Latents:
        """The latents with the edit applied, in S.

        strength: factor on the shift, `self.strength` when left out; 0 leaves the image as it is, negative undoes.
        Raises `EditError` on latents of another generator, or on W latents when no generator is known.
        """
        amount = self.strength if strength is None else float(strength)
        generator = latents.generator or self.generator
        if generator is not None:
            self.check(generator)
            latents = generator.styles(latents)
        elif latents.space != "s":
            raise EditError(
                f"got latents in {latents.space!r} and no generator to turn them into StyleSpace; "
                "use latents from generator.sample / .map, or load_edit(path, generator)"
            )
        if latents.tensor.shape[1] != self.delta.shape[0]:
            raise EditError(
                f"got StyleSpace vectors of length {latents.tensor.shape[1]}; this edit is made for {self.delta.shape[0]}"
            )
        return latents.with_tensor(latents.tensor + amount * self.delta.to(latents.tensor))

    def check(self, generator: Any) -> None:
        """Raises `EditError` unless the edit was made for this generator (same digest)."""
        if generator.digest != self.generator_digest:
            raise EditError(
                f"got generator {generator.digest[:12]}; this edit was made for {self.generator_digest[:12]}. Channels "
                "mean other things in another generator: find the edit again with this one"
            )

    def with_strength(self, strength: float) -> Edit:
        return replace(self, strength=float(strength))

    @property
    def channels(self) -> list[Channel]:
        """The channels it moves, strongest shift first."""
        names = [(name, i) for name, width in self.layers for i in range(width)]
        moved = self.delta.nonzero().flatten().tolist()
        found = [Channel(names[i][0], names[i][1], float(self.delta[i])) for i in moved]
        return sorted(found, key=lambda channel: -abs(channel.delta))

    def save(self, path: str | Path) -> Path:
        """Writes one .safetensors file, atomically: the shift, and in its metadata everything needed to trust it."""
        meta = {
            "generator": self.generator_digest,
            "layers": [list(layer) for layer in self.layers],
            "strength": self.strength,
            "provenance": dict(self.provenance),
        }
        return save_tensors(Path(path), {"delta": self.delta.detach().cpu()}, "edit", meta)


def load_edit(path: str | Path, generator: Generator | None = None) -> Edit:
    """Reads an edit written by `Edit.save`.

    generator: if given, the edit is refused (`EditError`) unless it was made for this generator.
    Raises `EditError` for a file that is no edit, `WeightsError` for one that cannot be read.
    """
    tensors, meta = load_tensors(Path(path), "edit")
    try:
        edit = Edit(
            delta=tensors["delta"],
            layers=tuple((str(name), int(width)) for name, width in meta["layers"]),
            generator_digest=str(meta["generator"]),
            strength=float(meta["strength"]),
            provenance=dict(meta["provenance"]),
            generator=generator,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EditError(f"{path}: got an incomplete edit file ({error}); expected one written by Edit.save") from None
    if edit.delta.ndim != 1 or edit.delta.shape[0] != sum(width for _, width in edit.layers):
        raise EditError(f"{path}: got a shift of shape {list(edit.delta.shape)} that does not fit its own layer table")
    if not bool(torch.isfinite(edit.delta).all()):
        raise EditError(f"{path}: got a shift with NaN or infinite values; make the edit again")
    if generator is not None:
        edit.check(generator)
    return edit
