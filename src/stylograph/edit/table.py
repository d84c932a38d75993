"""What every channel of StyleSpace does to a picture's CLIP embedding: the table behind StyleCLIP's global directions
(section 6.2).

The table does not depend on a sentence: it is measured once per generator and CLIP model and answers any text with one
matrix product. Measuring takes minutes to days, so it can be stopped at any moment and goes on where it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.edit.config import MeasureConfig
from stylograph.embed import Clip
from stylograph.errors import EditError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator, StyleStatistics
from stylograph.losses import direction
from stylograph.nets.stylegan2 import State
from stylograph.types import OnStep, Step

SAVE_EVERY = 30.0
"""Seconds of work that an interruption costs at most."""
PIXELS_PER_RUN = 128 * 64 * 64
"""How many pixels are rendered at once, so that memory does not grow with the resolution (one channel is the least)."""


@dataclass(frozen=True, eq=False)
class DirectionTable:
    """One row per StyleSpace channel: the unit direction in which it moves a CLIP embedding."""

    rows: Tensor
    """[sum of channels, D]; zero for channels that were not measured (ToRGB layers, high resolutions)."""
    layers: tuple[tuple[str, int], ...]
    """Name and number of channels of every layer, in StyleSpace order."""
    generator_digest: str
    clip: str
    """The CLIP model and how it is fed, see `identity`."""
    made: Mapping[str, Any]
    """How it was measured: method, images, shift, truncation, seed, max_resolution, precision."""

    def relevance(self, wanted: Tensor) -> Tensor:
        """R_c = Δi_c · Δt, [sum of channels] in [-1, 1], for a unit text direction Δt [D]."""
        if wanted.shape != self.rows.shape[1:]:
            raise EditError(
                f"got a text direction of shape {list(wanted.shape)}; this table holds embeddings of "
                f"{self.rows.shape[1]} numbers: use the CLIP model it was made with ({self.clip})"
            )
        return self.rows.to(wanted) @ wanted

    def check(self, generator: Generator, clip: Clip) -> None:
        """Raises `EditError` unless the table was made for this generator and this CLIP model."""
        _check_owner(self.generator_digest, self.clip, generator, clip, "this table")

    def save(self, path: str | Path) -> Path:
        """Writes one .safetensors file, atomically."""
        record = {"layers": [list(la) for la in self.layers], "generator": self.generator_digest, "clip": self.clip}
        return save_tensors(Path(path), {"rows": self.rows}, "table", {**record, "made": dict(self.made)})

    @classmethod
    def load(cls, path: str | Path, generator: Generator, clip: Clip) -> DirectionTable:
        """Reads what `save` wrote. Raises `EditError` if it was made for another generator or CLIP model, `WeightsError`
        for a file that is no table."""
        tensors, record = load_tensors(Path(path), "table")
        try:
            table = cls(
                rows=tensors["rows"],
                layers=tuple((str(name), int(width)) for name, width in record["layers"]),
                generator_digest=str(record["generator"]),
                clip=str(record["clip"]),
                made=dict(record["made"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EditError(f"{path}: got an incomplete table ({error}); delete the file and measure again") from None
        table.check(generator, clip)
        if table.rows.ndim != 2 or len(table.rows) != generator.s_dim or not bool(torch.isfinite(table.rows).all()):
            raise EditError(
                f"{path}: got rows of shape {list(table.rows.shape)}, or not finite; expected {generator.s_dim} rows of "
                "finite numbers; delete the file and measure again"
            )
        return table


def measure_table(
    generator: Generator,
    clip: Clip,
    *,
    config: MeasureConfig | None = None,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> DirectionTable:
    """The paper's table by finite differences.

    For each image, channel c is set to mean ± shift·σ, all other channels stay; the difference of the two unit
    embeddings is normalised, averaged over the images, and normalised again. Features before the moved layer do not
    depend on it and are computed once.

    path: where the table is stored. While it is measured, progress is kept beside it, so an interrupted call is
        continued by the same call, with the same result to the last bit (on the same machine and thread count). A
        table that is there already is read, not measured.
    Raises `EditError` if what is at `path` was made for another generator, another CLIP model or with other settings.
    """
    settings = config or MeasureConfig()
    images = 100 if settings.images is None else settings.images
    if images < 1 or settings.batch < 1 or not settings.shift > 0:
        raise EditError(
            f"got images={images}, batch={settings.batch}, shift={settings.shift}; expected at least one image, one "
            "image at once and a shift above 0"
        )
    made = _how(generator, "finite", images, settings)
    if path is not None and Path(path).exists():
        table = DirectionTable.load(path, generator, clip)
        _check_settings(Path(path), table.made, made)
        return table
    progress = _Progress(path, generator, clip, {**made, "batch": settings.batch, "pixels": PIXELS_PER_RUN})
    statistics = generator.style_statistics(truncation=settings.truncation)
    wanted = movable(generator, settings.max_resolution)
    measured = [(i, layer) for i, layer in enumerate(generator.layers) if bool(wanted[layer.s_slice].any())]
    total, done, unit = int(wanted.sum()) * images, 0, 0
    with torch.no_grad():
        codes = generator.styles(generator.sample(images, seed=settings.seed, truncation=settings.truncation)).tensor
        for s in codes.split(settings.batch):
            state: State | None = None
            for index, layer in measured:
                state = generator.net.synthesis.run(s, dtype=generator.dtype, start=state, stop=index)
                channels = torch.arange(layer.s_slice.start, layer.s_slice.stop, device=s.device)
                per_run = max(1, PIXELS_PER_RUN // (2 * len(s) * generator.resolution**2))
                for chosen in channels.split(per_run):
                    unit, done = unit + 1, done + len(chosen) * len(s)
                    if unit <= progress.units:
                        continue
                    change = channel_effects(generator, clip, s, state, chosen, statistics, shift=settings.shift)
                    progress.add(unit, chosen, change.sum(1))
                    if on_step:
                        on_step(Step("measuring channels", done, total))
            progress.save()
    assert progress.sums is not None
    table = DirectionTable(
        rows=F.normalize(progress.sums, dim=-1),
        layers=generator.layer_widths,
        generator_digest=generator.digest,
        clip=identity(clip),
        made=made,
    )
    if path is not None:
        table.save(path)
        progress.forget()
    return table


def channel_effects(
    generator: Generator,
    clip: Clip,
    s: Tensor,
    state: State,
    channels: Tensor,
    statistics: StyleStatistics,
    *,
    shift: float,
) -> Tensor:
    """Unit differences of the embeddings of N images with a channel at mean + shift·σ and at mean − shift·σ.

    s: [N, sum of channels]; state: synthesis of these images before the layer of the channels; channels: [K] indices
    within one layer. Returns [K, N, D], zero where the picture does not change.
    """
    n, k = len(s), len(channels)
    moved = s.repeat(2 * k, 1).view(k, 2, n, -1)
    offset = shift * statistics.std
    sides = torch.stack([statistics.mean - offset, statistics.mean + offset], dim=1)  # [sum of channels, 2]
    moved[torch.arange(k, device=s.device), :, :, channels] = sides[channels, :, None]
    image = generator.net.synthesis.run(moved.flatten(0, 2), dtype=generator.dtype, start=state.repeat(2 * k)).image
    assert image is not None
    f = clip.embed_images(image.clamp(-1, 1)).view(k, 2, n, -1)
    return direction(f[:, 1], f[:, 0])


def movable(generator: Generator, max_resolution: int | None = None, *, torgb: bool = False) -> Tensor:
    """Which channels an edit may move, [sum of channels] bool: nothing above `max_resolution`, ToRGB only if asked for."""
    limit = max_resolution or generator.resolution
    chosen = torch.zeros(generator.s_dim, dtype=torch.bool, device=generator.device)
    for layer in generator.layers:
        chosen[layer.s_slice] = (torgb or not layer.to_rgb) and layer.resolution <= limit
    return chosen


def identity(clip: Clip) -> str:
    """A CLIP model by name and content, as one line."""
    return f"{clip.name} ({clip.digest[:16]})"


def table_path(source: str | Path, clip: Clip, kind: str = "finite", *, digest: str = "") -> Path:
    """Where a generator's table (or universal map) is kept if nobody says otherwise.

    Beside a generator's file: "ffhq.pkl" -> "ffhq.<clip>.<kind>.safetensors". For known names, URLs and hub ids: in the
    cache folder, where `digest` (of generator and CLIP) keeps those of an older release apart.
    """
    from stylograph.weights.download import cache_folder, cached_path
    from stylograph.weights.registry import plan

    text = str(source)
    model = _file_name(clip.name)
    if text.lower().startswith(("http://", "https://")):
        place = cached_path(text)
    elif plan(text) is None and Path(text).expanduser().exists():
        place = Path(text).expanduser()
    else:
        return cache_folder() / ".".join(filter(None, (_file_name(text), model, digest, kind, "safetensors")))
    return place.with_name(f"{place.stem}.{model}.{kind}.safetensors")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]", "-", text)


class _Progress:
    """The sums so far and how many units of work they hold, in memory and, given a path, on disk.

    Units (images, layer, group of channels) come in one fixed order and are added in that order, so a continued sum is
    the uninterrupted one.
    """

    def __init__(self, path: str | Path | None, generator: Generator, clip: Clip, made: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path).with_suffix(".partial.safetensors")
        self.record = {"generator": generator.digest, "clip": identity(clip), "made": made}
        self.units, self.saved = 0, time.monotonic()
        self.sums: Tensor | None = None
        self._size, self._device = generator.s_dim, generator.device
        if self.path is not None and self.path.exists():
            tensors, record = load_tensors(self.path, "partial table")
            _check_owner(str(record["generator"]), str(record["clip"]), generator, clip, f"{self.path}, half a table,")
            _check_settings(self.path, record["made"], made)
            self.units, self.sums = int(record["units"]), tensors["sums"].to(generator.device)

    def add(self, unit: int, channels: Tensor, change: Tensor) -> None:
        if self.sums is None:
            self.sums = torch.zeros(self._size, change.shape[-1], device=self._device)
        self.sums[channels] += change
        self.units = unit
        if time.monotonic() - self.saved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        if self.path is not None and self.sums is not None:
            save_tensors(self.path, {"sums": self.sums}, "partial table", {**self.record, "units": self.units})
        self.saved = time.monotonic()

    def forget(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _how(generator: Generator, method: str, images: int, settings: MeasureConfig) -> dict[str, Any]:
    return {
        "method": method,
        "images": images,
        "shift": settings.shift,
        "truncation": settings.truncation,
        "seed": settings.seed,
        "max_resolution": settings.max_resolution or generator.resolution,
        "precision": str(generator.dtype).removeprefix("torch."),
    }


def _check_owner(digest: str, model: str, generator: Generator, clip: Clip, what: str) -> None:
    if digest != generator.digest:
        raise EditError(
            f"got generator {generator.digest[:12]}; {what} was made for {digest[:12]}. Channels do other things in "
            "another generator: give a path of its own"
        )
    if model != identity(clip):
        raise EditError(f"got CLIP {identity(clip)}; {what} was made with {model}: give a path of its own")


def _check_settings(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if wrong := sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k)):
        said = "; ".join(f"{k}: {found.get(k)} there, {wanted.get(k)} asked for" for k in wrong)
        raise EditError(f"{path}: got a table made with other settings ({said}); use those, or give another path")
