"""stylograph: write a sentence, move a StyleGAN.

    from stylograph import Clip, Generator, find_direction

    generator = Generator.from_pretrained("avatars")
    clip = Clip.from_pretrained("avatars")
    edit = find_direction(generator, clip, "a person wearing sunglasses", neutral="a person")
    images = generator.render(edit(generator.sample(4, seed=1)))

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stylograph import errors
from stylograph.errors import StylographError, WeightsError

if TYPE_CHECKING:
    from stylograph.edit.base import Edit, load_edit
    from stylograph.edit.directions import DirectionConfig, find_direction
    from stylograph.embed import Clip
    from stylograph.generator import Generator
    from stylograph.pipeline import EditJob, SampleJob, run
    from stylograph.types import Latents, Step

__version__ = "0.1.0"
__all__ = [
    "Clip",
    "DirectionConfig",
    "Edit",
    "EditJob",
    "Generator",
    "Latents",
    "SampleJob",
    "Step",
    "StylographError",
    "WeightsError",
    "errors",
    "find_direction",
    "load_edit",
    "run",
]

_HOME = {
    "Clip": "embed",
    "DirectionConfig": "edit.directions",
    "Edit": "edit.base",
    "EditJob": "pipeline",
    "Generator": "generator",
    "Latents": "types",
    "SampleJob": "pipeline",
    "Step": "types",
    "find_direction": "edit.directions",
    "load_edit": "edit.base",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
