"""The training of a latent mapper: its settings, its losses, its loop, and the checkpoint it can go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.edit.base import Recogniser
from stylograph.edit.config import MapperTraining
from stylograph.embed import Clip
from stylograph.errors import EditError, one_of
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator
from stylograph.losses import direction
from stylograph.nets.mapper import LatentMapper, MapperConfig
from stylograph.resuming import SAVE_SECONDS, batch_rows, optimizer_state, pack, pack_optimizer, unpack
from stylograph.types import Latents, OnStep, Step

CLIP_LOSSES = ("directional", "similarity")
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}


# ---------------------------------------------------------------- losses


class Objective:
    """The loss of a mapper on rows of a pool of codes; what does not depend on the mapper is computed once."""

    def __init__(
        self,
        generator: Generator,
        clip: Clip,
        identity: Recogniser | None,
        settings: MapperTraining,
        wanted: Tensor,
        codes: Tensor,
    ) -> None:
        self.generator, self.clip, self.identity, self.settings = generator, clip, identity, settings
        self.codes = codes
        self.wanted = wanted.to(codes)
        self.sources, self.faces = self._look_at_pool()

    @torch.no_grad()
    def _look_at_pool(self) -> tuple[Tensor | None, Tensor | None]:
        directional = self.settings.clip_loss == "directional"
        if not directional and self.identity is None:
            return None, None
        sources, faces = [], []
        for start in range(0, len(self.codes), self.settings.batch):
            image = self._render(self.codes[start : start + self.settings.batch])
            if directional:
                sources.append(self._see(image))
            if self.identity is not None:
                faces.append(self.identity.embed(image))
        return (torch.cat(sources) if sources else None), (torch.cat(faces) if faces else None)

    def _render(self, codes: Tensor) -> Tensor:
        up_to = min(self.settings.up_to, self.generator.resolution)
        return self.generator.render(Latents(self.settings.space, codes, self.generator), up_to=up_to)

    def _see(self, image: Tensor) -> Tensor:
        return self.clip.embed_images(image).to(self.codes.device)

    def __call__(self, net: LatentMapper, rows: Tensor) -> dict[str, Tensor]:
        """The "loss" and its unweighted parts, each a mean over the rows [B] of the pool."""
        change = net.residual(self.codes[rows])
        if self.settings.space == "s":
            size = torch.stack([change[:, g.start : g.stop].square().mean() for g in net.config.groups]).sum()
        else:
            size = change.square().mean()
        if not bool(torch.isfinite(size.detach())):
            return {"loss": size, "l2": size}
        image = self._render(self.codes[rows] + change)
        seen = self._see(image)
        if self.sources is not None:
            seen = direction(seen, self.sources[rows])
        parts = {"clip": (1 - seen @ self.wanted).mean(), "l2": size}
        loss = self.settings.lambda_clip * parts["clip"] + (self.settings.lambda_l2 or 0.0) * size
        if self.identity is not None and self.faces is not None:
            parts["identity"] = (1 - (self.identity.embed(image) * self.faces[rows]).sum(-1)).mean()
            loss = loss + self.settings.lambda_id * parts["identity"]
        return {"loss": loss, **parts}


# ---------------------------------------------------------------- training


class Run:
    """All that changes during a training, and its file."""

    def __init__(self, shape: MapperConfig, settings: MapperTraining, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.net = LatentMapper(shape).to(device)
        networks = [(module, next(module.parameters()).shape[-1]) for module in self.net.children()]
        groups = [{"params": module.parameters(), "lr": settings.lr * math.sqrt(512 / n)} for module, n in networks]
        self.optimizer = OPTIMIZERS[settings.optimizer](groups, weight_decay=0.0)  # type: ignore[call-arg]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.stale = 0
        self.best = self._copy()
        self.best_values: dict[str, float] = {}

    def finished(self, settings: MapperTraining) -> bool:
        return self.step >= settings.steps or self.stale >= settings.patience

    def descend(self, loss: Tensor, settings: MapperTraining) -> None:
        """One step of the optimiser."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * self.step / settings.steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1

    def judge(self, values: dict[str, float]) -> None:
        """Keeps the mapper if it is the best so far."""
        if not self.best_values or values["loss"] < self.best_values["loss"]:
            self.best, self.best_values, self.stale = self._copy(), values, 0
        else:
            self.stale += 1

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}

    def save(self, path: Path, task: Mapping[str, Any], wanted: Tensor) -> None:
        tensors = pack("net", self.net.state_dict()) | pack("best", self.best) | pack_optimizer(self.optimizer)
        record = {"task": task, "step": self.step, "stale": self.stale, "best_values": self.best_values}
        save_tensors(path, {**tensors, "wanted": wanted}, "mapper training", record)

    def load(self, path: Path, task: Mapping[str, Any], wanted: Tensor) -> None:
        """Goes on where a file of the same training stopped; `EditError` if it is of another one."""
        again = "go on with what it was made with, or give this training another path"
        tensors, record = load_tensors(path, "mapper training")
        theirs = record.get("task")
        theirs = theirs if isinstance(theirs, dict) else {}
        other = [key for key, value in task.items() if key != "settings" and theirs.get(key) != value]
        settings = theirs.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        other += [key for key, value in task["settings"].items() if settings.get(key) != value]
        if other:
            raise EditError(
                f"{path}: got the checkpoint of another training, which differs in {', '.join(other)}; expected one of "
                f"the same; {again}"
            )

        try:
            self.net.load_state_dict(unpack(tensors, "best"))
            self.best = self._copy()
            self.net.load_state_dict(unpack(tensors, "net"))
            self.step, self.stale = int(record["step"]), int(record["stale"])
            self.best_values = {str(k): float(v) for k, v in record["best_values"].items()}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": optimizer_state(tensors)})
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
                raise ValueError("it has NaN or infinite values")
            same_clip = torch.allclose(tensors["wanted"], wanted.cpu(), atol=1e-3)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise EditError(f"{path}: got a damaged checkpoint ({error}); delete it and train again") from None
        if not same_clip:
            raise EditError(f"{path}: got a checkpoint made with another CLIP of the name {task['clip']!r}; {again}")


