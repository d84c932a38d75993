"""Latent mapper (StyleCLIP, section 5): train once per sentence, then edit any image in milliseconds.

A mapper reads an image's latent code and predicts the change that makes the image fit the sentence. Coarse, medium and
fine layers have a network each. Departures from the reference code: vectors are normalised over their entries (there:
over the layers), the CLIP loss is directional (there: plain distance; `MapperTraining.clip_loss`), the optimiser is one
of torch's, on a pool of a few hundred images that are embedded once, and the mapper that does best on images held out
is the result. Against the plain distance the directional loss halves what else changes on the avatars (5 to 14 % of a
judge's other decisions, not 15 to 29 %), and reaches the target in 82 to 98 % of the pictures, not 96 to 99 %:
`benchmarks.mapper`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.edit.base import Edit, Mapped, Recogniser
from stylograph.edit.config import MapperTraining
from stylograph.edit.mapper_training import Objective, Run, train, validate
from stylograph.embed import Clip
from stylograph.errors import EditError, LatentsError, WeightsError, one_of
from stylograph.generator import Generator
from stylograph.nets.mapper import Group, LatentMapper, MapperConfig, module_name
from stylograph.nets.stylegan2 import Layer
from stylograph.types import Latents, OnStep
from stylograph.weights.styleclip import read_mapper

SMALL = 128
"""Up to this side a generator counts as small (`MapperTraining.lambda_l2`)."""
LEVELS = ("coarse", "medium", "fine")


def train_mapper(
    generator: Generator,
    clip: Clip,
    target: str | Tensor,
    *,
    neutral: str | Sequence[str] = "a person",
    config: MapperTraining | None = None,
    latents: Latents | None = None,
    identity: Recogniser | None = None,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Edit:
    """A latent mapper for one sentence, as an `Edit` (of the mapper that did best on held-out images).

    target, neutral: what pictures should show, and the same sentence without the change (or several such sentences,
        whose mean counts); the loss "similarity" has no use for the latter. Instead of a sentence, a vector [D] of CLIP's
        space will do: the direction, or for "similarity" the place to go to.
    latents: codes of images to train on, W or W+ (any space for a mapper in S); sampled when left out.
    identity: a face recogniser for the identity loss.
    path: checkpoint. It is written on the way and, if it is already there, training goes on from it to the same result
        as if it had never stopped.
    on_step: `Step.values` has "loss" and its parts, and at every look "held_out".
    Raises `PromptError` for sentences no direction comes from, `EditError` for settings that make no sense, for a
    checkpoint of another training, and when the loss stops being a number.
    """
    settings = config or MapperTraining()
    if settings.lambda_l2 is None:
        settings = replace(settings, lambda_l2=0.02 if generator.resolution <= SMALL else 0.8)
    validate(settings)
    shape = mapper_shape(generator, settings)
    directional = settings.clip_loss == "directional"
    if isinstance(target, Tensor):
        wanted, target, directional = target, f"vector {_digest(target)[:16]}", False
    else:
        wanted = clip.text_direction(target, neutral) if directional else clip.embed_text(target)[0]
    codes, held_out = _codes(generator, settings, latents)
    task = {
        "target": target,
        "neutral": None if not directional else neutral if isinstance(neutral, str) else list(neutral),
        "clip": clip.name,
        "generator": generator.digest,
        "identity": None if identity is None else str(getattr(identity, "name", type(identity).__name__)),
        "latents": None if latents is None else _digest(latents.tensor),
        "settings": {key: list(v) if isinstance(v, tuple) else v for key, v in vars(settings).items()},
    }
    run = Run(shape, settings, generator.device)
    if path is not None and Path(path).exists():
        run.load(Path(path), task, wanted)
    if not run.finished(settings):
        objective = Objective(generator, clip, identity, settings, wanted, codes)
        train(run, objective, len(codes) - held_out, settings, on_step, (Path(path), task, wanted) if path else None)
    provenance = {"method": "latent mapper", **{key: value for key, value in task.items() if value is not None}}
    del provenance["generator"]
    return _edit(generator, shape, run.best, {**provenance, "held_out": run.best_values, "steps": run.step})


def load_mapper(path: str | Path, generator: Generator) -> Edit:
    """A mapper checkpoint as StyleCLIP publishes them (.pt with one network per level, a single one, or in S).

    generator: the one it was trained on, for the faces FFHQ at 1024 pixels; the file does not say which, so only the
        sizes can be checked.
    Raises `WeightsError` for another file, and for a mapper of another size. No code in the file is ever executed.
    """
    found = read_mapper(path)
    if found.resolution != generator.resolution:
        raise WeightsError(
            f"{path}: got a mapper for {found.resolution} pixels, {2 * found.resolution.bit_length() - 4} W+ vectors; "
            f"expected one for this generator: {generator.resolution} pixels, {generator.num_ws} W+ vectors"
        )
    if found.kind == "s":
        by_number = {str(i): layer for i, layer in enumerate(generator.layers) if not layer.to_rgb}
        if by_number.keys() != found.networks.keys():
            raise WeightsError(
                f"{path}: got a mapper for {len(found.networks)} style vectors; expected one for this generator's "
                f"{len(by_number)} (all but those of ToRGB)"
            )
        spans = [(i, Group(la.name, la.s_slice.start, la.s_slice.stop)) for i, la in by_number.items()]
        shape = MapperConfig("s", tuple(group for _, group in spans), generator.s_dim, depth=found.depth)
    else:
        edges = {"coarse": (0, 4), "medium": (4, 8), "fine": (8, generator.num_ws), "single": (0, generator.num_ws)}
        spans = [(name, Group(name, *edge)) for name, edge in edges.items() if name in found.networks]
        groups = tuple(group for _, group in spans)
        shape = MapperConfig("w+", groups, generator.num_ws, generator.w_dim, found.depth, norm="layers")
    tensors = {f"{module_name(g)}.{key}": t for name, g in spans for key, t in found.networks[name].items()}
    try:
        provenance = {"method": "latent mapper (StyleCLIP)", "file": Path(path).name, "target": found.description}
        return _edit(generator, shape, tensors, provenance)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(f"{path}: got a mapper whose layers do not fit this generator's: {detail}") from None


def _edit(
    generator: Generator, shape: MapperConfig, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> Mapped:
    net = LatentMapper(shape)
    net.load_state_dict(tensors)
    return Mapped(
        net=net.to(generator.device).eval().requires_grad_(False),
        layers=generator.layer_widths,
        generator_digest=generator.digest,
        provenance=provenance,
        generator=generator,
    )


# ---------------------------------------------------------------- shape


def level(generator: Generator, layer: Layer) -> str:
    """The level of a layer: by the lowest resolution among the layers its W+ vector drives, up to 8
    ("coarse"), up to 32 ("medium"), above ("fine"). At 1024 that is the paper's split of W+, 0...3, 4...7 and 8...17."""
    lowest = min(other.resolution for other in generator.layers if other.w_index == layer.w_index)
    return LEVELS[0 if lowest <= 8 else 1 if lowest <= 32 else 2]


