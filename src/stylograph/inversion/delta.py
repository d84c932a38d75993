"""What pivotal tuning changed in a generator, as data small enough to go with a picture.

A generator tuned to one picture is a file as large as the generator. Here every weight changes by a product of two thin
matrices (LoRA, Hu et al. 2022), kept in eight bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stylograph.errors import InvertError
from stylograph.generator import Generator
from stylograph.types import Latents

PARTS = ("left", "right", "scale")


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix [O, K] of rank r: the sum over j of scale_j · left_j ⊗ right_j, in eight bits."""

    left: Tensor
    """[O, r] int8."""
    right: Tensor
    """[r, K] int8."""
    scale: Tensor
    """[r] float32."""

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> LowRank:
        """The nearest there is to left [O, r] · right [r, K].

        The product is first written as a sum of orthogonal terms (its singular value decomposition). Each has a scale
        of its own, so that rounding costs a term in proportion to what it does.
        """
        q, inner = torch.linalg.qr(left.double())
        p, outer = torch.linalg.qr(right.double().T)
        u, s, v = torch.linalg.svd(inner @ outer.T, full_matrices=False)
        columns, rows = q @ (u * s), v @ p.T
        tall, wide = (t.clamp_min(1e-30) for t in (columns.abs().amax(0), rows.abs().amax(1)))
        return cls(
            (columns / tall * 127).round().to(torch.int8),
            (rows / wide[:, None] * 127).round().to(torch.int8),
            (tall * wide / 127**2).float(),
        )

    def matrix(self) -> Tensor:
        """[O, K] float32."""
        return (self.left.float() * self.scale) @ self.right.float()

    @staticmethod
    def bytes_per_rank(shape: torch.Size) -> int:
        """What each term costs for a weight of this shape, [O, ...]."""
        return shape[0] + math.prod(shape[1:]) + 4


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of one generator's synthesis network, made for one latent code (Roich et al. 2021, pivotal tuning).

    `delta.apply(generator)` is the tuned generator. Names are those of the network's parameters, such as
    "synthesis.b8.conv0.weight".
    """

    generator_digest: str
    """Of the generator it was made for."""
    latents_digest: str
    """Of the code it was made at, as `digest_of` gives it."""
    matrices: Mapping[str, LowRank]
    """Changes of the convolutions' weights [O, I, k, k], each as a matrix [O, I·k·k]."""
    small: Mapping[str, Tensor]
    """Changes of everything else, float16, in the parameters' shapes."""

    @property
    def size(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.pack()[0].values())

    def apply(self, generator: Generator, amount: float = 1.0) -> Generator:
        """The tuned generator: parameters plus `amount` times the change.

        generator: the one the change was made for, or one that was adapted from it: the child then draws this picture's
            person its own way. It stays as it is; the new generator shares with it what does not change.
        Edits and latents of `generator` work on the new one. Raises `InvertError` for any other generator, for one that
        is tuned to a picture already, and for an amount that is no number.
        """
        if self.generator_digest not in generator.lineage:
            raise InvertError(
                f"got generator {generator.digest[:12]}; this tuning was made for {self.generator_digest[:12]}: use it "
                "with that generator or one adapted from it, or invert the picture again"
            )
        earlier = generator.provenance.get("tuned")
        tuned = isinstance(earlier, dict) and earlier.get("generator") == self.generator_digest
        if tuned and self.generator_digest != generator.digest:
            raise InvertError(
                f"got generator {generator.digest[:12]}, which is tuned to a picture already; expected one that is not: "
                "two tunings of one generator do not go together"
            )
        if not math.isfinite(amount):
            raise InvertError(f"got amount={amount}; expected a number, such as 1 for the change as it was made")
        self._check_shapes(generator)
        changes = {name: matrix.matrix() for name, matrix in self.matrices.items()}
        changes |= {name: tensor.float() for name, tensor in self.small.items()}
        net = sharing(generator.net, changes)
        for name, change in changes.items():
            parameter = net.get_parameter(name)
            parameter.data.add_(change.view(parameter.shape).to(parameter), alpha=amount)
        provenance = {
            **generator.provenance,
            "tuned": {"generator": self.generator_digest, "latents": self.latents_digest, "amount": amount},
            "ancestors": list(generator.lineage),
        }
        mapper = None if generator.mapper is None else sharing(generator.mapper)
        return Generator(net, mapper=mapper, provenance=provenance, notes=generator.notes).to(dtype=generator.dtype)

    def _check_shapes(self, generator: Generator) -> None:
        own = {name: list(parameter.shape) for name, parameter in generator.net.named_parameters()}
        flat = {name: [shape[0], math.prod(shape[1:])] for name, shape in own.items() if shape}
        found = [(name, [len(m.left), m.right.shape[1]], flat.get(name)) for name, m in self.matrices.items()]
        found += [(name, list(tensor.shape), own.get(name)) for name, tensor in self.small.items()]
        for name, got, expected in found:
            if got != expected:
                raise InvertError(
                    f"got a tuning that changes {got} at {name!r}; this generator has {own.get(name, 'nothing')} there: "
                    "invert the picture again"
                )

    # ---------------------------------------------------------------- files

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and a JSON-ready record of what they belong to."""
        tensors = {f"{name}.{part}": getattr(m, part) for name, m in self.matrices.items() for part in PARTS}
        record = {"generator": self.generator_digest, "latents": self.latents_digest}
        return tensors | dict(self.small), record

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Delta:
        """What `pack` gave. Raises `InvertError` for anything else; whether it fits a generator, `apply` finds out."""
        try:
            generator, latents = record["generator"], record["latents"]
            if not isinstance(generator, str) or not isinstance(latents, str):
                raise ValueError("its digests are no text")
            names = {name.removesuffix(".left") for name in tensors if name.endswith(".left")}
            matrices = {name: LowRank(*(tensors[f"{name}.{part}"] for part in PARTS)) for name in sorted(names)}
            used = {f"{name}.{part}" for name in names for part in PARTS}
            small = {name: tensor for name, tensor in tensors.items() if name not in used}
            for name, matrix in matrices.items():
                _check_matrix(name, matrix)
            for name, tensor in small.items():
                if tensor.dtype != torch.float16 or not bool(torch.isfinite(tensor).all()):
                    raise ValueError(f"{name} is not made of finite float16 numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise InvertError(f"got a damaged tuning ({error}); expected one made by `tune`: tune again") from None
        return cls(generator, latents, matrices, small)


def _check_matrix(name: str, matrix: LowRank) -> None:
    left, right, scale = matrix.left, matrix.right, matrix.scale
    if (left.ndim, right.ndim, scale.ndim) != (2, 2, 1) or not left.shape[1] == right.shape[0] == scale.shape[0]:
        raise ValueError(f"the factors of {name} do not go together")
    if (left.dtype, right.dtype, scale.dtype) != (torch.int8, torch.int8, torch.float32):
        raise ValueError(f"the factors of {name} are not int8 with float32 scales")
    if not bool(torch.isfinite(scale).all()):
        raise ValueError(f"the scales of {name} are not finite")


def digest_of(latents: Latents) -> str:
    """sha256 over the space and the numbers of latent codes."""
    state = hashlib.sha256(json.dumps([latents.space, list(latents.tensor.shape)]).encode())
    state.update(latents.tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return state.hexdigest()


Module = TypeVar("Module", bound=nn.Module)


def sharing(module: Module, own: Collection[str] = ()) -> Module:
    """A copy of a module that shares the memory of its tensors, but for the parameters named in `own`.

    The tensors are objects of their own, so that moving one of the two to another device leaves the other alone.
    """
    memo: dict[int, Tensor] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for n, p in module.named_parameters() if n not in own
    }
    memo |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    return copy.deepcopy(module, memo)
