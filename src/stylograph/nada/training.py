"""The training of a child: adaptive choice of layers, steps, looks at held-out latents, and the checkpoint to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.errors import AdaptError
from stylograph.files import load_tensors, save_tensors
from stylograph.images import resize
from stylograph.nada.config import AdaptConfig
from stylograph.nada.target import Target
from stylograph.nada.twins import Twins
from stylograph.resuming import SAVE_SECONDS, batch_rows, optimizer_state, pack, pack_optimizer, unpack
from stylograph.types import OnStep, Step

BETAS = (0.0, 0.99**0.8)
"""Of Adam, as in the reference code: StyleGAN2's, for a generator that is regularised every fourth step."""
SELECTION_LR = 0.01
PREVIEWS = 8
THUMBNAIL = 8
"""Side to which pictures are reduced to see how much they differ. CLIP would not do: the pictures of another domain are
one crowd to it, however they differ."""


class Run:
    """All that changes during a training, and its file."""

    def __init__(self, twins: Twins, config: AdaptConfig) -> None:
        self.twins, self.config = twins, config
        assert config.lr is not None
        groups = [
            {
                "params": [parameter],
                "lr": config.lr * (math.sqrt(512 / parameter.shape[1]) if parameter.ndim == 4 else 1.0),
            }
            for parameter in twins.parameters.values()
        ]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS, foreach=False)
        self.step = 0
        self.stale = 0
        self.chosen: list[str] = [layer.name for layer in twins.layers]
        self.average = self.weights()
        self.best = self.weights()
        self.looks: list[dict[str, float]] = []
        """What every look at the held-out latents found; the first is the parent itself."""
        self.spread = 0.0
        """Mean distance between the parent's pictures of the held-out latents, reduced to a few pixels."""
        self.ended = ""
        """Why the training is over, or nothing."""

    def weights(self) -> dict[str, Tensor]:
        """A copy of all that may train."""
        return {name: parameter.detach().clone() for name, parameter in self.twins.parameters.items()}

    # ---------------------------------------------------------------- one step

    def choose_layers(self) -> None:
        """Lets those convolutions train whose latent codes move most (paper, section 4.2)."""
        config, twins = self.config, self.twins
        if config.top_k and self.step % config.select_every == 0:
            found = movement(twins, seed=config.seed * 1_000_003 + self.step)
            order = sorted(twins.layers, key=lambda layer: -float(found[layer.w_index]))
            self.chosen = [layer.name for layer in order[: config.top_k]]
        names = set(self.chosen)
        twins.let_train([layer for layer in twins.layers if layer.name in names])

    def descend(self) -> dict[str, float]:
        """One step of the optimiser, picture by picture if memory is short; returns the losses."""
        config, twins = self.config, self.twins
        rows = batch_rows(config.pool, config.batch, seed=config.seed, step=self.step)
        total: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for i, part in enumerate(rows.split(twins.chunk)):
            seed = (config.seed * 1_000_003 + self.step) * config.batch + i
            terms = losses(twins, part, seed=seed)
            share = len(part) / len(rows)
            for name, value in terms.items():
                total[name] = total.get(name, 0.0) + share * float(value.detach())
            (share * terms["loss"]).backward()
        slopes = [parameter.grad for parameter in twins.active.values() if parameter.grad is not None]
        if not all(bool(torch.isfinite(t).all()) for t in slopes) or not abs(total["loss"]) < float("inf"):
            raise Astray(f"the loss or its gradient is no longer a number at step {self.step}")
        self.optimizer.step()
        self.step += 1
        for name, parameter in twins.parameters.items():
            self.average[name].lerp_(parameter.detach(), 1 - config.ema)
        return total

    # ---------------------------------------------------------------- looks

    @property
    def best_look(self) -> dict[str, float]:
        """What was found about the best child."""
        return max(self.looks, key=lambda look: look["score"])

    @torch.no_grad()
    def look(self) -> tuple[dict[str, float], Tensor]:
        """Judges the averaged child on the held-out latents, keeps it if it is the best; also returns a few pictures."""
        config, twins = self.config, self.twins
        current = self.weights()
        self._put(self.average)
        rows = torch.arange(config.pool, config.pool + config.held_out)
        pictures, seen, small, alike = [], [], [], []
        for part in rows.split(twins.chunk):
            images = twins.child_pictures(part, seed=int(part[0]))
            seen.append(twins.embed(twins.shown(images)))
            small.append(resize(images, THUMBNAIL).flatten(1))
            if twins.people is not None:
                alike.append(twins.likeness(images, part))
            pictures.append(images[: max(0, PREVIEWS - int(part[0]) + config.pool)].cpu())
        self._put(current)
        new, old = torch.cat(seen), twins.old[rows]
        spread = float(torch.pdist(torch.cat(small)).mean())
        self.spread = self.spread or spread
        found = {
            "step": float(self.step),
            "gain": float(twins.target.gain(new, old).mean()),
            "similarity": float(1 - twins.target.distance(new).mean()),
            "diversity": spread / max(self.spread, 1e-8),
        }
        found["score"] = found["gain"] * found["diversity"] ** config.thrift
        if alike:
            found["identity"] = float(torch.cat(alike).mean())
        if not all(abs(value) < float("inf") for value in found.values()):
            raise Astray(f"the averaged child's pictures are no longer numbers at step {self.step}")
        if not self.looks or found["score"] > max(look["score"] for look in self.looks):
            self.best, self.stale = {name: t.clone() for name, t in self.average.items()}, 0
        else:
            self.stale += 1
        self.looks.append(found)
        return found, torch.cat(pictures)

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.twins.parameters.items():
                parameter.copy_(weights[name])

    # ---------------------------------------------------------------- files

    def save(self, path: Path, task: Mapping[str, Any]) -> None:
        tensors = pack("child", self.weights()) | pack("average", self.average) | pack("best", self.best)
        tensors |= pack_optimizer(self.optimizer) | pack("target", self.twins.target.tensors())
        record = {"task": task, "step": self.step, "stale": self.stale, "chosen": self.chosen}
        record |= {"looks": self.looks, "spread": self.spread}
        save_tensors(path, tensors, "adaptation", record)

    def load(self, path: Path, task: Mapping[str, Any]) -> None:
        """Goes on where a file of the same training stopped; `AdaptError` if it is of another one."""
        tensors, record = load_tensors(path, "adaptation")
        theirs = record.get("task")
        theirs = theirs if isinstance(theirs, dict) else {}
        if "lambda_identity" not in task and "identity" in task:
            theirs.setdefault("identity", task["identity"])  # nobody was recognised until now, which changes no weight
        try:
            if theirs != task:
                other = sorted(key for key in task.keys() | theirs.keys() if theirs.get(key) != task.get(key))
                raise _Another(", ".join(other))
            self._restore(tensors, record)
        except _Another as error:
            raise AdaptError(
                f"{path}: got the checkpoint of another adaptation, which differs in {error}; expected one of the same: "
                "delete it, or write to another file"
            ) from None
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AdaptError(f"{path}: got a damaged checkpoint ({error}); delete it and adapt again") from None

    def _restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("it has NaN or infinite values")
        aimed = unpack(tensors, "target")
        for name, tensor in self.twins.target.tensors().items():
            if aimed[name].shape != tensor.shape or not torch.allclose(aimed[name], tensor.cpu(), atol=1e-3):
                raise _Another(f"the {name} of its target")
        for name in ("child", "average", "best"):
            shapes = {k: t.shape for k, t in unpack(tensors, name).items()}
            if shapes != {k: p.shape for k, p in self.twins.parameters.items()}:
                raise ValueError(f"its tensors {name!r} do not fit")
        state = optimizer_state(tensors)
        parameters = list(self.twins.parameters.values())
        for place, moments in state.items():
            if moments["step"].ndim or any(
                moments[n].shape != parameters[place].shape for n in ("exp_avg", "exp_avg_sq")
            ):
                raise ValueError("its optimiser does not fit")
        chosen = [str(name) for name in record["chosen"]]
        if not chosen or not set(chosen) <= {layer.name for layer in self.twins.layers}:
            raise ValueError("it trains layers this generator does not have")
        self.step, self.stale, self.spread = int(record["step"]), int(record["stale"]), float(record["spread"])
        if self.step and not state:
            raise ValueError("its optimiser is missing")
        self.looks = [{str(k): float(v) for k, v in look.items()} for look in record["looks"]]
        self._put(unpack(tensors, "child"))
        device = self.twins.parent.device
        for own, name in ((self.average, "average"), (self.best, "best")):
            own |= {key: tensor.to(device) for key, tensor in unpack(tensors, name).items()}
        self.chosen = chosen
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