def mapper_shape(generator: Generator, settings: MapperTraining) -> MapperConfig:
    """The network such a training has on this generator. Raises `EditError` for levels it does not have."""
    of_layer = {layer.name: level(generator, layer) for layer in generator.layers}
    there = [name for name in LEVELS if name in of_layer.values()]
    chosen = there if settings.levels is None else list(settings.levels)
    if not chosen:
        raise EditError(f"got no levels, so nothing could change; expected one or more of: {', '.join(there)}")
    for name in chosen:
        if name not in there:
            raise EditError(one_of(str(name), there, f"level (of a generator of {generator.resolution} pixels)"))
    if settings.space == "s":
        driven = [la for la in generator.layers if not la.to_rgb and of_layer[la.name] in chosen]
        groups = [Group(la.name, la.s_slice.start, la.s_slice.stop) for la in driven]
        return MapperConfig("s", tuple(groups), generator.s_dim)
    vectors = {name: [la.w_index for la in generator.layers if of_layer[la.name] == name] for name in there}
    groups = [Group(name, min(vectors[name]), max(vectors[name]) + 1) for name in there if name in chosen]
    if settings.single:
        if any(a.stop != b.start for a, b in pairwise(groups)):
            raise EditError(f"got levels {chosen} for a single network; expected neighbours, or single=False")
        groups = [Group("single", groups[0].start, groups[-1].stop)]
    return MapperConfig("w+", tuple(groups), generator.num_ws, generator.w_dim)


def _codes(generator: Generator, settings: MapperTraining, latents: Latents | None) -> tuple[Tensor, int]:
    """Codes in the mapper's space, W+ [N, num_ws, w_dim] or S [N, s_dim], and how many at their end are held out."""
    if latents is None:
        count = settings.images + settings.held_out
        first = (settings.seed + 1) * 1_000_003 % 2**31  # far from the small seeds people look at
        latents, held_out = generator.sample(count, seed=first, truncation=settings.truncation), settings.held_out
    else:
        held_out = min(settings.held_out, max(1, len(latents) // 5))
        if len(latents) < 2:
            raise LatentsError("got one latent to train a mapper on; expected at least two: one is held out")
    codes = generator.styles(latents) if settings.space == "s" else generator.w_plus(latents)
    return codes.tensor.detach().to(generator.device, torch.float32), held_out


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
