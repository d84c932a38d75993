"""`Edit`: a change of StyleSpace as data. It is called on latents, scaled, added, locked to layers, saved and loaded.

Three kinds: `Shift` (the same change for every image, or one row per image), `Mapped` (a latent mapper's, which
depends on the image), `Sum` (several stacked).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from stylograph.edit.masks import layers_matching
from stylograph.errors import EditError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.nets.mapper import LatentMapper, MapperConfig
from stylograph.types import Latents


class Recogniser(Protocol):
    """An identity network: images [N, 3, H, W] in [-1, 1] -> unit vectors [N, D], differentiable."""

    def embed(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Channel:
    """One StyleSpace channel an edit moves."""

    layer: str
    index: int
    """Position within the layer's style vector."""
    delta: float
    """Shift at strength 1, in units of S."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit(ABC):
    """s' = s + strength·Δ(latents), for the one generator it was made for.

    Call it: `edit(latents, strength)` takes latents in W, W+ or S and gives latents in S. Edits form a vector space:
    `edit_a + 0.5 * edit_b`, `-edit`; a factor multiplies an edit's own strength. All terms of a sum look at the
    latents as they were before any of them.
    """

    kind: ClassVar[str]

    layers: tuple[tuple[str, int], ...]
    """Name and number of channels of every layer, in StyleSpace order."""
    generator_digest: str
    strength: float = 1.0
    """The strength used when none is given."""
    locked: tuple[str, ...] = ()
    """Names of the layers it leaves alone."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: method, sentences, model, settings, figures."""
    generator: Generator | None = field(default=None, repr=False)

    @abstractmethod
    def shift(self, latents: Latents) -> Tensor:
        """Δ at strength 1: [N, sum of channels], or one row [1, ...] for all images; locks not yet applied."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what it is and what it moves."""

    # ---------------------------------------------------------------- use

    def __call__(self, latents: Latents, strength: float | Tensor | None = None) -> Latents:
        """The latents with the edit applied, in S.

        strength: factor on the shift, or one per image [N]; `self.strength` when left out; 0 leaves the image as it
            is, negative undoes.
        Raises `EditError` on latents of another generator, on W latents when no generator is known, and when an
        edit made image by image meets another number of images.
        """
        return self.sweep(latents, [self.strength if strength is None else strength])[0]

    def sweep(self, latents: Latents, strengths: Sequence[float | Tensor]) -> list[Latents]:
        """The edit at several strengths; what it does to these latents is computed once."""
        styles, moved = self._styles(latents), self._moved(latents)
        found = []
        for strength in strengths:
            amount = torch.as_tensor(strength, dtype=moved.dtype, device=moved.device)
            if amount.ndim == 1 and len(amount) != len(styles):
                raise EditError(
                    f"got {len(amount)} strengths for {len(styles)} images; expected one number, or one each"
                )
            found.append(styles.with_tensor(styles.tensor + amount.reshape(-1, 1) * moved))
        return found

    def _moved(self, latents: Latents) -> Tensor:
        shift = self.shift(latents).to(latents.tensor)
        if len(shift) not in (1, len(latents)):
            raise EditError(
                f"got {len(latents)} latents; this edit was made image by image for {len(shift)} "
                f"({self.provenance.get('images', 'see its provenance')}): use those, or one of them"
            )
        return (
            shift.masked_fill(layers_matching(self.layers, self.locked).to(shift.device), 0) if self.locked else shift
        )

    def _styles(self, latents: Latents) -> Latents:
        generator = self._generator_of(latents)
        if generator is None and latents.space != "s":
            raise EditError(
                f"got latents in {latents.space!r} and no generator to turn them into StyleSpace; "
                "use latents from generator.sample / .map, or load_edit(path, generator)"
            )
        styles = latents if generator is None else generator.styles(latents)
        width = sum(width for _, width in self.layers)
        if styles.tensor.shape[1] != width:
            raise EditError(f"got StyleSpace vectors of length {styles.tensor.shape[1]}; this edit is made for {width}")
        return styles

    def _generator_of(self, latents: Latents) -> Any:
        generator = latents.generator or self.generator
        if generator is not None:
            self.check(generator)
        return generator

    def check(self, generator: Any) -> None:
        """Raises `EditError` unless the edit was made for this generator, or for one that it was adapted from."""
        if self.generator_digest not in generator.lineage:
            raise EditError(
                f"got generator {generator.digest[:12]}; this edit was made for {self.generator_digest[:12]}. Channels "
                "mean other things in another generator: find the edit again with this one"
            )

    def on(self, generator: Generator) -> Edit:
        """The edit for use with `generator`: its own, or one that was adapted from its own (StyleGAN-NADA, section 5.3:
        the latent spaces of parent and child stay aligned). Raises `EditError` for any other."""
        self.check(generator)
        return replace(self, generator=generator, generator_digest=generator.digest)

    # ---------------------------------------------------------------- algebra

    def with_strength(self, strength: float) -> Edit:
        return replace(self, strength=float(strength))

    def __mul__(self, factor: float) -> Edit:
        return self.with_strength(self.strength * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Edit:
        return -1.0 * self

    def __add__(self, other: Edit) -> Sum:
        if not isinstance(other, Edit):
            return NotImplemented
        if other.generator_digest != self.generator_digest:
            raise EditError(
                f"got edits of two generators ({self.generator_digest[:12]} and {other.generator_digest[:12]}); "
                "only edits of one generator can be added"
            )
        return Sum(
            parts=(*self._terms(), *other._terms()),
            layers=self.layers,
            generator_digest=self.generator_digest,
            generator=self.generator or other.generator,
            provenance={"method": "sum"},
        )

    def __sub__(self, other: Edit) -> Sum:
        return self + -other

    def _terms(self) -> tuple[Edit, ...]:
        return (self,)

    def without(self, *patterns: str) -> Edit:
        """The edit with some layers locked: names ("b32.conv1", "*.conv1"), blocks ("b64" or "64"), or "torgb".

        Fine layers carry colour and texture, so `edit.without("64")` keeps the palette. Raises `EditError` for a
        pattern that fits no layer.
        """
        chosen = layers_matching(self.layers, patterns)
        return self._locking([name for name, here in self._spans() if bool(chosen[here].any())])

    def only(self, *patterns: str) -> Edit:
        """The edit with all layers locked but these (patterns as for `without`)."""
        chosen = layers_matching(self.layers, patterns)
        return self._locking([name for name, here in self._spans() if not bool(chosen[here].any())])

    def _locking(self, names: list[str]) -> Edit:
        return replace(self, locked=tuple(dict.fromkeys((*self.locked, *names))))

    def _spans(self) -> list[tuple[str, slice]]:
        spans, start = [], 0
        for name, width in self.layers:
            spans.append((name, slice(start, start + width)))
            start += width
        return spans

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> Path:
        """Writes one .safetensors file, atomically: the change, and in its metadata everything needed to trust it."""
        tensors, record = self._pack()
        meta = {"generator": self.generator_digest, "layers": [list(layer) for layer in self.layers], **record}
        return save_tensors(Path(path), tensors, "edit", meta)

    def _pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, own = self._content()
        common = {"strength": self.strength, "locked": list(self.locked), "provenance": dict(self.provenance)}
        return tensors, {"kind": self.kind, **common, **own}

    @abstractmethod
    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What this kind adds to a file: tensors, and entries of the record."""

    @classmethod
    @abstractmethod
    def _unpack(cls, tensors: dict[str, Tensor], record: Mapping[str, Any], common: dict[str, Any]) -> Edit:
        """The edit of this kind that `_content` came from."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Shift(Edit):
    """A constant change: one row for every image, or one row per image it was made for."""

    kind: ClassVar[str] = "shift"

    delta: Tensor
    """[sum of channels], or [N, sum of channels] for N particular images."""

    def shift(self, latents: Latents) -> Tensor:
        return self.delta.reshape(-1, self.delta.shape[-1])

    @property
    def channels(self) -> list[Channel]:
        """The channels it moves, strongest shift first (the mean over the images of an edit made image by image)."""
        names = [(name, i) for name, width in self.layers for i in range(width)]
        mean = self.delta.reshape(-1, self.delta.shape[-1]).mean(0)
        found = [Channel(names[i][0], names[i][1], float(mean[i])) for i in mean.nonzero().flatten().tolist()]
        return sorted(found, key=lambda channel: -abs(channel.delta))

    def describe(self) -> str:
        moved = self.channels
        strongest = ", ".join(f"{c.layer}[{c.index}] {c.delta:+.2f}" for c in moved[:5])
        return f"moves {len(moved)} of {self.delta.shape[-1]} channels; strongest: {strongest or 'none'}"

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"delta": self.delta.detach().cpu()}, {}

    @classmethod
    def _unpack(cls, tensors: dict[str, Tensor], record: Mapping[str, Any], common: dict[str, Any]) -> Shift:
        delta = tensors["delta"]
        if delta.ndim not in (1, 2) or delta.shape[-1] != sum(width for _, width in common["layers"]):
            raise ValueError(f"a shift of shape {list(delta.shape)} does not fit its own layer table")
        return cls(delta=delta, **common)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mapped(Edit):
    """A latent mapper's change: predicted from the latents themselves (StyleCLIP, section 5)."""

    kind: ClassVar[str] = "mapped"

    net: LatentMapper

    def shift(self, latents: Latents) -> Tensor:
        if self.net.config.space == "s":
            return self.net.residual(self._styles(latents).tensor)
        generator = self._generator_of(latents)
        if latents.space == "s" or generator is None:
            raise EditError(
                f"got latents in {latents.space!r}; this mapper reads W or W+ codes of a known generator. "
                "To use it together with another edit, add them: (edit_a + edit_b)(latents)"
            )
        w = generator.w_plus(latents)
        moved = w.with_tensor(w.tensor + self.net.residual(w.tensor))
        return generator.styles(moved).tensor - generator.styles(w).tensor

    def describe(self) -> str:
        groups = ", ".join(group.name for group in self.net.config.groups)
        return f"latent mapper in {self.net.config.space.upper()} ({groups})"

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.net.state_dict(), {"mapper": self.net.config.to_dict()}

    @classmethod
    def _unpack(cls, tensors: dict[str, Tensor], record: Mapping[str, Any], common: dict[str, Any]) -> Mapped:
        net = LatentMapper(MapperConfig.from_dict(record["mapper"]))
        net.load_state_dict(tensors)
        return cls(net=net.eval().requires_grad_(False), **common)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Edit):
    """Several edits at once, each at its own strength."""

    kind: ClassVar[str] = "sum"

    parts: tuple[Edit, ...]

    def shift(self, latents: Latents) -> Tensor:
        rows = [part.strength * part._moved(latents) for part in self.parts]
        return torch.stack(torch.broadcast_tensors(*rows)).sum(0)

    def describe(self) -> str:
        return "; ".join(f"{part.strength:+.3g} · {part.provenance.get('target', part.kind)}" for part in self.parts)

    def on(self, generator: Generator) -> Edit:
        self.check(generator)
        parts = tuple(part.on(generator) for part in self.parts)
        return replace(self, parts=parts, generator=generator, generator_digest=generator.digest)

    def _terms(self) -> tuple[Edit, ...]:
        return (self,) if self.locked else tuple(self.strength * part for part in self.parts)

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        packed = [part._pack() for part in self.parts]
        tensors = {f"{i}.{name}": t for i, (content, _) in enumerate(packed) for name, t in content.items()}
        return tensors, {"parts": [record for _, record in packed]}

    @classmethod
    def _unpack(cls, tensors: dict[str, Tensor], record: Mapping[str, Any], common: dict[str, Any]) -> Sum:
        parts = []
        for i, part in enumerate(record["parts"]):
            own = {name.removeprefix(f"{i}."): t for name, t in tensors.items() if name.startswith(f"{i}.")}
            parts.append(_unpack(own, part, common))
        return cls(parts=tuple(parts), **common)