class _Another(Exception):
    """A checkpoint belongs to another training; the message says what differs."""


class Astray(Exception):
    """The training cannot go on: its numbers are no numbers any more."""


@torch.enable_grad()
def train(run: Run, on_step: OnStep | None, file: tuple[Path, Mapping[str, Any]] | None) -> None:
    """Trains until the steps are used up or it no longer pays; `run.best` holds the result.

    Raises `AdaptError` if it goes astray before anything better than the parent was found.
    """
    config = run.config
    assert config.steps is not None
    if file and not run.looks:
        run.save(*file)  # so that a path nothing can be written to is found out now
    saved = time.monotonic()
    while not (run.step >= config.steps or run.stale >= config.patience):
        try:
            if not run.looks:
                run.look()
            run.choose_layers()
            values, images = run.descend(), None
            if run.step % config.check_every == 0 or run.step == config.steps:
                found, images = run.look()
                values |= {name: value for name, value in found.items() if name != "step"}
        except Astray as error:
            if not run.looks or run.best_look["step"] == 0:
                raise AdaptError(
                    f"got a training in which {error}; expected numbers; take a smaller lr than {config.lr}, or "
                    "--precision fp32"
                ) from None
            run.ended = str(error)
            return
        if file and (images is not None or time.monotonic() - saved > SAVE_SECONDS):
            run.save(*file)
            saved = time.monotonic()
        if on_step:
            on_step(Step("adapting", run.step, config.steps, values, images))
    if run.best_look["step"] == 0:
        run.ended = "nothing better than the parent was found"
        return
    run.ended = "all steps done" if run.step >= config.steps else "no better result for a while"


