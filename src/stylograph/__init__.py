"""stylograph: write a sentence, move a StyleGAN.

    from stylograph import Clip, Generator, find_direction

    generator = Generator.from_pretrained("avatars")
    clip = Clip.from_pretrained("avatars")
    edit = find_direction(generator, clip, "a person wearing sunglasses", neutral="a person")
    images = generator.render(edit(generator.sample(4, seed=1)))

`optimize` and `train_mapper` are the other two ways to an edit, `find_strength` says how far to go with it;
`adapt` moves the generator itself to another domain, `invert` finds the codes of pictures of your own, `bench` says how well
all of it works.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stylograph import errors
from stylograph.errors import StylographError, WeightsError

if TYPE_CHECKING:
    from stylograph.benchmark.run import bench
    from stylograph.edit.base import Edit, load_edit
    from stylograph.edit.config import DirectionConfig, MapperTraining, OptimizeConfig, StrengthConfig
    from stylograph.edit.directions import find_direction
    from stylograph.edit.mapper import load_mapper, train_mapper
    from stylograph.edit.optimize import optimize
    from stylograph.edit.strength import find_strength
    from stylograph.embed import Clip
    from stylograph.encoder import Encoder
    from stylograph.generator import Generator
    from stylograph.identity import Identity
    from stylograph.inversion.config import InvertConfig
    from stylograph.inversion.inversion import Inversion
    from stylograph.inversion.invert import invert
    from stylograph.jobs import AdaptJob, BlendJob, EditJob, GridJob, ImagineJob, InvertJob, SampleJob, SweepJob
    from stylograph.nada.adapt import adapt
    from stylograph.nada.blend import blend
    from stylograph.nada.config import AdaptConfig
    from stylograph.pipeline import rerun, run
    from stylograph.types import Latents, Step

__version__ = "0.1.0"
__all__ = [
    "AdaptConfig",
    "AdaptJob",
    "BlendJob",
    "Clip",
    "DirectionConfig",
    "Edit",
    "EditJob",
    "Encoder",
    "Generator",
    "GridJob",
    "Identity",
    "ImagineJob",
    "Inversion",
    "InvertConfig",
    "InvertJob",
    "Latents",
    "MapperTraining",
    "OptimizeConfig",
    "SampleJob",
    "Step",
    "StrengthConfig",
    "StylographError",
    "SweepJob",
    "WeightsError",
    "adapt",
    "bench",
    "blend",
    "errors",
    "find_direction",
    "find_strength",
    "invert",
    "load_edit",
    "load_mapper",
    "optimize",
    "rerun",
    "run",
    "train_mapper",
]

_HOME = {
    "AdaptConfig": "nada.config",
    "AdaptJob": "jobs",
    "BlendJob": "jobs",
    "Clip": "embed",
    "DirectionConfig": "edit.config",
    "Edit": "edit.base",
    "EditJob": "jobs",
    "Encoder": "encoder",
    "Generator": "generator",
    "GridJob": "jobs",
    "Identity": "identity",
    "ImagineJob": "jobs",
    "Inversion": "inversion.inversion",
    "InvertConfig": "inversion.config",
    "InvertJob": "jobs",
    "Latents": "types",
    "MapperTraining": "edit.config",
    "OptimizeConfig": "edit.config",
    "SampleJob": "jobs",
    "Step": "types",
    "StrengthConfig": "edit.config",
    "SweepJob": "jobs",
    "adapt": "nada.adapt",
    "bench": "benchmark.run",
    "blend": "nada.blend",
    "find_direction": "edit.directions",
    "find_strength": "edit.strength",
    "invert": "inversion.invert",
    "load_edit": "edit.base",
    "load_mapper": "edit.mapper",
    "optimize": "edit.optimize",
    "rerun": "pipeline",
    "run": "pipeline",
    "train_mapper": "edit.mapper",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
