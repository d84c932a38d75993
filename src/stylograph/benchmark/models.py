"""The models that take part in a benchmark, of whatever kind they were given as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.benchmark.plugs import PLUG, load_plug
from stylograph.benchmark.rows import digest
from stylograph.errors import StylographError
from stylograph.jobs import EditJob
from stylograph.metrics import Judge
from stylograph.types import OnStep
from stylograph.world import World

if TYPE_CHECKING:
    from stylograph.generator import Generator


@dataclass(frozen=True, eq=False)
class Models:
    """What takes part."""

    generator: Generator
    clip: Any
    judge: Any
    identity: Any
    name: str
    """What the generator was asked for as."""


def load_models(
    generator: Any, clip: Any, judge: Any, identity: Any, device: str, offline: bool, on_step: OnStep | None
) -> Models:
    name = generator if isinstance(generator, str) else "given"
    known = isinstance(clip, str) and not (PLUG.fullmatch(clip) and not Path(clip).exists())
    job = EditJob(
        model=name,
        clip=clip if known else None,
        identity=identity if isinstance(identity, str) else None,
        device=device,
        offline=offline,
    )
    world = World(job, on_step)
    if not isinstance(generator, str):
        world.generator = generator
    if clip is not None and not known:
        world.clip = _plugged(clip, ("embed_images", "embed_text"), "CLIP")
    if identity is not None and not isinstance(identity, str):
        world.identity = identity
    if judge is None:
        if world.generator.root != "avatars":
            raise StylographError(
                f"got {name}, whose world the shipped judge does not know; expected a judge (--judge) and sentences "
                "(--tasks) of that world: see docs/benchmark.md"
            )
        judge = Judge.from_pretrained("avatars", device=world.generator.device)
    elif isinstance(judge, Path) or (isinstance(judge, str) and (not PLUG.fullmatch(judge) or Path(judge).exists())):
        judge = Judge.from_pretrained(judge, device=world.generator.device)
    else:
        judge = _plugged(judge, ("probabilities", "attributes", "hidden"), "judge")
    return Models(world.generator, world.clip, judge, world.identity, name)


def _plugged(given: Any, parts: Sequence[str], what: str) -> Any:
    """The object that is given, or what the function that is given or named returns."""
    model, source = given, None
    if isinstance(given, str):
        model, source = load_plug(given)
    if not all(hasattr(model, part) for part in parts) and callable(model):
        model = model()
    missing = [part for part in parts if not hasattr(model, part)]
    if missing:
        raise StylographError(
            f"got a {type(model).__name__} for the {what}; expected an object with {', '.join(parts)}; it lacks "
            f"{', '.join(missing)}"
        )
    if source is not None and not isinstance(getattr(model, "digest", None), str):
        model.digest = digest(source)
    return model
