"""What an adaptation will take, before it is begun: one step of it is really made, and what it keeps is counted."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stylograph.edit.base import Recogniser
from stylograph.generator import Generator
from stylograph.nada.adapt import prepare
from stylograph.nada.config import AdaptConfig
from stylograph.nada.target import Target
from stylograph.nada.training import Run, losses
from stylograph.nada.twins import Twins, convolutions


@dataclass(frozen=True)
class Estimate:
    """What an adaptation trains, and what it takes on this machine."""

    settings: AdaptConfig
    """With the preset's values filled in."""
    layers: tuple[str, ...]
    """Names of the convolutions that may train."""
    parameters: int
    """Numbers that may train."""
    step_seconds: float
    """One step, adaptive choice of layers not counted."""
    choice_seconds: float
    """One adaptive choice, 0 if there is none."""
    seconds: float
    """All of it, if it uses up its steps."""
    bytes: int
    """Memory for weights, states and activations; what a process needs for itself comes on top."""

    def describe(self) -> str:
        """The plan for people, a line each."""
        given = {k: v for k, v in vars(self.settings).items() if v not in ((), False)}
        choice = f"; a choice of layers {self.choice_seconds:.2g} s" if self.choice_seconds else ""
        return "\n".join(
            [
                f"trains      {self.parameters:,} numbers in {len(self.layers)} convolutions: {', '.join(self.layers)}",
                f"settings    {', '.join(f'{key} {value}' for key, value in given.items())}",
                f"time        about {_clock(self.seconds)} if it uses all {self.settings.steps} steps "
                f"({self.step_seconds:.2g} s a step{choice})",
                f"memory      about {self.bytes / 1e9:.2g} GB beside the process itself",
            ]
        )


def estimate(
    generator: Generator, target: Target, config: AdaptConfig, *, identity: Recogniser | None = None
) -> Estimate:
    """Measures one look at a picture, one step and one choice of layers; trains nothing."""
    settings = config.filled(len(convolutions(generator, config.layers)))
    small = replace(settings, pool=settings.batch, held_out=2, steps=2)
    began = time.perf_counter()
    run = prepare(generator, target, small, identity)
    look = (time.perf_counter() - began) / (small.pool + small.held_out)
    kept = _kept(lambda: losses(run.twins, torch.arange(run.twins.chunk), seed=0)["loss"])
    run.descend()
    began = time.perf_counter()
    run.descend()
    step, choice = time.perf_counter() - began, 0.0
    if settings.top_k:
        began = time.perf_counter()
        run.step = 0
        run.choose_layers()
        choice = time.perf_counter() - began
    assert settings.steps is not None
    looks = settings.steps // settings.check_every + 1
    total = look * (settings.pool + settings.held_out * (1 + looks)) + settings.steps * step
    total += choice * (settings.steps // settings.select_every + 1)
    trained = sum(parameter.numel() for parameter in run.twins.parameters.values())
    weights = _pictures(run, settings) + sum(t.numel() * t.element_size() for t in _tensors(run.twins))
    # Child, average, best, Adam's second moment, gradient: five copies of what trains, in single precision.
    return Estimate(
        settings=settings,
        layers=tuple(layer.name for layer in run.twins.layers),
        parameters=trained,
        step_seconds=step,
        choice_seconds=choice,
        seconds=total,
        bytes=weights + 5 * 4 * trained + kept,
    )


def _kept(loss: Any) -> int:
    """Bytes of the activations that the backward pass of `loss()` needs."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss()
    del value
    return sum(found.values())


def _pictures(run: Run, settings: AdaptConfig) -> int:
    """Bytes of the parent's pictures that are kept for crops."""
    kept = run.twins.pictures
    return 0 if kept is None else kept[0].nbytes * settings.pool


def _tensors(twins: Twins) -> list[Tensor]:
    models = [twins.parent.net, *(tower.model for tower in twins.target.clip.towers)]
    models += [net for net in [getattr(twins.identity, "network", None)] if isinstance(net, nn.Module)]
    return [t for module in models for t in (*module.parameters(), *module.buffers())]


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