KINDS: dict[str, type[Edit]] = {cls.kind: cls for cls in (Shift, Mapped, Sum)}


def load_edit(path: str | Path, generator: Generator | None = None) -> Edit:
    """Reads an edit written by `Edit.save`.

    generator: if given, the edit is bound to it, or refused (`EditError`) if it was made for neither this generator
        nor one that it was adapted from.
    Raises `EditError` for a file that is no edit, `WeightsError` for one that cannot be read.
    """
    tensors, meta = load_tensors(Path(path), "edit")
    try:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("it has NaN or infinite values")
        layers = tuple((str(name), int(width)) for name, width in meta["layers"])
        edit = _unpack(
            tensors, meta, {"layers": layers, "generator_digest": str(meta["generator"]), "generator": generator}
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise EditError(
            f"{path}: got a damaged edit file ({error}); expected one written by Edit.save: make the edit again"
        ) from None
    return edit if generator is None else edit.on(generator)


def _unpack(tensors: dict[str, Tensor], record: Mapping[str, Any], common: dict[str, Any]) -> Edit:
    kind = record.get("kind", "shift")
    if kind not in KINDS:
        raise ValueError(f"it holds an edit of the unknown kind {str(kind)[:20]!r}")
    own = {
        "strength": float(record["strength"]),
        "locked": tuple(str(name) for name in record.get("locked", ())),
        "provenance": dict(record["provenance"]),
    }
    return KINDS[kind]._unpack(tensors, record, {**common, **own})
