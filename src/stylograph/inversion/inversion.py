"""`Inversion`: a picture as a code of a generator, and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.errors import InvertError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.inversion.delta import Delta, digest_of
from stylograph.inversion.likeness import Figures
from stylograph.types import Latents


@dataclass(frozen=True)
class StageReport:
    """What one stage of an inversion came to."""

    name: str
    """"encoder", "search" or "tune"."""
    figures: Figures
    seconds: float

    def describe(self) -> str:
        return f"{self.name:<8} {self.figures.describe()}, {self.seconds:.1f} s"


@dataclass(frozen=True, eq=False, kw_only=True)
class Inversion:
    """One picture as a W+ code of one generator, with what was tuned for it, and how good that is."""

    codes: Tensor
    """[1, num_ws, w_dim]"""
    generator_digest: str
    aligned: Tensor
    """uint8 [3, S, S], the picture as the generator should draw it."""
    stages: tuple[StageReport, ...]
    delta: Delta | None = None
    """What pivotal tuning changed in the generator; without it the generator draws the picture as it is."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Where the picture came from: path, digest, quad, how it was aligned."""

    @property
    def figures(self) -> Figures:
        """How good the last stage is."""
        return self.stages[-1].figures

    @property
    def image(self) -> Tensor:
        """The aligned picture, [1, 3, S, S] in [-1, 1]."""
        return self.aligned[None].float() / 127.5 - 1

    def latents(self, generator: Generator) -> Latents:
        """The code as W+ latents of `generator`, tuned for this picture if it was; render them with `.generator`.

        generator: the one the picture was inverted with, or one that descends from it (StyleGAN-NADA's child draws the
            person in its own way). Raises `InvertError` for any other.
        """
        self.check(generator)
        drawing = generator if self.delta is None else self.delta.apply(generator)
        codes = self.codes.to(generator.device)
        if generator.mapper is not None and generator.digest != self.generator_digest:
            codes = codes + generator.mapper.residual(codes)  # what a child's samples go through
        return Latents("w+", codes, drawing)

    def check(self, generator: Generator) -> None:
        """Raises `InvertError` unless the picture was inverted with this generator, or with one it was adapted from, and its
        tuning belongs to its code."""
        if self.generator_digest not in generator.lineage:
            raise InvertError(
                f"got generator {generator.digest[:12]}; this picture was inverted with {self.generator_digest[:12]}. A "
                "code means another picture in another generator: invert the picture again with this one"
            )

        if self.delta is not None and self.delta.latents_digest != digest_of(Latents("w+", self.codes)):
            raise InvertError("got a tuning for another code than the one beside it; invert the picture again")

    def advice(self) -> str | None:
        """What to try next, if the result is not close."""
        if self.figures.verdict in ("very close", "close"):
            return None
        done = {stage.name for stage in self.stages}
        if "tune" not in done:
            return "tune the generator to it: --invert.stages encoder search tune --invert.enough 1"
        aligned = self.source.get("aligner", "none")
        if aligned == "none":
            return "the picture was not aligned: try --align faces or avatars, or --landmarks"
        return (
            "look whether the aligned picture shows the whole head upright; else this generator does not draw such ones"
        )

    def describe(self) -> str:
        """What every stage came to, a line each, and what to try next."""
        lines = [stage.describe() for stage in self.stages]
        if self.delta is not None:
            lines.append(f"{'tuning':<8} {self.delta.size / 1000:.0f} kB")
        advice = self.advice()
        return "\n".join(lines if advice is None else [*lines, f"{'next':<8} {advice}"])

    # ---------------------------------------------------------------- files

    def save(self, path: str | Path) -> Path:
        """Writes one .safetensors file, atomically: code, tuning, aligned picture and report."""
        tensors = {"codes": self.codes, "aligned": self.aligned}
        record: dict[str, Any] = {
            "generator": self.generator_digest,
            "stages": [asdict(stage) for stage in self.stages],
            "source": dict(self.source),
        }
        if self.delta is not None:
            packed, record["delta"] = self.delta.pack()
            tensors |= {f"delta.{name}": tensor for name, tensor in packed.items()}
        return save_tensors(Path(path), tensors, "inversion", record)

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Reads what `save` wrote. Raises `WeightsError` for a file that is none, or is damaged."""
        tensors, record = load_tensors(Path(path), "inversion")
        try:
            codes, aligned = tensors["codes"].float(), tensors["aligned"]
            if codes.ndim != 3 or len(codes) != 1 or not bool(torch.isfinite(codes).all()):
                raise ValueError(f"its code is of shape {list(codes.shape)}, or not finite")
            if aligned.ndim != 3 or aligned.shape[0] != 3 or aligned.dtype != torch.uint8:
                raise ValueError(f"its picture is of shape {list(aligned.shape)} and type {aligned.dtype}")
            stages = tuple(
                StageReport(str(s["name"]), Figures(**s["figures"]), float(s["seconds"])) for s in record["stages"]
            )
            if not stages:
                raise ValueError("it has no report")
            packed = {n.removeprefix("delta."): t for n, t in tensors.items() if n.startswith("delta.")}
            return cls(
                codes=codes,
                generator_digest=str(record["generator"]),
                aligned=aligned,
                stages=stages,
                delta=Delta.unpack(packed, record["delta"]) if "delta" in record else None,
                source=dict(record["source"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, InvertError) as error:
            raise WeightsError(
                f"{path}: got an inversion file that contradicts itself ({' '.join(str(error).split())[:200]}); expected "
                "one written by `stylograph invert`; write it again"
            ) from error
