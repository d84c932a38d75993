"""What a job names, made real: its models and its pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from stylograph.errors import ImageError, InvertError, StylographError
from stylograph.jobs import AdaptJob, PictureJob, to_record

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from stylograph.edit.base import Recogniser
    from stylograph.embed import Clip
    from stylograph.generator import Generator
    from stylograph.inversion.inversion import Inversion
    from stylograph.inversion.likeness import Distance
    from stylograph.photos import Outcome, Studio
    from stylograph.types import Latents, OnStep


class World:
    """The models a job names, each loaded when first needed."""

    def __init__(self, job: Any, on_step: OnStep | None, checkpoint: Path | None = None) -> None:
        self.job, self.on_step, self.checkpoint = job, on_step, checkpoint
        if not job.seed and not job.image:
            raise StylographError("got no seeds; give at least one, e.g. --seed 1 2 3 4")

    @cached_property
    def generator(self) -> Generator:
        return self._load(self.job.model)

    @cached_property
    def other(self) -> Generator:
        """The second generator of a blend."""
        return self._load(self.job.other)

    def _load(self, model: str) -> Generator:
        import torch

        from stylograph.generator import Generator

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.job.precision]
        return Generator.from_pretrained(
            model,
            device=pick_device(self.job.device),
            dtype=dtype,
            offline=self.job.offline,
            on_step=self._downloading,
        )

    @cached_property
    def clip(self) -> Clip:
        from stylograph.embed import Clip

        adapting = isinstance(self.job, AdaptJob)
        source = self.job.clip or CLIPS["avatars" if self.generator.root == "avatars" else "photographs"][adapting]
        weights = (self.job.clip_weights or None) if adapting else None
        return Clip.from_pretrained(source, weights=weights, device=self.generator.device, offline=self.job.offline)

    @cached_property
    def identity(self) -> Recogniser | None:
        from stylograph.identity import Identity

        source = getattr(self.job, "identity", None) or ("avatars" if self.generator.root == "avatars" else "none")
        if source == "none":
            return None
        return Identity.from_pretrained(source, device=self.generator.device, offline=self.job.offline)

    # ---------------------------------------------------------------- pictures

    @cached_property
    def groups(self) -> list[Latents]:
        """The codes of the job's pictures, those together that one generator draws."""
        return self.codes(self.generator)

    def codes(self, generator: Generator) -> list[Latents]:
        """The codes of the job's pictures for a generator, each bound to what draws it."""
        import torch

        job = self.job
        if not job.image:
            return [generator.sample(len(job.seed), seed=job.seed, truncation=job.truncation, label=job.label)]
        found = [inversion.latents(generator) for inversion in self.inversions]
        together = (list(rows) for _, rows in groupby(found, key=lambda latents: id(latents.generator)))
        return [rows[0].with_tensor(torch.cat([row.tensor for row in rows])) for rows in together]

    def drawing(self, latents: Latents) -> Any:
        """The generator that draws a group."""
        return latents.generator or self.generator

    @property
    def inversions(self) -> list[Inversion]:
        """Those of the job's own pictures, as far as they could be inverted."""
        return [outcome.inversion for outcome in self.outcomes if outcome.inversion is not None]

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What became of every picture of the job. Raises `ImageError` if nothing came of any."""
        from stylograph.photos import INVERSION, read

        if all(path.suffix.lower() == INVERSION for path in self.files):
            outcomes = [read(path, self.generator) for path in self.files]
        else:
            outcomes = list(self.studio.invert(self.files))
        if all(outcome.inversion is None for outcome in outcomes):
            more = f" (and {len(outcomes) - 1} more pictures that failed)" if len(outcomes) > 1 else ""
            raise ImageError(f"{outcomes[0].error}{more}")
        return outcomes

    @cached_property
    def files(self) -> list[Path]:
        """The job's own pictures and inversions, file by file."""
        return pictures_of(self.job)

    @cached_property
    def studio(self) -> Studio:
        """What pictures are inverted with: by the generator, or for one that was adapted by the one it came from."""
        from stylograph.align.find import load_aligner
        from stylograph.embed import Clip
        from stylograph.encoder import Encoder
        from stylograph.inversion.perceptual import Lpips, Perceptual
        from stylograph.photos import Studio
        from stylograph.weights.download import cache_folder

        job, generator = self.job, self.generator
        if generator.ancestors:
            generator = self._ancestor()
        config, offline, device = job.invert, job.offline, generator.device
        avatars = generator.root == "avatars"
        faces = (generator.root or "").startswith("ffhq")
        align = config.align if config.align != "auto" else "avatars" if avatars else "faces" if faces else "none"
        encoder = config.encoder or ("avatars" if avatars else None)
        given = getattr(job, "clip", None)
        clip = "avatars-robust" if avatars else given if isinstance(given, str) else CLIPS["photographs"][0]
        distance: Distance = (
            Lpips(device)
            if config.perceptual == "lpips"
            else Perceptual(Clip.from_pretrained(clip, device=device, offline=offline))
        )
        encode = None if encoder is None else Encoder.from_pretrained(encoder, device=device, offline=offline)
        aligner = load_aligner("none" if config.landmarks else align, device=device, offline=offline)
        if config.face is not None and config.face < 1:
            raise InvertError(f"got --face {config.face}; expected 1 for the most prominent one, 2 for the next")
        cache = cache_folder() / "inversions"
        with suppress(OSError):  # without a cache the same picture is inverted again
            cache.mkdir(parents=True, exist_ok=True)
        return Studio(
            generator,
            config,
            distance,
            aligner,
            align,
            encoder=encode,
            identity=self.identity,
            models={
                "clip": getattr(getattr(distance, "clip", None), "digest", None),
                "encoder": _digest(encode),
                "identity": _digest(self.identity),
                "aligner": _digest(aligner),
            },
            cache=cache if cache.is_dir() else None,
            on_step=self.on_step,
        )

    def _ancestor(self) -> Generator:
        """The known generator that the job's was adapted from."""
        root = None if self.generator.root is None else self._load(self.generator.root)
        if root is None or root.digest not in self.generator.lineage:
            raise InvertError(
                f"got {self.job.model}, which was adapted from another generator: it does not draw such pictures itself; "
                "expected inversions made with that one: stylograph invert PICTURE --model PARENT -o FILE, then --image FILE"
            )
        return root

    def render(self, groups: Sequence[Latents], generator: Generator | None = None) -> Tensor:
        """Images of any number of latents, by the generator they are bound to or another, on the CPU."""
        import torch

        from stylograph.types import Step

        parts, done, total = [], 0, sum(map(len, groups))
        with torch.no_grad():
            for latents in groups:
                drawing = generator or self.drawing(latents)
                for start in range(0, len(latents), RENDER_BATCH):
                    parts.append(drawing.render(latents[start : start + RENDER_BATCH]).cpu())
                    done += len(parts[-1])
                    if self.on_step:
                        self.on_step(Step("rendering", done, total))
        return torch.cat(parts)

    def provenance(self, **more: Any) -> dict[str, Any]:
        """The job and what it was done with: enough for `rerun`."""
        import torch

        from stylograph import __version__

        models = {"generator": self.generator.digest}
        if "clip" in self.__dict__:
            models["clip"] = self.clip.digest
        versions = {"stylograph": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
        job = {"kind": type(self.job).__name__, **to_record(self.job)}
        if self.job.image:
            more["images"] = [outcome.inversion.source.get("sha256") for outcome in self.outcomes if outcome.inversion]
        return {"job": job, "models": models, "versions": versions, **more}

    def _downloading(self, done: int, total: int | None) -> None:
        from stylograph.types import Step

        if self.on_step:
            self.on_step(Step("downloading", done, total))


def _digest(model: Any) -> str | None:
    """Digest of the weights of an encoder, a recogniser or an aligner, if it has any to look at."""
    from stylograph.weights.tensors import hash_tensors

    network = getattr(model, "network", None)
    return None if network is None else hash_tensors(hashlib.sha256(), network.state_dict())


def pictures_of(job: PictureJob) -> list[Path]:
    """The files of a job's own pictures and inversions, each once. Raises `ImageError` if there are none."""
    from stylograph.images import ENDINGS, files_of
    from stylograph.photos import INVERSION

    found = files_of(job.image, (*ENDINGS, INVERSION))
    return list({os.path.abspath(path): path for path in reversed(found)}.values())[::-1]


RENDER_BATCH = 8
CLIPS: dict[str, tuple[Any, Any]] = {
    "avatars": ("avatars", ["avatars-robust"]),
    "photographs": ("openai/clip-vit-base-patch32", ["openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16"]),
}
"""World -> CLIP models used unless a job names others, for edits and for adaptation."""


def pick_device(name: str) -> str:
    """ "auto" -> the best device this machine has; anything else is checked. Entry points call this once."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in available.items() if present)
    if not available.get(name.split(":")[0], False):
        present = ", ".join(device for device, there in available.items() if there)
        raise StylographError(f"got device {name!r}; this machine has: {present}")
    return name
