"""Jobs: what the command line, the web studio and batches ask for, and the one function that does it.

A job is plain data. The fields' descriptions are the help texts of the command line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from stylograph.edit.base import Edit
    from stylograph.types import OnStep


@dataclass(frozen=True, kw_only=True)
class PictureJob:
    """Which pictures, from which generator, and where to compute."""

    model: str = "avatars"
    """Generator: a name from `stylograph models`, a file, a URL or a hub id."""
    seed: tuple[int, ...] = (1, 2, 3, 4)
    """One picture per seed."""
    truncation: float = 0.7
    """Truncation psi: 1 is the full variety, smaller is nearer to the average picture."""
    label: int | None = None
    """Class of a conditional generator."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the generator's activations."""
    offline: bool = False
    """Never use the network."""


@dataclass(frozen=True, kw_only=True)
class SampleJob(PictureJob):
    """Draw pictures from a generator."""

    seed: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """One picture per seed."""
    columns: int = 8
    """Pictures per row."""


@dataclass(frozen=True)
class EditJob(PictureJob):
    """Edit pictures of a generator by one sentence, with a global direction."""

    target: Positional[str]
    """What the pictures should show, e.g. "a person wearing sunglasses"."""
    neutral: str = "a person"
    """The same sentence without the change."""
    clip: str | None = None
    """CLIP model: a hub id or a folder; by default the avatars' own for avatars, else openai/clip-vit-base-patch32."""
    strength: float | None = None
    """How far to go (alpha); negative does the opposite, 0 nothing. By default what the edit suggests."""
    beta: float | None = None
    """Disentanglement threshold: move only channels of at least this relevance. Larger changes less around it."""
    count: int | None = None
    """Move the so many most relevant channels (instead of beta)."""
    method: Literal["gradient", "finite"] = "gradient"
    """How relevance is found: by back-propagation (seconds), or by the paper's finite differences (minutes and more)."""
    images: int | None = None
    """Pictures the relevance is averaged over; default 24 (gradient) or 100 (finite)."""


@dataclass(frozen=True)
class Result:
    """What a job made: rows of images [N, 3, H, W] with captions, and what is worth saying about it."""

    rows: list[Tensor]
    captions: list[str]
    remarks: list[str] = field(default_factory=list)
    edit: Edit | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def picture(self) -> Image:
        from stylograph.render import sheet

        return sheet(self.rows, captions=self.captions)

    def save(self, path: str | Path) -> Path:
        """Writes the picture; PNG files carry the job in their metadata."""
        from stylograph.render import save_picture

        return save_picture(self.picture(), Path(path), metadata=self.provenance)


def run(job: PictureJob, *, on_step: OnStep | None = None) -> Result:
    """Does a job. Raises `StylographError` subclasses for anything the user can mend."""
    if isinstance(job, EditJob):
        return _edit(job, on_step)
    if isinstance(job, SampleJob):
        return _sample(job, on_step)
    raise TypeError(f"got a {type(job).__name__}; expected EditJob or SampleJob")


def _sample(job: SampleJob, on_step: OnStep | None) -> Result:
    generator = _generator(job, on_step)
    latents = generator.sample(len(job.seed), seed=job.seed, truncation=job.truncation, label=job.label)
    images = _render(generator, latents, on_step)
    rows = list(images.split(max(1, job.columns)))
    return Result(rows, [], provenance=_provenance(job, generator))


def _edit(job: EditJob, on_step: OnStep | None) -> Result:
    from stylograph.edit.directions import DirectionConfig, find_direction
    from stylograph.embed import Clip

    generator = _generator(job, on_step)
    source = job.clip or ("avatars" if job.model == "avatars" else "openai/clip-vit-base-patch32")
    clip = Clip.from_pretrained(source, device=generator.device, offline=job.offline)
    config = DirectionConfig(method=job.method, images=job.images, beta=job.beta, count=job.count)
    edit = find_direction(generator, clip, job.target, neutral=job.neutral, config=config, on_step=on_step)
    if job.strength is not None:
        edit = edit.with_strength(job.strength)
    latents = generator.sample(len(job.seed), seed=job.seed, truncation=job.truncation, label=job.label)
    before, after = (_render(generator, codes, on_step) for codes in (latents, edit(latents)))
    gain = (
        (clip.embed_images(after) - clip.embed_images(before)) @ clip.text_direction(job.target, job.neutral)
    ).mean()
    strongest = ", ".join(f"{c.layer}[{c.index}] {c.delta:+.2f}" for c in edit.channels[:5])
    facts = edit.provenance
    remarks = [
        f"strength {edit.strength:.3g} along {facts['channels']} of {generator.s_dim} channels "
        f"(beta {facts['beta']:.3f}); strongest: {strongest}",
        f"similarity to the text direction rose by {float(gain):+.3f} on average",
    ]
    captions = [job.neutral, f"{job.target}  (strength {edit.strength:.3g}, {facts['channels']} channels)"]
    return Result([before, after], captions, remarks, edit, _provenance(job, generator, clip=clip.name))


def _generator(job: PictureJob, on_step: OnStep | None) -> Any:
    import torch

    from stylograph.errors import StylographError
    from stylograph.generator import Generator
    from stylograph.types import Step

    if not job.seed:
        raise StylographError("got no seeds; give at least one, e.g. --seed 1 2 3 4")

    def downloading(done: int, total: int | None) -> None:
        if on_step:
            on_step(Step("downloading", done, total))

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[job.precision]
    device = pick_device(job.device)
    return Generator.from_pretrained(job.model, device=device, dtype=dtype, offline=job.offline, on_step=downloading)


def pick_device(name: str) -> str:
    """ "auto" -> the best device this machine has; anything else is checked. Entry points call this once."""
    import torch

    from stylograph.errors import StylographError

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in available.items() if present)
    if not available.get(name.split(":")[0], False):
        present = ", ".join(device for device, there in available.items() if there)
        raise StylographError(f"got device {name!r}; this machine has: {present}")
    return name


RENDER_BATCH = 8


def _render(generator: Any, latents: Any, on_step: OnStep | None) -> Tensor:
    import torch

    from stylograph.types import Step

    parts = []
    with torch.no_grad():
        for start in range(0, len(latents), RENDER_BATCH):
            parts.append(generator.render(latents[start : start + RENDER_BATCH]).cpu())
            if on_step:
                on_step(Step("rendering", min(start + RENDER_BATCH, len(latents)), len(latents)))
    return torch.cat(parts)


def _provenance(job: PictureJob, generator: Any, **more: str) -> dict[str, Any]:
    from stylograph import __version__

    return {"stylograph": __version__, "job": type(job).__name__, **asdict(job), "generator": generator.digest, **more}