@torch.enable_grad()
def train(
    run: Run,
    objective: Objective,
    train: int,
    settings: MapperTraining,
    on_step: OnStep | None,
    file: tuple[Path, Mapping[str, Any], Tensor] | None,
) -> None:
    """Trains on rows 0...train-1 of the pool, and looks at the others."""
    saved = time.monotonic()
    if file:
        run.save(*file)  # so that a path nothing can be written to is found out now
    while not run.finished(settings):
        rows = batch_rows(train, settings.batch, seed=settings.seed, step=run.step)
        terms = objective(run.net, rows)
        values = _numbers(terms, run.step, settings)
        run.descend(terms["loss"], settings)
        if run.step % settings.check_every == 0 or run.step == settings.steps:
            found = _held_out(run, objective, train, settings)
            run.judge(found)
            values["held_out"] = found["loss"]
            values |= {f"held_out_{name}": value for name, value in found.items() if name != "loss"}
        if file and ("held_out" in values or time.monotonic() - saved > SAVE_SECONDS):
            run.save(*file)
            saved = time.monotonic()
        if on_step:
            on_step(Step("training the mapper", run.step, settings.steps, values))


@torch.no_grad()
def _held_out(run: Run, objective: Objective, train: int, settings: MapperTraining) -> dict[str, float]:
    """Mean losses over the held-out rows."""
    count = len(objective.codes) - train
    total: dict[str, float] = {}
    for rows in torch.arange(train, train + count).split(settings.batch):
        for name, value in _numbers(objective(run.net, rows), run.step, settings).items():
            total[name] = total.get(name, 0.0) + value * len(rows) / count
    return total


def _numbers(terms: Mapping[str, Tensor], step: int, settings: MapperTraining) -> dict[str, float]:
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not all(abs(value) < float("inf") for value in values.values()):
        raise EditError(
            f"got a loss of {values['loss']} at step {step}; expected a number; take a smaller lr than {settings.lr}, "
            "or train on latents closer to the mean"
        )
    return values


def validate(settings: MapperTraining) -> None:
    for value, known, what in (
        (settings.space, ("w+", "s"), "mapper space"),
        (settings.clip_loss, CLIP_LOSSES, "clip_loss"),
        (settings.optimizer, OPTIMIZERS, "optimizer"),
    ):
        if value not in known:
            raise EditError(one_of(str(value), known, what))
    if settings.space == "s" and settings.single:
        raise EditError("got single=True for a mapper in S; expected single=False: its layers differ in width")
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.type == "int" and field.name != "seed" and value < 1:
            raise EditError(f"got {field.name}={value}; expected at least 1")
        if field.type in ("float", "float | None") and not 0 <= value < float("inf"):
            raise EditError(f"got {field.name}={value}; expected a number from 0 up")
    if not settings.lr or not settings.lambda_clip:
        raise EditError(f"got lr={settings.lr} and lambda_clip={settings.lambda_clip}; expected both above 0")
    if settings.seed < 0:
        raise EditError(f"got seed={settings.seed}; expected a whole number from 0 up")