def losses(twins: Twins, rows: Tensor, *, seed: int) -> dict[str, Tensor]:
    """The "loss" and its unweighted parts, each a mean over rows of the pool."""
    config, target = twins.config, twins.target
    child = twins.child_pictures(rows, seed=seed)
    new, old = twins.see(child, rows, seed=seed)
    assert config.lambda_global is not None
    parts = {"direction": target.directional(new, old).mean(), "global": target.distance(new).mean()}
    loss = config.lambda_direction * parts["direction"] + config.lambda_global * parts["global"]
    if config.lambda_identity:
        parts["identity_loss"] = 1 - twins.likeness(child, rows).mean()
        loss = loss + config.lambda_identity * parts["identity_loss"]
    return {"loss": loss, **parts}


def movement(twins: Twins, *, seed: int) -> Tensor:
    """How far the codes of every W+ vector move when they descend the global CLIP loss of the child as it is, [num_ws].

    Vector i drives the convolution with `w_index` i, and the ToRGB layer with the same index; the last one drives
    ToRGB alone. (The reference code's table of layers is shifted by one against this.) With one step this is the mean
    absolute gradient times the rate of 0.01.
    """
    config, parent = twins.config, twins.parent
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn((config.select_batch, parent.z_dim), generator=rng)
    twins.let_train([])
    moved = torch.zeros(parent.num_ws, device=parent.device)
    for part in z.split(twins.chunk):
        label = None if not parent.config.c_dim else torch.randint(parent.config.c_dim, (len(part),), generator=rng)
        with torch.no_grad():
            start = parent.w_plus(parent.map(part, label=label)).tensor
        codes = start.clone().requires_grad_()
        for step in range(config.select_steps):
            picture = twins.draw(twins.net, codes, seed + step)
            loss = twins.target.distance(twins.embed(picture)).sum() / config.select_batch
            (slope,) = torch.autograd.grad(loss, codes)
            codes = (codes.detach() - SELECTION_LR * slope).requires_grad_()
        moved += (codes.detach() - start).abs().sum((0, 2))
    return moved / (config.select_batch * parent.w_dim)


def task_of(twins: Twins, target: Target) -> dict[str, Any]:
    """What a checkpoint has to agree with."""
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(twins.config).items()}
    if not twins.config.lambda_identity:
        del settings["lambda_identity"]  # checkpoints from before there was one are still good
    if twins.identity is not None:
        settings["identity"] = str(getattr(twins.identity, "name", type(twins.identity).__name__))
    return {
        "parent": twins.parent.digest,
        "precision": str(twins.parent.dtype).removeprefix("torch."),
        **target.record,
        **settings,
    }
