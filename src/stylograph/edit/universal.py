"""The universal text map: from any sentence to a change of StyleSpace with one matrix product.

DeltaEdit (Lyu et al. 2023) trains a network, without any text, to predict how a latent code changed from how the CLIP
embedding of its picture changed, and then asks it about the difference of two sentences. Here the predictor is linear
and therefore has a closed form: the ridge regression of w on E(G(w)),

    B = argmin Σ ‖(w - w̄) - B·(E - Ē)‖² + λ‖B‖²        Δw = B·Δt

It needs forward passes only (1500 say enough; the paper's table takes 200 per channel), it sees changes that no small
step reaches (bare eyes and sunglasses both occur among random pictures), and what it does not need to move stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.assets import ASSETS
from stylograph.edit.config import UniversalConfig
from stylograph.embed import Clip
from stylograph.errors import EditError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.types import Latents, OnStep, Step

SAVE_EVERY = 30.0
"""Seconds of work that an interruption costs at most."""
SHIPPED = ASSETS / "avatars" / "universal.safetensors"


@dataclass(frozen=True, eq=False)
class UniversalMap:
    """Δt -> change of W, and of StyleSpace; made once per generator and CLIP model, without text."""

    matrix: Tensor
    """B [w_dim, D]"""
    generator_digest: str
    clip_digest: str
    made: Mapping[str, Any]
    """The settings it was made with."""

    def relevance(self, generator: Generator, wanted: Tensor) -> Tensor:
        """What the sentence asks of every StyleSpace channel, [sum of channels], in standard deviations of W's styles.

        wanted: unit text direction Δt [D].
        """
        w = self.matrix.to(wanted) @ wanted
        std = generator.style_statistics(truncation=1.0).std
        return (w.to(generator.device) @ generator.style_matrix()) / std.clamp_min(1e-12)

    def save(self, path: str | Path) -> Path:
        """Writes one small .safetensors file, atomically."""
        record = {"generator": self.generator_digest, "clip": self.clip_digest, "made": dict(self.made)}
        return save_tensors(Path(path), {"matrix": self.matrix}, "universal map", record)

    @classmethod
    def load(cls, path: str | Path, generator: Generator | None = None, clip: Clip | None = None) -> UniversalMap:
        """Reads what `save` wrote; refuses (`EditError`) the map of another generator or CLIP model when they are given."""
        tensors, record = load_tensors(Path(path), "universal map")
        try:
            found = cls(tensors["matrix"], str(record["generator"]), str(record["clip"]), dict(record["made"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EditError(
                f"{path}: got a damaged universal map ({error}); delete it, and it is fitted anew"
            ) from None
        if found.matrix.ndim != 2 or not bool(torch.isfinite(found.matrix).all()):
            raise EditError(f"{path}: got a map with NaN or of a wrong shape; delete it, and it is fitted anew")
        for what, made, got in (
            ("generator", found.generator_digest, generator.digest if generator else None),
            ("CLIP model", found.clip_digest, clip.digest if clip else None),
        ):
            if got is not None and made != got:
                raise EditError(
                    f"{path}: got a universal map of {what} {made[:12]}; expected one of {got[:12]}: give another path"
                )
        return found


def universal_map(
    generator: Generator,
    clip: Clip,
    *,
    config: UniversalConfig | None = None,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> UniversalMap:
    """The map of a generator: the shipped one if it is made for these models, the one at `path`, or a new one.

    path: a new map is stored there, and its sums on the way, so that an interrupted call goes on where it was, with
        the same result to the last bit.
    Raises `EditError` if what is at `path` is the map of other models, or of fewer pictures than asked for.
    """
    wanted = (config or UniversalConfig()).samples
    if path is not None and Path(path).exists():
        found = UniversalMap.load(path, generator, clip)
        if found.made.get("samples", 0) < wanted:
            raise EditError(
                f"{path}: got a universal map of {found.made.get('samples', 0)} pictures, expected at least {wanted}: "
                "delete it to fit a better one, or ask for as few pictures as it has"
            )
        return found
    if config is None and SHIPPED.exists():
        shipped = UniversalMap.load(SHIPPED)
        if (shipped.generator_digest, shipped.clip_digest) == (generator.digest, clip.digest):
            return shipped
    return fit_universal(generator, clip, config=config, path=path, on_step=on_step)


def fit_universal(
    generator: Generator,
    clip: Clip,
    *,
    config: UniversalConfig | None = None,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> UniversalMap:
    """Fits a map: renders `samples` random pictures, embeds them, solves one linear system. Resumable with `path`."""
    settings = config or UniversalConfig()
    if settings.samples < 2 * settings.batch or settings.batch < 1 or not settings.ridge > 0:
        raise EditError(
            f"got samples={settings.samples}, batch={settings.batch}, ridge={settings.ridge}; expected at least two "
            "batches of pictures and a ridge above 0"
        )
    moments = _Moments(generator, clip, settings, path)
    up_to = min(settings.up_to, generator.resolution)
    batches = settings.samples // settings.batch
    with torch.no_grad():
        for i in range(moments.batches, batches):
            latents = generator.sample(
                settings.batch, seed=settings.seed + i * settings.batch, truncation=1.0, mined=False
            )
            codes = generator.styles(latents).tensor
            moments.add(latents.tensor, clip.embed_images(generator.render(Latents("s", codes), up_to=up_to)))
            if on_step:
                on_step(Step("looking at random pictures", (i + 1) * settings.batch, batches * settings.batch))
    found = UniversalMap(
        matrix=moments.solve(settings.ridge),
        generator_digest=generator.digest,
        clip_digest=clip.digest,
        made=asdict(settings),
    )
    if path is not None:
        found.save(path)
        moments.forget()
    return found


class _Moments:
    """Running sums of w, E and their products in double precision, in memory and, given a path, on disk."""

    def __init__(self, generator: Generator, clip: Clip, settings: UniversalConfig, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path).with_suffix(".partial.safetensors")
        self.record = {"generator": generator.digest, "clip": clip.digest, "made": asdict(settings)}
        self.sums: dict[str, Tensor] = {}
        self.batches, self.saved = 0, time.monotonic()
        if self.path is not None and self.path.exists():
            tensors, record = load_tensors(self.path, "partial universal map")
            batches = record.pop("batches", None)
            if record != self.record or not isinstance(batches, int):
                raise EditError(
                    f"{self.path}: got a half-made map of other models or settings; delete it to start anew"
                )
            self.sums, self.batches = tensors, batches

    def add(self, w: Tensor, e: Tensor) -> None:
        w, e = w.cpu().double(), e.cpu().double()
        ones = torch.ones(len(w), 1, dtype=torch.double)
        new = {"n": ones.sum(0), "w": w.sum(0), "e": e.sum(0), "ee": e.T @ e, "we": w.T @ e}
        self.sums = {name: self.sums[name] + part if self.sums else part for name, part in new.items()}
        self.batches += 1
        if self.path is not None and time.monotonic() - self.saved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        assert self.path is not None
        save_tensors(self.path, self.sums, "partial universal map", {**self.record, "batches": self.batches})
        self.saved = time.monotonic()

    def forget(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def solve(self, ridge: float) -> Tensor:
        """B [w_dim, D] = C_we·(C_ee + λ·mean variance·1)⁻¹, float32."""
        n = self.sums["n"]
        e, w = self.sums["e"] / n, self.sums["w"] / n
        c_ee = self.sums["ee"] / n - torch.outer(e, e)
        c_we = self.sums["we"] / n - torch.outer(w, e)
        c_ee.diagonal().add_(ridge * c_ee.diagonal().mean())
        return torch.linalg.solve(c_ee, c_we.T).T.float()
